"""Euler's method against a loop of its own, a fine reference, and its own promises."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.dynamics._euler import _compensated_sum
from implicit_ntk.jacobian import linearize

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

CELLS = {
    "relu": {},
    "tanh": {"activation": "tanh", "injection_activation": "identity"},
    "linear": {"activation": "identity"},
    "all leaves": {"trained": ("A", "W", "b"), "injection_activation": "tanh"},
    "centred": {"centred": True},
}

# Steps of 0.4 / lambda_max; records at the start, within a step, at the end of one, and within another.
STEP = 0.4
RECORDS = (0.0, 2.3 * STEP, 6 * STEP, 8.9 * STEP)
PLACES = [(0, 0.0), (2, 0.3), (6, 0.0), (8, 0.9)]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("cell", CELLS)
def test_equals_a_loop_by_hand(problem: Callable, by_hand: Callable, euler: Callable, cell: str) -> None:
    """Every number of a trajectory, from networks that a loop of `jax.grad` and `net(X)` arrives at."""
    p = problem(seed=1, **CELLS[cell])
    dt = STEP * p.unit
    traj = p.flow(p.times(*RECORDS), euler(dt))

    nets = by_hand(p, 9 * [dt])
    at = [_between(nets[k], nets[k + 1], part) for k, part in PLACES]
    everything = jnp.concatenate([p.X, p.X_test])
    outputs = np.stack([net(everything) for net in at])
    u, f = outputs[:, : len(p.y)], outputs[:, len(p.y) :]

    assert_allclose(traj.times, p.times(*RECORDS), rtol=1e-15)
    assert_allclose(traj.u, u, **CLOSE)
    assert_allclose(traj.f, f, **CLOSE)
    for found, want in zip(jax.tree.leaves(traj.net), jax.tree.leaves(at[-1]), strict=True):
        assert_allclose(found, want, **CLOSE)
    assert_allclose(ink.predict(traj, everything), outputs[-1], **CLOSE)
    _check_measures(traj, p, at, u, f)


def _between(a: ink.AbstractNetwork, b: ink.AbstractNetwork, part: float) -> ink.AbstractNetwork:
    """The straight line in the parameters."""
    return jax.tree.map(lambda a, b: a + part * (b - a), a, b)


def _check_measures(traj: ink.Trajectory, p, at: list, u: np.ndarray, f: np.ndarray) -> None:
    core, measured, y, y_test = p.net.core, traj.metrics, np.asarray(p.y), np.asarray(p.y_test)
    want = {
        "train_error": np.mean(u * y < 0, axis=1),
        "test_error": np.mean(f * y_test < 0, axis=1),
        "test_loss": 0.5 * np.sum((f - y_test) ** 2, axis=1),
        "contraction": [np.linalg.norm(net.core.gamma * net.core.A, 2) for net in at],
    }
    for name in core.trained:
        start = getattr(core, name)
        want[f"distance_{name}"] = [np.linalg.norm(getattr(net.core, name) - start) for net in at]
    if isinstance(p.net, ink.Centred):
        assert_allclose(traj.u[0], 0, atol=1e-12)
        want["train_error"][0], want["test_error"][0] = measured["train_error"][0], measured["test_error"][0]
    for name, values in want.items():
        assert_allclose(measured[name], values, **CLOSE)
    assert_allclose(traj.loss, 0.5 * np.sum((u - y) ** 2, axis=1), **CLOSE)
    assert measured["steps"].tolist() == [0, 2, 6, 8]
    assert (measured["residual"] < 1e-10).all()
    assert traj.steps == 8
    assert traj.status in (ink.Status.CONVERGED, ink.Status.STALLED)
    others = {"residual", "integrator_error", "steps", "forward_evaluations", "adjoint_evaluations"}
    assert set(measured) == set(want) | others


def test_integrator_error(problem: Callable, euler: Callable) -> None:
    """`||u_Euler - u||` where both are known: the kernel frozen, the same steps and part of one."""
    p = problem(seed=1)
    dt = STEP * p.unit
    traj = p.flow(p.times(*RECORDS), euler(dt))
    H, start = np.asarray(ink.ntk(p.net, p.X)), np.asarray(p.net(p.X) - p.y)
    one = np.eye(len(H)) - dt * H
    errors = []
    for k, part in PLACES:
        numerical = (np.eye(len(H)) - part * dt * H) @ np.linalg.matrix_power(one, k) @ start
        errors.append(np.linalg.norm(numerical - scipy.linalg.expm(-H * (k + part) * dt) @ start))
    assert_allclose(traj.metrics["integrator_error"], errors, rtol=1e-9, atol=1e-12)


def test_counts(problem: Callable, by_hand: Callable, euler: Callable) -> None:
    """Evaluations are those of the solves of the steps, from the motion continued and from the last p."""
    p = problem(seed=1)
    dt = STEP * p.unit
    traj = p.flow(p.times(*RECORDS), euler(dt))
    solve = eqx.filter_jit(linearize)
    method = ink.Method()
    nets = by_hand(p, 8 * [dt])
    at = solve(nets[0], p.X, method, "report")
    z = before = at.equilibrium.z
    forward, adjoint = [at.equilibrium.steps.max()], [at.adjoint.steps.max()]
    for net in nets[1:]:
        at = solve(net, p.X, method, "report", 2 * z - before, at.adjoint.z)
        before, z = z, at.equilibrium.z
        forward.append(at.equilibrium.steps.max())
        adjoint.append(at.adjoint.steps.max())
    for counts, name in ((forward, "forward_evaluations"), (adjoint, "adjoint_evaluations")):
        found = traj.metrics[name]
        assert found[0] == counts[0]
        # a sum in another order can cost or save an evaluation now and then
        assert_allclose(found, np.cumsum(counts)[[0, 2, 6, 8]], atol=2, rtol=0)
        assert getattr(traj, name) == found[-1]


def test_an_output_of_zero_is_half_wrong(problem: Callable, euler: Callable) -> None:
    """A read-out of zeros: no kernel, no motion, and signs that are neither right nor wrong."""
    p = problem(seed=1)
    nothing = eqx.tree_at(lambda net: net.b, p.net, jnp.zeros_like(p.net.b))
    times, integrator = p.times(*RECORDS), euler(STEP * p.unit)
    traj = ink.gradient_flow(nothing, p.X, p.y, times, integrator, p.X_test, p.y_test)
    for name in ("train_error", "test_error"):
        assert traj.metrics[name].tolist() == 4 * [0.5]
    assert traj.metrics["distance_A"].tolist() == 4 * [0.0]
    assert_allclose(traj.loss, len(p.y) / 2)


@pytest.mark.parametrize(("cell", "seed"), [("tanh", 1), ("tanh", 2), ("relu", 1), ("relu", 2)])
def test_first_order(problem: Callable, euler: Callable, gradient: Callable, cell: str, seed: int) -> None:
    """Errors against an adaptive Runge-Kutta of order 5 halve with the step."""
    p = problem(seed=seed, **CELLS[cell])
    times = p.times(0.0, 1.0, 3.0, 8.0)
    want = _reference(p, times, gradient, 1e-9 if cell == "tanh" else 1e-7)
    sizes = np.array([0.2, 0.1, 0.05, 0.025])
    errors = [np.linalg.norm(p.flow(times, euler(dt * p.unit)).u - want) for dt in sizes]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert_allclose(orders, 1, atol=0.15 if cell == "tanh" else 0.5)
    assert errors[-1] < 0.02 * np.linalg.norm(want[0] - p.y)


def _reference(p, times: jax.Array, gradient: Callable, rtol: float) -> np.ndarray:
    """`u` at the times, by diffrax."""
    params, frozen = eqx.partition(p.net, ink.trainable(p.net))

    def slope(t, params, args):
        return jax.tree.map(jnp.negative, gradient(eqx.combine(params, frozen), p.X, p.y))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Tsit5(),
        0.0,
        times[-1],
        0.01 * p.unit,
        params,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        max_steps=10_000,
    )
    nets = [eqx.combine(jax.tree.map(lambda a, k=k: a[k], solution.ys), frozen) for k in range(len(times))]
    return np.stack([net(p.X) for net in nets])
