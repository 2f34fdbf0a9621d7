"""Solvers where it is easy to go wrong: singular, tiny, huge, warm, lagging, at the rounding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.equilibrium import Method, Status


@pytest.fixture(autouse=True)
def _quick_compilation(quick_compilation):
    """The programs here are many and small and run once."""


def linear_network(A, offset, dtype=np.float64):
    """`z = z A + offset`, whatever `A`."""
    m = offset.size
    net = ink.ReluImplicit.init(jax.random.key(0), m, m, activation="identity", dtype=dtype)
    leaves = {"A": A, "W": np.diag(offset), "gamma": 1.0}
    return dataclasses.replace(
        net, injection_activation="identity", **{k: jnp.asarray(v, dtype) for k, v in leaves.items()}
    )


def rotated(rng, eigenvalues):
    Q = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))[0]
    return Q @ np.diag(eigenvalues) @ Q.T


@pytest.mark.parametrize("solver", [ink.LU(), ink.GMRES()], ids=["LU", "GMRES"])
def test_a_singular_equation_is_never_solved(x64, rng, solver):
    J = jnp.asarray(rotated(rng, [1.0, 0.0, 0.5, -1.0]))
    eq = solver.solve(lambda x: x @ J, jnp.ones(4), 0)
    assert int(eq.status) > Status.STALLED


@pytest.mark.parametrize("solver", [ink.LU(), ink.GMRES()], ids=["LU", "GMRES"])
def test_a_nearly_singular_one_is(x64, rng, solver):
    J = rotated(rng, [1 - 1e-5, 0.0, 0.5, -1.0])
    eq = solver.solve(lambda x: x @ jnp.asarray(J), jnp.ones(4), 0)
    assert int(eq.status) <= Status.STALLED
    np.testing.assert_allclose(eq.z, np.linalg.solve((np.eye(4) - J).T, np.ones(4)), rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_float32_over_its_range(key, rng, scale):
    """The cell is homogeneous, and so is the solve: as many steps, the same numbers times the scale."""
    net = ink.ReluImplicit.init(key, 3, 8)
    X = rng.normal(size=(4, 3)).astype(np.float32)
    scale = np.float32(2.0 ** round(np.log2(scale)))
    want, found = ink.solve(net, X), ink.solve(net, scale * X)
    np.testing.assert_array_equal(found.steps, want.steps)
    np.testing.assert_allclose(found.z / scale, want.z, rtol=1e-6)
    rounding = 4e-7 * np.linalg.norm(want.z, axis=1)
    assert np.all(np.abs(found.residual / scale - want.residual) <= rounding)


@pytest.mark.parametrize("scale", [1e-50, 1e40])
def test_low_precision_over_the_range_of_float64(x64, key, rng, scale):
    net, X = ink.ReluImplicit.init(key, 3, 8), rng.normal(size=(4, 3))
    for solver in (ink.MixedPicard(), ink.Chord(low_precision=True)):
        z = ink.solve(net, scale * X, Method(solver=solver)).z
        np.testing.assert_allclose(z / scale, ink.solve(net, X).z, rtol=1e-10, atol=1e-10)


def test_tolerances_on_states_say_nothing_of_cotangents(x64):
    def loss(a, method):
        return 1e-5 * ink.fixed_point(lambda z, a: 0.9 * z + a, jnp.zeros(()), a, 0, method).z

    for solver in (ink.Picard(atol=1e-4), ink.Newton(atol=1e-4, linear_solver=ink.GMRES(rtol=1e-1))):
        assert float(jax.grad(loss)(0.3, Method.of(solver))) == pytest.approx(1e-4, rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0])
def test_adjoint_states_of_large_weights(x64, key, rng, scale):
    """Their own residual is below the tolerance, not only that of the affine form."""
    net = ink.MonotoneImplicit.init(key, 3, 10, scale=scale)
    X = rng.normal(size=(4, 3))
    at = ink.jacobian(net, X, Method.of(ink.PeacemanRachford(rtol=1e-6, alpha=0.1))).linearization
    p, W = np.asarray(at.adjoint.z), np.asarray(net.W)
    slopes = (np.asarray(at.equilibrium.z) @ W.T + X @ np.asarray(net.U).T > 0) * 1.0
    residual = np.linalg.norm((slopes * p) @ W + np.asarray(net.u) - p, axis=1)
    np.testing.assert_allclose(at.adjoint.residual, residual, rtol=1e-3, atol=1e-12)
    assert np.all(residual <= 1e-6 * np.linalg.norm(net.u) * (1 + 1e-9))


def named(solvers):
    return pytest.mark.parametrize("solver", solvers, ids=lambda solver: type(solver).__name__)


@named([ink.Chord(), ink.MixedPicard(), ink.PeacemanRachford(low_precision=True)])
def test_batch_mates_do_not_matter(x64, key, rng, solver):
    """Not to what is formed anew and when: the inverse lags behind, and mates are in doubt at other times.

    Products of one row and of six differ in their rounding, which low precision may show in a step.
    """
    net = ink.ReluImplicit.init(key, 3, 12, gamma0=0.6)
    X = rng.normal(size=(6, 3)) * 10.0 ** np.arange(-3, 3)[:, None]
    other = dataclasses.replace(net, A=net.A + 0.3 * rng.normal(size=(12, 12)))
    solver = solver.prepare(other.affine(other.inject(jnp.asarray(X))))
    together = ink.solve(net, X, Method(solver=solver))
    rounding = 0 if isinstance(solver, ink.Chord) else 1
    for i in range(6):
        alone = ink.solve(net, X[i : i + 1], Method(solver=solver))
        assert abs(int(alone.steps[0]) - int(together.steps[i])) <= rounding
        size = np.abs(together.z[i]).max()
        np.testing.assert_allclose(alone.z[0], together.z[i], rtol=1e-9, atol=1e-10 * size)


def test_a_warm_start_is_worth_it(x64, key, rng):
    """For the splitting, whose state is not the iterate alone."""
    net = ink.MonotoneImplicit.init(key, 3, 12, monotonicity=0.1, scale=2.0)
    X, method = rng.normal(size=(4, 3)), Method(solver=ink.PeacemanRachford(rtol=1e-10))
    cold = ink.solve(net, X, method)
    warm = ink.solve(net, X, method, z0=cold.z * (1 + 1e-8 * rng.normal(size=(4, 12))))
    assert np.all(2 * warm.steps < cold.steps)


def test_an_adjoint_at_the_rounding_of_its_solution(rng):
    """Near the edge the solution is large beside its right-hand side, and no residual is known better."""
    A = rotated(rng, [0.9999, 0.3, -0.2, 0.1, 0.5, -0.7])
    net = linear_network(A, np.ones(6), np.float32)
    X = np.eye(6, dtype=np.float32)
    method = Method.of(ink.Chord(activity=0.99, rtol=1e-7))
    at = ink.jacobian(net, X, method).linearization
    assert np.all(at.adjoint.status <= Status.STALLED)
    want = np.linalg.solve(np.eye(6) - A, np.asarray(net.b, float) / 6**0.5)
    np.testing.assert_allclose(at.adjoint.z, np.tile(want, (6, 1)), rtol=2e-2, atol=1e-3 * np.abs(want).max())


def test_the_best_iterate_is_kept_from_a_nan():
    f = lambda z, _: z - jnp.log(z)  # noqa: E731
    method = Method(solver=ink.Newton(), on_failure="report")
    eq = ink.fixed_point(f, jnp.asarray([4.0]), None, 0, method)
    assert int(eq.status) == Status.NONFINITE
    np.testing.assert_allclose(eq.residual, np.log(eq.z[0]), rtol=1e-6)


SLOW_STEPS = (ink.Picard(damping=0.2), ink.PeacemanRachford(alpha=5), ink.ForwardBackward(0.1))


@named([ink.Picard(), ink.Chord(), *SLOW_STEPS])
def test_the_error_is_estimated(x64, rng, solver):
    """One slow real mode: the estimate is the distance to the solution, whatever the solver's steps."""
    A = rotated(rng, [0.99, 0.3, 0.2, 0.1])
    net = linear_network(A, np.ones(4))
    eq = ink.solve(net, np.eye(4), Method(solver=dataclasses.replace(solver, rtol=1e-5, max_steps=20000)))
    away = np.linalg.norm(np.asarray(eq.z) - np.diag(np.ones(4)) @ np.linalg.inv(np.eye(4) - A), axis=1)
    assert np.all(eq.succeeded)
    np.testing.assert_allclose(eq.error, away, rtol=0.2)


def test_prepared_for_what_does_not_fit(key, rng):
    small, large = (ink.ReluImplicit.init(key, 3, m) for m in (8, 10))
    X = rng.normal(size=(2, 3)).astype(np.float32)
    solver = ink.Chord().prepare(small.affine(small.inject(jnp.asarray(X))))
    with pytest.raises(ValueError, match=r"^solver: it was prepared for weights float32\[8, 8\]"):
        ink.solve(large, X, Method(solver=solver))


def test_convergence_of_a_zero_row(key):
    net = ink.ReluImplicit.init(key, 3, 8)
    np.testing.assert_array_equal(ink.convergence(net, np.zeros((1, 3), np.float32), steps=3), 0.0)
