"""Euler's method against a loop of its own, a fine reference, and its own promises."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

# Steps of 0.4 / lambda_max; records at the start, within a step, at the end of one, and within a later one.
STEP = 0.4
RECORDS = (0.0, 2.3 * STEP, 6 * STEP, 8.9 * STEP)
CASES = {
    "relu": {},
    "tanh": {"activation": "tanh", "injection_activation": "identity"},
    "linear": {"activation": "identity"},
    "all leaves": {"trained": ("A", "W", "b"), "injection_activation": "tanh"},
    "centred": {"centred": True},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop_by_hand(
    problem: Callable, by_hand: Callable, gradient: Callable, euler: Callable, case: str
) -> None:
    """Every number of a trajectory, from the networks of a loop that knows only `net(X)` and `jax.grad`."""
    p = problem(seed=1, **CASES[case])
    dt = STEP * p.unit
    traj = p.flow(p.times(*RECORDS), euler(dt))

    nets = by_hand(p, [dt] * 8)
    lines = [(0, 0.0), (2, 0.3), (6, 0.0), (8, 0.9)]
    at = [_moved(nets[k], gradient(nets[k], p.X, p.y), part * dt) for k, part in lines]
    u = np.stack([net(p.X) for net in at])
    f = np.stack([net(p.X_test) for net in at])

    close = {"rtol": 0, "atol": 1e-10}
    assert_allclose(traj.u, u, **close)
    assert_allclose(traj.f, f, **close)
    assert_allclose(traj.loss, 0.5 * np.sum((u - p.y) ** 2, axis=1), **close)
    found, want = jax.tree.leaves(traj.net), jax.tree.leaves(at[-1])
    for a, b in zip(found, want, strict=True):
        assert_allclose(a, b, **close)
    assert_allclose(ink.predict(traj, p.X), traj.u[-1], **close)
    assert_allclose(ink.predict(traj, p.X_test), traj.f[-1], **close)

    assert traj.steps == 8
    assert traj.status in (ink.Status.CONVERGED, ink.Status.STALLED)
    assert_allclose(traj.times, p.times(*RECORDS), rtol=1e-15)
    _check_metrics(traj, p, at, u, f)
    if case == "centred":
        assert_allclose(traj.u[0], 0, atol=1e-12)
        assert_allclose(traj.u[-1], at[-1].net(p.X) - p.net.net(p.X), **close)


def _moved(net, slope, length):
    import equinox as eqx
    return eqx.apply_updates(net, jax.tree.map(lambda g: -length * g, slope))


def _check_metrics(traj, p, at, u, f) -> None:
    """The metrics by NumPy, from networks and outputs found elsewhere."""
    core = p.net.core
    close = {"rtol": 1e-9, "atol": 1e-10}
    m = traj.metrics
    names = {"train_error", "test_error", "test_loss", "contraction", "residual", "integrator_error"}
    names |= {"steps", "forward_evaluations", "adjoint_evaluations"}
    assert set(m) == names | {f"distance_{name}" for name in core.trained}
    assert_allclose(m["train_error"], np.mean(u * p.y < 0, axis=1), **close)
    assert_allclose(m["test_error"], np.mean(f * p.y_test < 0, axis=1), **close)
    assert_allclose(m["test_loss"], 0.5 * np.sum((f - p.y_test) ** 2, axis=1), **close)
    norms = [np.linalg.norm(net.core.gamma * net.core.A, 2) for net in at]
    assert_allclose(m["contraction"], norms, **close)
    for name in core.trained:
        distances = [np.linalg.norm(getattr(net.core, name) - getattr(core, name)) for net in at]
        assert_allclose(m[f"distance_{name}"], distances, **close)
    assert m["steps"].tolist() == [0, 2, 6, 8]
    assert (m["residual"] < 1e-10).all()
