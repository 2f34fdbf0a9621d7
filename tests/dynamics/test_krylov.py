"""The exponential integrator from products with the kernel: against the one that decomposes it."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.dynamics import (
    AbstractIntegrator,
    FlowProblem,
    krylov_linearized_flow,
    pose,
    segment,
    start,
)
from implicit_ntk.dynamics.exponential._position import Position
from implicit_ntk.dynamics.exponential._splitting import AbstractSplitting, DenseSplitting
from implicit_ntk.dynamics.exponential._step import jacobian_of, linear_leaves
from implicit_ntk.dynamics.krylov._krylov import KrylovSplitting
from implicit_ntk.dynamics.krylov._modes import KrylovModes

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMOOTH = dict(seed=3, activation="tanh", injection_activation="identity")
UNITS = (0.0, 0.3, 3.0, 30.0, 300.0)


def rms(x: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.asarray(x) ** 2)))


def krylov(rtol: float, size: int = 5, order: int = 2) -> ink.KrylovExponential:
    """Compiled once whatever the tolerance."""
    return ink.KrylovExponential(jnp.asarray(rtol), krylov=size, order=order)


@eqx.filter_jit
def space_of(H: jax.Array, r: jax.Array, most: int, way: jax.Array, times: jax.Array) -> tuple:
    """The modes of a step of this way, and at each time what they make of `e^{-H t} r`, and their bound."""
    modes = KrylovModes.reaching(lambda v: H @ v, r, most, jnp.asarray(1e-3), way)
    made = jax.vmap(lambda t: modes.eigenvectors @ (modes.decay(t) * modes.coefficients))(times)
    bounds = jax.vmap(modes.unresolved)(times)
    return jnp.sum(modes.eigenvalues > 0), modes.longest, modes.time_to(way), made, bounds


def spectral(condition: float, rng: np.random.Generator) -> tuple[jax.Array, jax.Array, Callable]:
    """A kernel of 30 rows, a residual, and `e^{-H t} r` at any time."""
    Q, lam = np.linalg.qr(rng.normal(size=(30, 30)))[0], np.geomspace(1 / condition, 1, 30)
    r = rng.normal(size=30)
    return jnp.asarray(Q * lam @ Q.T), jnp.asarray(r), lambda t: Q @ (np.exp(-lam * t) * (Q.T @ r))


@pytest.mark.parametrize("vectors", [4, 10])
def test_what_leaves_the_space_bounds_the_error(vectors: int, rng: np.random.Generator, x64: None) -> None:
    """Never less than the error, and not many times that: late, where all has decayed, it is only a bound."""
    for condition in (1e1, 1e3, 1e6):
        H, r, exact = spectral(condition, rng)
        times = jnp.asarray([1.0, 3.0, 10.0, 30.0])
        count, longest, _, made, bounds = space_of(H, r, vectors, jnp.asarray(jnp.inf), times)
        errors = np.array([rms(w - exact(t)) for w, t in zip(made, times, strict=True)])
        assert count == vectors
        assert (errors <= bounds + 1e-14).all()
        assert (bounds <= 4 * errors + 1e-14)[times < min(condition, longest)].all()
        _, _, _, (made,), (bound,) = space_of(H, r, vectors, jnp.asarray(jnp.inf), longest[None])
        assert_allclose(bound, 1e-3, rtol=1e-6)
        assert rms(made - exact(longest)) < 1e-3


def test_space_as_large_as_the_step(rng: np.random.Generator, x64: None) -> None:
    """It grows until the step's way is within its reach, and no further."""
    H, r, exact = spectral(1e4, rng)
    counts = []
    for t in (0.1, 3.0, 30.0):
        moved = np.sqrt((r - exact(t)) @ np.linalg.solve(H, r - exact(t)))
        count, longest, reached, _, _ = space_of(H, r, 20, jnp.asarray(moved), jnp.asarray([t]))
        assert_allclose(reached, t, rtol=1e-2)
        counts.append(int(count))
    assert 1 < counts[0] < counts[1] < counts[2] < 20
    # With a vector less the step would have been shorter.
    _, longest, reached, _, _ = space_of(H, r, counts[-1] - 1, jnp.asarray(moved), jnp.asarray([t]))
    assert reached == longest < 0.99 * t


@eqx.filter_jit
def one_step(p: FlowProblem, splitting: AbstractSplitting, way: jax.Array) -> tuple[jax.Array, ...]:
    """From t = 0: what the step adds to the linearised flow, in the parameters, half way and at its end."""
    start, exact = Position(p.initial_leaves, p.start, p.initial_residual), jnp.zeros(())
    J = jacobian_of(p, start.leaves, start.states)
    modes = splitting.first(p, start)
    h = modes.time_to(way)
    leaves = linear_leaves(J, start.leaves, modes, h)
    states = p.solve(leaves, p.start.equilibrium.z, p.start.adjoint.z, exact, exact)
    ahead = Position(leaves, states, p.residual(leaves, states))
    J1 = jacobian_of(p, leaves, states)
    step = splitting.step(J, J1, start, modes, ahead, h)
    linear = (linear_leaves(J, start.leaves, modes, t) for t in (h / 2, h))
    second = (step.displaced(J, J1, t) for t in (h / 2, h))
    return h, *(a["A"] - b["A"] for a, b in zip(second, linear, strict=True))


def test_a_step_is_that_of_all_modes(problem: Callable, x64: None) -> None:
    """Seven vectors for sixteen outputs give the correction of second order to a few thousandths."""
    p = problem(outputs=(2,), **SMOOTH)
    thin, whole = (pose(p.net, p.X, p.y, p.X_test, p.y_test, krylov_size=size) for size in (7, None))
    for way in (0.3, 2.0):
        h, *corrections = one_step(thin, KrylovSplitting(1e-3), jnp.asarray(way))
        h_whole, *expected = one_step(whole, DenseSplitting(), jnp.asarray(way))
        assert_allclose(h, h_whole, rtol=1e-4)
        for made, want in zip(corrections, expected, strict=True):
            assert jnp.linalg.norm(made - want) < 3e-3 * jnp.linalg.norm(want)


def test_against_all_modes(problem: Callable, x64: None) -> None:
    """Five vectors for eight samples: the run of `Exponential` within the tolerance, at all times."""
    p = problem(**SMOOTH)
    times = p.times(*UNITS)
    exact = p.flow(times, ink.Exponential(1e-4))
    for rtol in (1e-2, 1e-3):
        traj = p.flow(times, krylov(rtol))
        assert traj.status <= ink.Status.STALLED
        off = rms(traj.u - exact.u), rms(traj.f - exact.f)
        assert max(off) < 0.5 * rtol * rms(p.net(p.X) - p.y)
        errors = np.linalg.norm(traj.u - exact.u, axis=1)
        assert (errors <= traj.metrics["integrator_error"] + 1e-9).all()


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_constant_kernel(problem: Callable, order: int, x64: None) -> None:
    """A network that trains its read-out alone is linear: its twin in closed form, to the end."""
    p = problem(trained=("b",), **SMOOTH)
    times = p.times(*UNITS, 1e5)
    twin = ink.linearized_flow(ink.ntk(p.net, p.X), p.net(p.X), p.y)
    fhat = twin.at(times, ink.ntk(p.net, p.X_test, p.X), p.net(p.X_test))
    scale = rms(p.net(p.X) - p.y)
    for rtol in (1e-2, 1e-4):
        traj = p.flow(times, krylov(rtol, order=order))
        assert rms(traj.u - twin(times)) < rtol * scale and rms(traj.f - fhat) < rtol * scale


@pytest.mark.slow
def test_outputs_in_float32_without_unseen_data(problem: Callable) -> None:
    """Two outputs a sample; the flow of the whole kernel, to what the tolerance promises."""
    p = problem(seed=4, m=60, outputs=(2,))
    times = p.times(0.0, 3.0, 100.0)
    traj, exact = (
        ink.gradient_flow(p.net, p.X, p.y, times, integrator)
        for integrator in (ink.KrylovExponential(1e-2, krylov=12), ink.Exponential(1e-2))
    )
    assert traj.u.shape == (3, 8, 2) and traj.u.dtype == jnp.float32
    assert rms(traj.u - exact.u) < 1e-2 * rms(p.y)
    assert rms(exact.u[-1] - exact.u[0]) > 0.5


def arrays(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """The shapes of all that a program computes, in loops and calls too."""
    for eqn in getattr(jaxpr, "eqns", None) or jaxpr.jaxpr.eqns:
        yield from (v.aval.shape for v in eqn.outvars if hasattr(v.aval, "shape"))
        for leaf in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"):
                yield from arrays(leaf)


@pytest.mark.parametrize(
    "integrator", [ink.KrylovExponential(1e-2, krylov=5), ink.Euler(0.01, krylov=5)], ids=["exp", "euler"]
)
def test_no_array_of_the_kernels_size(problem: Callable, integrator: AbstractIntegrator) -> None:
    """Nothing has two axes of the samples: neither where the problem is posed nor on the way."""
    p = problem(seed=1, n=37)

    def run(X: jax.Array, y: jax.Array) -> jax.Array:
        posed = pose(p.net, X, y, krylov_size=integrator.krylov_size)
        return segment(posed, integrator, start(posed, integrator), jnp.float32(1.0))[1].u

    shapes = set(arrays(jax.make_jaxpr(run)(p.X, p.y)))
    assert any(shape.count(37) == 1 for shape in shapes)
    assert [shape for shape in shapes if shape.count(37) > 1] == []


@pytest.mark.slow
def test_euler_from_a_krylov_space(problem: Callable, euler: Callable, x64: None) -> None:
    """The same run, the same largest step, and the same error to the digits that matter."""
    p = problem(seed=1)
    times = p.times(0.0, 5.0, 20.0)
    thin = eqx.tree_at(lambda e: e.dt, ink.Euler(1.0, solver_share=0.0, krylov=6), jnp.asarray(0.2 * p.unit))
    traj, exact = p.flow(times, thin), p.flow(times, euler(0.2 * p.unit))
    assert_allclose(traj.u, exact.u, atol=1e-10)
    assert_allclose(traj.metrics["integrator_error"], exact.metrics["integrator_error"], rtol=1e-2, atol=1e-9)


def test_twin(problem: Callable, x64: None) -> None:
    """In closed form, from all modes; its bound holds, and is near while it is small."""
    p = problem(seed=1)
    times = p.times(0.0, 1.0, 5.0, 20.0, 400.0)
    thin = krylov_linearized_flow(p.net, p.X, p.y, size=4)
    twin = ink.linearized_flow(ink.ntk(p.net, p.X), p.net(p.X), p.y)
    off = np.linalg.norm(thin(times) - twin(times), axis=1)
    assert (off <= thin.error(times) + 1e-10).all()
    assert (thin.error(times) < 4 * off + 1e-10)[:3].all() and off[2] > 1e-6
    moved = ink.ntk(p.net, p.X) @ thin.weights(times[2])
    assert_allclose(p.net(p.X) + moved, thin(times[2]), atol=2 * float(thin.error(times[2])))
    assert_allclose(thin(times[1]), thin(times)[1], rtol=1e-12)
    with pytest.raises(ValueError, match="^t must be >= 0 and finite"):
        thin(np.inf)


def test_what_is_refused_of_a_problem(problem: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(seed=1)
    with pytest.raises(ValueError, match="^times ends in inf, but of 8 eigenvalues 5 are known"):
        p.flow(np.append(p.times(1.0), np.inf), krylov(1e-2))
    with pytest.raises(ValueError, match="is unstable: Euler needs dt < 2/lambda_max"):
        p.flow(p.times(1.0), ink.Euler(2.02 * p.unit, krylov=5))
    with pytest.raises(ValueError, match="^problem knows no Krylov space; pose it with krylov_size"):
        krylov(1e-2).check(pose(p.net, p.X, p.y))
    with pytest.raises(ValueError, match="^problem knows a Krylov space of 4 vectors, not 5; pose it"):
        krylov(1e-2).check(pose(p.net, p.X, p.y, krylov_size=4))
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", "1000")
    with pytest.raises(MemoryError, match="^a Krylov space of 5 vectors needs .*; pass a smaller krylov"):
        p.flow(p.times(1.0), krylov(1e-2))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(rtol=0.0), ValueError, "rtol must be positive"),
        (dict(krylov=0), ValueError, "krylov must be a positive integer"),
        (dict(krylov=2.5), ValueError, "krylov must be a positive integer, got 2.5"),
        (dict(order=3), ValueError, "order must be 1 or 2, got 3"),
        (dict(max_steps=0), ValueError, "max_steps must be a positive integer"),
    ],
)
def test_door(arguments: dict, error: type, message: str, unchecked: None) -> None:
    with pytest.raises(error, match=f"^{message}"):
        ink.KrylovExponential(**arguments)
