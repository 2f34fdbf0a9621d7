"""What the theory says of a run: the loss falls, at the rate of the kernel, ever closer to its twin."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_ntk as ink

pytestmark = pytest.mark.usefixtures("quick_compilation")

UNITS = tuple(np.linspace(0.0, 20.0, 11))


@pytest.mark.parametrize("step", [0.2, 1.0])
def test_the_loss_falls(problem: Callable, step: float) -> None:
    p = problem(seed=1, m=200)
    loss = p.flow(p.times(*UNITS), ink.Euler(jnp.asarray(step * p.unit))).loss
    assert (np.diff(loss) < 0).all()


def test_rate(x64: None, problem: Callable, by_hand: Callable) -> None:
    """GG22, Theorem 3.1: `||r(t)||^2 <= e^{-lam0 t} ||r(0)||^2` while `lambda_min(H(t)) >= lam0/2`."""
    p = problem(seed=2, n=6, m=400)
    dt, steps = 0.5 * p.unit, 40
    nets = by_hand(p, steps * [dt])[::10]
    lam = [float(ink.spectrum(ink.ntk(net, p.X)).lambda_min) for net in nets]
    assert min(lam) >= lam[0] / 2
    times = dt * np.arange(0, steps + 1, 10)
    loss = np.asarray(p.flow(times, ink.Euler(jnp.asarray(dt))).loss)
    assert (loss <= np.exp(-lam[0] * times) * loss[0] * (1 + 1e-12)).all()
    # and, the kernel hardly moving, not faster than its largest eigenvalue allows
    assert (loss >= np.exp(-3 * times / p.unit) * loss[0]).all()


def test_wide_networks_follow_their_twin(problem: Callable) -> None:
    """`sup_t ||u - uhat|| / ||y - u(0)||` falls with the width, about as `1/sqrt(m)`."""

    def deviation(m: int, seed: int) -> float:
        p = problem(seed=seed, m=m, q=1)
        times = p.times(1.0, 2.0, 5.0, 10.0, 20.0)
        traj = ink.gradient_flow(p.net, p.X, p.y, times, ink.Euler(jnp.asarray(0.4 * p.unit)))
        u0 = p.net(p.X)
        twin = ink.linearized_flow(ink.ntk(p.net, p.X), u0, p.y)(times)
        return np.linalg.norm(traj.u - twin, axis=1).max() / np.linalg.norm(p.y - u0)

    narrow, wide = (np.median([deviation(m, seed) for seed in (1, 2, 3)]) for m in (50, 800))
    assert wide < narrow / 2
    assert wide < 0.2
