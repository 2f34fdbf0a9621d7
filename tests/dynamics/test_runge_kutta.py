"""Heun's method, the classical one of order four, and adaptive ones: orders, errors, stability, refusals."""

import dataclasses
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.dynamics import FlowProblem, LinearizedFlow, pose

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

UNITS = (0.0, 1.03, 3.0, 8.1)
SMOOTH = dict(seed=1, activation="tanh", injection_activation="identity")
METHODS = {ink.Heun: 2, ink.RK4: 4}
LIMITS = {ink.Heun: 2.0, ink.RK4: 2.785293563405282}
REPORT = ink.Method(on_failure="report")


def fixed(method: type, dt: float) -> ink.Heun | ink.RK4:
    """Compiled once whatever the step."""
    return method(jnp.asarray(dt, float))


def adaptive(rtol: float, max_steps: int = 100_000) -> ink.Adaptive:
    """Compiled once whatever the numbers."""
    integrator = ink.Adaptive(diffrax.Dopri8(), jnp.asarray(rtol, float))
    return eqx.tree_at(lambda a: a.max_steps, integrator, jnp.asarray(max_steps))


def run(p, times: np.ndarray, integrator: ink.Heun | ink.RK4 | ink.Adaptive) -> ink.Trajectory:
    """With the failures in the status, so that one program serves all."""
    return p.flow(times, integrator, method=REPORT)


def posed_of(p) -> FlowProblem:
    """As the fixture has posed it: nothing new is compiled."""
    return pose(p.net, p.X, p.y, p.X_test, p.y_test)


@pytest.mark.parametrize("method", METHODS)
def test_order(problem: Callable, method: type) -> None:
    """On the data and on unseen data, between steps too: errors against Dopri8 fall as the order says."""
    p = problem(**SMOOTH)
    times, sizes = p.times(*UNITS), np.array([0.2, 0.1, 0.05])
    exact = run(p, times, adaptive(1e-11))
    found = [run(p, times, fixed(method, dt * p.unit)) for dt in sizes]
    for name in ("u", "f"):
        errors = [np.linalg.norm(getattr(traj, name) - getattr(exact, name)) for traj in found]
        order = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
        assert abs(order - METHODS[method]) < 0.2, (name, errors)
    assert found[-1].metrics["steps"].tolist() == [0, 20, 60, 162]


@pytest.mark.parametrize("method", METHODS)
def test_integrator_error(problem: Callable, method: type) -> None:
    """From targets a hair away, where the kernel cannot change, the estimate is the error itself."""
    p = problem(**SMOOTH)
    posed, u0 = posed_of(p), p.net(p.X)
    p = dataclasses.replace(p, y=u0 + 1e-5 * p.y)
    times, dt = p.times(*UNITS), 0.4 * p.unit
    traj = run(p, times, fixed(method, dt))
    twin = LinearizedFlow(posed.eigenvalues, posed.eigenvectors, u0, p.y)
    error = np.linalg.norm(traj.u - twin(times), axis=1)
    assert_allclose(traj.metrics["integrator_error"], error, rtol=1e-4, atol=1e-11)
    assert error[1] > 1e-9, "there is an error to speak of"


@pytest.mark.parametrize("method", METHODS)
def test_stability(problem: Callable, method: type) -> None:
    """Refused from the limit on, where the fastest mode does grow; just below it shrinks."""
    p = problem(**SMOOTH)
    stable = LIMITS[method] * p.unit
    message = (
        rf"^dt=.* is unstable: {method.__name__} needs dt < {LIMITS[method]:.4g}/lambda_max\(H\) = "
        rf"{stable:.4g}; pass dt={stable / 4:.2g}$"
    )
    for dt in (1.001 * stable, 10 * stable):
        with pytest.raises(ValueError, match=message):
            run(p, p.times(*UNITS), fixed(method, dt))
    posed = posed_of(p)
    growth = [method(1.0)._amplified(posed.eigenvalues[-1:] * c * stable)[0] for c in (0.99, 1.01)]
    assert abs(growth[0]) < 1 < abs(growth[1])
    refused = eqx.filter_jit(lambda dt: method(dt).check(posed).y)
    assert np.isfinite(refused(jnp.asarray(0.99 * stable))).all()
    for dt in (1.01 * stable, -0.1 * stable):
        with pytest.raises(RuntimeError, match=f"dt is unstable: {method.__name__} needs 0 < dt <"):
            refused(jnp.asarray(dt))


def test_adaptive_error_falls_with_the_tolerance(problem: Callable) -> None:
    """And stays below the sum of the estimates; a record changes nothing."""
    p = problem(**SMOOTH)
    times = p.times(*UNITS)
    exact = run(p, times, adaptive(1e-11))
    size, errors = np.linalg.norm(exact.u[0] - p.y), []
    for rtol in (1e-3, 1e-5, 1e-7):
        traj = run(p, times, adaptive(rtol))
        errors.append(np.linalg.norm(traj.u - exact.u, axis=1).max())
        assert errors[-1] < 10 * rtol * size
        assert errors[-1] < 2 * traj.metrics["integrator_error"][-1]
    assert (np.array(errors[1:]) < np.array(errors[:-1]) / 20).all(), errors
    other = run(p, p.times(0.5, 0.7, 4.0, UNITS[-1]), adaptive(1e-7))
    assert_array_equal(other.u[-1], traj.u[-1])
    assert other.steps == traj.steps


def test_adaptive_failures_are_told(problem: Callable) -> None:
    """Too few steps, counted with the rejected ones."""
    p = problem(**SMOOTH)
    times = p.times(*UNITS)
    traj = run(p, times, adaptive(1e-7, max_steps=3))
    assert traj.status == ink.Status.NOT_FOLLOWED
    assert np.isnan(traj.loss[-1]) and np.isfinite(traj.loss[0])
    with pytest.raises(ValueError, match="^rtol=1e-13 is below what the solves resolve; pass 1e-12 or more"):
        run(p, times, adaptive(1e-13))


@pytest.mark.slow
def test_without_forming_the_kernel(problem: Callable) -> None:
    """What is known of `H(0)` decides on no step: of a space as large as it all is the same."""
    p = problem(**SMOOTH)
    times, method = p.times(*UNITS), ink.Heun(jnp.asarray(0.4 * p.unit))
    thin = dataclasses.replace(method, krylov=8)
    want, found = (run(p, times, each) for each in (method, thin))
    assert_allclose(found.u, want.u, rtol=1e-12)
    assert_allclose(found.metrics["integrator_error"], want.metrics["integrator_error"], rtol=1e-6)
    assert not thin.check(pose(p.net, p.X, p.y, krylov_size=thin.krylov_size)).whole


@pytest.mark.parametrize(
    "integrator", [ink.Heun(0.1, krylov=5), ink.RK4(0.1, krylov=5), ink.Adaptive(diffrax.Dopri8(), krylov=5)]
)
def test_krylov_is_handed_on(integrator: ink.Heun | ink.RK4 | ink.Adaptive) -> None:
    assert integrator.krylov_size == 5


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_solve_that_fails(problem: Callable, method: type) -> None:
    """Training makes the cell less contractive, until solves of this many steps do not converge."""
    p = problem(seed=1)
    few = ink.Method(on_failure="report", solver=ink.Picard(max_steps=40))
    traj = p.flow(p.times(0.0, 1.0, 3.0, 8.0), method(0.2 * p.unit), method=few)
    assert traj.status == ink.Status.MAX_STEPS
    assert np.isfinite(traj.loss).tolist() == [True, True, True, False]
    assert np.isfinite(traj.net.A).all()


@pytest.mark.slow
def test_vmap_over_seeds(problem: Callable) -> None:
    """A stack of networks flows as each alone does."""
    problems = [problem(**(SMOOTH | {"seed": seed})) for seed in (1, 2)]
    p = problems[0]
    times = p.times(*UNITS)
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(q.net for q in problems))
    for integrator in (ink.RK4(0.1 * p.unit), ink.Adaptive(diffrax.Tsit5(), 1e-6)):

        def flow(net: ink.AbstractNetwork, integrator=integrator) -> jax.Array:
            return ink.gradient_flow(net, p.X, p.y, times, integrator).u

        together = jax.jit(jax.vmap(flow))(stack)
        for k, q in enumerate(problems):
            assert_allclose(together[k], flow(q.net), atol=1e-8)


@pytest.mark.slow
def test_float32(problem: Callable) -> None:
    """The dtype of the network is that of the run, and a step ends where its number says."""
    with jax.enable_x64(False):
        p = problem(**SMOOTH)
        times = p.times(0.0, 2.0)
        one, two = (p.flow(times, i) for i in (ink.Heun(0.02 * p.unit), adaptive(1e-4)))
        assert one.u.dtype == two.u.dtype == jnp.float32
        assert one.steps == 100
        assert_allclose(one.u, two.u, atol=2e-3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ink.Heun(0.0), ValueError, "dt must be positive"),
        (lambda: ink.RK4(-1.0), ValueError, "dt must be positive"),
        (lambda: ink.RK4("a"), TypeError, "dt must be a number"),
        (lambda: ink.Heun(0.1, krylov=0), ValueError, "krylov must be a positive integer"),
        (lambda: ink.Adaptive(diffrax.Dopri5(), krylov=0), ValueError, "krylov must be a positive integer"),
        (lambda: ink.Adaptive(diffrax.Dopri5(), 0.0), ValueError, "rtol must be positive"),
        (lambda: ink.Adaptive(diffrax.Dopri5(), max_steps=0), ValueError, "max_steps must be a positive"),
        (
            lambda: ink.Adaptive(diffrax.Kvaerno5()),
            TypeError,
            "solver must be an explicit adaptive.*Exponent",
        ),
        (lambda: ink.Adaptive(diffrax.Euler()), TypeError, "solver must be an explicit adaptive solver such"),
        (lambda: ink.Adaptive("Dopri8"), TypeError, "solver must be an explicit adaptive solver such as"),
    ],
)
def test_door(make: Callable, error: type, message: str, unchecked: None) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        make()
    assert "\n" not in str(caught.value)
