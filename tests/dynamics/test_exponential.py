"""The exponential integrator: against the closed form, an adaptive high-order reference, and the limit."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import solve_ivp

import implicit_ntk as ink
from implicit_ntk.dynamics import pose, reported, segment, start

pytestmark = pytest.mark.usefixtures("quick_compilation")

UNITS = (0.0, 0.3, 3.0, 30.0, 300.0)
REPORT = ink.Method(on_failure="report")
SMOOTH = dict(seed=3, activation="tanh", injection_activation="identity")


def rms(x: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.asarray(x) ** 2)))


def exponential(rtol: float, order: int = 2, max_steps: int = 10_000) -> ink.Exponential:
    """Compiled once whatever the numbers."""
    values = jnp.asarray(rtol), jnp.asarray(max_steps)
    return eqx.tree_at(lambda e: (e.rtol, e.max_steps), ink.Exponential(order=order), values)


def run(p, times: np.ndarray, integrator: ink.Exponential) -> ink.Trajectory:
    """With the failures in the status, so that one program serves all."""
    return p.flow(times, integrator, method=REPORT)


def reference(p, times: np.ndarray, gradient: Callable) -> tuple[np.ndarray, np.ndarray]:
    """`u` and `f` by an adaptive Runge-Kutta method of order eight, at a tolerance of 1e-10."""
    params, frozen = eqx.partition(p.net, ink.trainable(p.net))
    start, unravel = jax.flatten_util.ravel_pytree(params)

    def velocity(t: float, flat: np.ndarray) -> np.ndarray:
        slope = gradient(eqx.combine(unravel(jnp.asarray(flat)), frozen), p.X, p.y)
        return -np.asarray(jax.flatten_util.ravel_pytree(slope)[0])

    span = times[0], times[-1]
    found = solve_ivp(velocity, span, start, "DOP853", times, rtol=1e-10, atol=1e-11)
    nets = [eqx.combine(unravel(jnp.asarray(flat)), frozen) for flat in found.y.T]
    return np.stack([net(p.X) for net in nets]), np.stack([net(p.X_test) for net in nets])


def test_error_falls_with_the_tolerance(problem: Callable, gradient: Callable, x64: None) -> None:
    """At all times, unseen data included: within the tolerance, below the estimate, of order two."""
    p = problem(**SMOOTH)
    times = p.times(*UNITS)
    u, f = reference(p, times, gradient)
    scale, errors, steps = rms(p.net(p.X) - p.y), [], []
    for rtol in (1e-1, 1e-2, 1e-3, 1e-4):
        traj = run(p, times, exponential(rtol))
        errors.append(max(rms(traj.u - u), rms(traj.f - f)))
        steps.append(int(traj.steps))
        assert errors[-1] < rtol * scale
        off = np.linalg.norm(traj.u - u, axis=1)
        assert (off <= traj.metrics["integrator_error"] + 1e-9).all()
    order = -np.polyfit(np.log(steps[1:]), np.log(errors[1:]), 1)[0]
    assert 1.7 < order < 2.5, (order, errors, steps)


@pytest.mark.slow
def test_first_order(problem: Callable, gradient: Callable, x64: None) -> None:
    """Held to the same estimate it is less accurate than the second order, but within a few tolerances."""
    p = problem(**SMOOTH)
    times = p.times(*UNITS)
    u, _ = reference(p, times, gradient)
    one, two = (rms(run(p, times, exponential(1e-2, order=o)).u - u) for o in (1, 2))
    assert 3 * two < one < 0.1 * rms(p.y)


@pytest.mark.slow
def test_constant_kernel(problem: Callable, x64: None) -> None:
    """A network that trains its read-out alone is linear: one step a mode's time, and the twin itself."""
    p = problem(trained=("b",), **SMOOTH)
    times = np.append(p.times(*UNITS[:-1]), np.inf)
    traj = run(p, times, exponential(1e-6))
    twin = ink.linearized_flow(ink.ntk(p.net, p.X), p.net(p.X), p.y)
    assert_allclose(traj.u, twin(times), atol=1e-9)
    assert_allclose(traj.f, twin.at(times, ink.ntk(p.net, p.X_test, p.X), p.net(p.X_test)), atol=1e-8)


@pytest.mark.parametrize(
    "options", [SMOOTH, pytest.param(dict(seed=1, m=100), marks=pytest.mark.slow)], ids=["tanh", "relu"]
)
def test_to_the_end(problem: Callable, options: dict, x64: None) -> None:
    """Interpolation at t = inf, and the limit on unseen data, in a few dozen steps."""
    p = problem(**options)
    times = np.append(p.times(*UNITS[:-1]), np.inf)
    fine, coarse = (run(p, times, exponential(rtol)) for rtol in (1e-3, 1e-2))
    for traj in (fine, coarse):
        assert traj.status <= ink.Status.STALLED
        assert traj.loss[-1] < 1e-16
    assert coarse.steps < 40
    assert rms(coarse.f[-1] - fine.f[-1]) < 1e-2 * rms(p.y)
    # What was recorded on the way has changed nothing.
    once = run(p, np.append(p.times(0.0, 1.0, 2.0, 9.0), np.inf), exponential(1e-2))
    assert_array_equal(once.u[-1], coarse.u[-1])
    assert once.steps == coarse.steps


def test_labels_that_contradict_each_other(problem: Callable, x64: None) -> None:
    """Of two samples that are one their mean is learnt, and the run stands still; it has no known limit."""
    p = problem(**SMOOTH)
    X, y = p.X.at[1].set(p.X[0]), p.y.at[:2].set(jnp.asarray([1.0, -1.0]))
    p = dataclasses.replace(p, X=X, y=y)
    far = p.times(*UNITS[:-1], 1e16)
    traj = run(p, far, exponential(1e-2, max_steps=200))
    assert traj.status <= ink.Status.STALLED
    assert_allclose(traj.u[-1], y.at[:2].set(0), atol=2e-2)
    with pytest.raises(ValueError, match="^times ends in inf, but lambda_min is not resolved"):
        run(p, np.append(far[:-1], np.inf), exponential(1e-2))


def test_nothing_to_learn(problem: Callable, x64: None) -> None:
    """No residual, no step; no kernel, no motion."""
    p = problem(**SMOOTH)
    learnt = dataclasses.replace(p, y=p.net(p.X))
    traj = run(learnt, p.times(*UNITS), exponential(1e-2))
    assert traj.steps == 0 and traj.loss[-1] < 1e-20
    blank = dataclasses.replace(p, X=0 * p.X)
    traj = run(blank, p.times(*UNITS), exponential(1e-2))
    assert traj.status <= ink.Status.STALLED
    assert_array_equal(traj.u, 0)
    assert_array_equal(traj.net.A, p.net.A)


def test_failure_is_told(problem: Callable, x64: None) -> None:
    """A run of `max_steps` steps goes through, one that needs more does not."""
    p = problem(**SMOOTH)
    times = p.times(*UNITS)
    needed = run(p, times, exponential(1e-2)).steps
    assert run(p, times, exponential(1e-2, max_steps=int(needed))).status <= ink.Status.STALLED
    traj = run(p, times, exponential(1e-2, max_steps=int(needed) - 1))
    assert traj.status == ink.Status.NOT_FOLLOWED
    assert np.isfinite(traj.loss[:-1]).all() and np.isnan(traj.loss[-1])
    with pytest.raises(ink.ConvergenceError, match="^after t=.*cannot go on: .*max_steps"):
        reported(traj, ink.Method())
    late = run(p, p.times(260.0, 270.0, 280.0, 290.0, 300.0), exponential(1e-2, max_steps=1))
    with pytest.raises(ink.ConvergenceError, match="^before t=.*cannot go on"):
        reported(late, ink.Method())


@pytest.mark.slow
def test_outputs_and_midpoints_in_float32(problem: Callable) -> None:
    """Two outputs; without unseen data the midpoints of the samples stand in."""
    p = problem(seed=4, m=60, outputs=(2,))
    times = p.times(0.0, 1e4)
    with jax.enable_x64(True):
        rtol = jnp.asarray(1e-2)  # of another dtype than the network
        traj = ink.gradient_flow(p.net, p.X, p.y, times, ink.Exponential(rtol))
    assert traj.u.shape == (2, 8, 2) and traj.u.dtype == jnp.float32
    assert traj.loss[-1] < 1e-6


def test_products_of_the_steps_are_in_full_precision(problem: Callable, products: Callable) -> None:
    """Of the network's the method says how precise they are; eigenvectors and Grams want all there is."""
    p = problem(seed=1)
    posed = pose(p.net, p.X, p.y, method=ink.Method(precision="default"))
    state = start(posed, ink.Exponential())
    program = jax.make_jaxpr(lambda s: segment(posed, ink.Exponential(), s, jnp.float32(1.0))[0])(state)
    square = [eqn for eqn in products(program) if eqn.invars[0].aval.shape == (8, 8)]
    assert len(square) > 5
    assert {eqn.params["precision"] for eqn in square} == {(jax.lax.Precision.HIGHEST,) * 2}


def test_what_is_refused_of_a_problem(problem: Callable) -> None:
    p = problem(seed=1)
    with pytest.raises(ValueError, match="^rtol=1e-06 is below what the solves resolve; pass 1e-05"):
        run(p, p.times(1.0), ink.Exponential(1e-6))
    with pytest.raises(ValueError, match="^times must be finite for this integrator"):
        run(p, [1.0, np.inf], ink.Euler(0.1))
    loose = ink.Method(adjoint=ink.ImplicitAdjoint(ink.Neumann(rtol=1e-2)))
    with pytest.raises(ValueError, match="^rtol=0.001 is below what the solves resolve; pass 0.1 or more"):
        p.flow(p.times(1.0), ink.Exponential(1e-3), method=loose)
    with pytest.raises(ValueError, match="^problem knows a Krylov space only; pose it with krylov_size=None"):
        ink.Exponential().check(pose(p.net, p.X, p.y, krylov_size=5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(rtol=0.0), ValueError, "rtol must be positive"),
        (dict(rtol="small"), TypeError, "rtol must be a number"),
        (dict(order=3), ValueError, "order must be 1 or 2, got 3"),
        (dict(max_steps=0), ValueError, "max_steps must be a positive integer"),
    ],
)
def test_door(arguments: dict, error: type, message: str, unchecked: None) -> None:
    with pytest.raises(error, match=f"^{message}"):
        ink.Exponential(**arguments)
