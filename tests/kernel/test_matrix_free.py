"""Eigenvalues, determinants and solves without the kernel: against it, and true errors beside stated."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matfree import decomp
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.kernel import KernelOperator, Preconditioner
from implicit_ntk.kernel.matrix_free._conjugate_gradients import conjugate_gradients
from implicit_ntk.kernel.matrix_free._davidson import Ritz
from implicit_ntk.kernel.matrix_free._eigenpairs import _energy_bounds, largest_pairs, smallest_pairs
from implicit_ntk.kernel.matrix_free._estimates import settled
from implicit_ntk.kernel.matrix_free._lanczos import quadrature, tridiagonal
from implicit_ntk.kernel.matrix_free._quadrature import log_determinant

N, D, M, K = 40, 5, 24, 3
RANK, PROBES, STEPS = 8, 8, 12


class Case(NamedTuple):
    """An operator, a preconditioner that is far from it, and its dense eigenvalues."""

    op: KernelOperator
    rough: Preconditioner
    H: np.ndarray
    eigenvalues: np.ndarray


def problem(apart: float = 1e-3, dtype: str = "float64") -> tuple[ink.ReluImplicit, np.ndarray]:
    """Points on a sphere, two of them this far apart."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N, D))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    X[-1] = X[0] + apart * X[1]
    A, W, b = rng.normal(size=(M, M)), rng.normal(size=(D, M)), rng.choice([-1.0, 1.0], M)
    leaves = (jnp.asarray(leaf.astype(dtype)) for leaf in (A, W, b, np.asarray(0.4 / M**0.5)))
    return ink.ReluImplicit(*leaves), X.astype(dtype)


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    with jax.enable_x64(True):
        net, X = problem()
        op = ink.kernel_operator(net, X, tile=16)
        H = np.asarray(ink.ntk(net, X))
        yield Case(op, op.preconditioner(RANK), H, np.linalg.eigvalsh(H))


class TestPreconditioner:
    def test_is_the_kernel_at_full_rank(self, case: Case, x64: None, rng: np.random.Generator) -> None:
        P = case.op.preconditioner()
        assert P.rank == N
        v = rng.normal(size=N)
        assert_allclose(P.power(1.0, v), case.H @ v, rtol=1e-10, atol=1e-10)
        assert_allclose(P.power(-0.5, P.power(-0.5, v)), P.power(-1.0, v), rtol=1e-8, atol=1e-6)
        assert_allclose(P.logdet(), np.log(case.eigenvalues).sum(), rtol=1e-5)
        assert_allclose(P.largest, case.eigenvalues[-1], rtol=1e-10)

    def test_leaves_a_semidefinite_rest(self, case: Case, x64: None) -> None:
        """`P <= H + shift I`, which the bounds on eigenvalues stand on, and a condition far better."""
        U, values, shift = (np.asarray(leaf) for leaf in jax.tree.leaves(case.rough))
        assert case.rough.rank == RANK
        assert values.min() >= shift
        assert shift < 0.5 * np.trace(case.H) / N
        P = (U * values) @ U.T + shift * (np.eye(N) - U @ U.T)
        assert np.linalg.eigvalsh(case.H + shift * np.eye(N) - P).min() > -1e-12
        inverse = (U / values) @ U.T + (np.eye(N) - U @ U.T) / shift
        assert np.linalg.cond(inverse @ case.H) < 0.1 * np.linalg.cond(case.H)


class TestEigenpairs:
    def test_largest(self, case: Case, x64: None) -> None:
        found = case.op.largest(K)
        assert_allclose(found.values, case.eigenvalues[::-1][:K], rtol=1e-12)
        self.check(found, case)
        assert found.resolved.all()
        assert found.products < N

    def test_smallest(self, case: Case, x64: None) -> None:
        """At a condition of 1e8 the smallest is known to a share of itself; restarts included."""
        assert case.eigenvalues[-1] / case.eigenvalues[0] > 1e7
        found = case.op.smallest(K, preconditioner=case.rough)
        errors = np.abs(found.values - case.eigenvalues[:K])
        # What LAPACK knows of the kernel that was formed.
        assert (errors < found.errors + 1e-15 * case.eigenvalues[-1]).all()
        assert (found.errors < 2e-3 * found.values).all()
        self.check(found, case)
        assert found.resolved.all()

    def check(self, found: Any, case: Case) -> None:
        """Vectors are orthonormal, residuals as stated or larger than what is stated of the values."""
        Q = np.asarray(found.vectors)
        assert_allclose(Q @ Q.T, np.eye(K), atol=1e-6)
        residuals = np.linalg.norm(Q @ case.H - found.values[:, None] * Q, axis=1)
        assert (found.bounds <= residuals * (1 + 1e-6) + 1e-14 * case.eigenvalues[-1]).all()
        assert found.converged.all()

    def test_the_bounds_hold_at_any_tolerance(self, case: Case, x64: None) -> None:
        """The smallest value from searches that are stopped early, over starts."""
        for rtol in (0.3, 0.03):
            for seed in range(4):
                key = jax.random.key(seed)
                found = case.op.smallest(K, rtol, case.rough, key=key)
                distance = np.abs(found.values[:, None] - case.eigenvalues[None]).min(axis=1)
                assert (distance <= found.errors + 1e-15 * case.eigenvalues[-1]).all()

    def test_several_equal_samples_raise_nothing_in_float32(self) -> None:
        net, X = problem(dtype="float32")
        X[-3:] = X[:3]
        found = ink.kernel_operator(net, X).smallest(K)
        assert not found.resolved[0]
        assert (np.diff(found.values) >= 0).all()
        true = np.linalg.eigvalsh(np.asarray(ink.ntk(net, X), np.float64))
        assert (np.abs(found.values[:, None] - true[None]).min(axis=1) < found.errors + 1e-6 * true[-1]).all()

    def test_the_bound_of_an_eigenvalue_that_is_zero(self) -> None:
        """It is none, where `shift / lam` overflows, and no NaN."""
        P = Preconditioner(jnp.eye(3)[:, :1], jnp.asarray([50.0]), jnp.asarray(40.0))
        residuals = jnp.asarray([[0.0, 1, 0], [0, 0, 0]])
        bounds = _energy_bounds(P, Ritz(jnp.asarray([0.0, 2.0]), jnp.eye(3)[:2], residuals))
        assert bounds[0] > 1e30
        assert bounds[1] == 0

    def test_equal_samples_are_unresolved(self, x64: None) -> None:
        net, X = problem(apart=0.0)
        op = ink.kernel_operator(net, X, tile=16)
        found = op.smallest(K)
        assert list(found.resolved) == [False, True, True]
        assert found.values[0] < 1e-14 * op.trace()
        second = np.linalg.eigvalsh(ink.ntk(net, X))[1]
        assert_allclose(found.values[1], second, rtol=1e-3)

    def test_float32_resolves_what_a_formed_kernel_does_not(self) -> None:
        """Products move singular values of `J` by rounding, a kernel's rounding its eigenvalues."""
        with jax.enable_x64(True):
            net, X = problem(apart=6e-3)
            true = np.linalg.eigvalsh(ink.ntk(net, X))
        net, X = problem(apart=6e-3, dtype="float32")
        assert true[-1] / true[0] > 1e5
        assert not ink.spectrum(ink.ntk(net, X)).resolved
        found = ink.kernel_operator(net, X).smallest(K)
        assert found.resolved[0]
        assert found.errors[0] < 0.1 * found.values[0]
        assert abs(found.values[0] - true[0]) < found.errors[0]

    def test_too_few_products(self, case: Case, x64: None) -> None:
        with pytest.raises(ink.ConvergenceError, match="3 of 3 eigenpairs did not converge in .* raise max"):
            case.op.smallest(K, preconditioner=case.rough, max_products=4)


@pytest.mark.parametrize(("policy", "want"), [("nan", [1.0, np.nan]), ("report", [1.0, 2.0])])
def test_what_did_not_converge(policy: str, want: list[float]) -> None:
    """`raise` is what the others see; inside of a transformation it is compiled in."""
    values, converged = jnp.asarray([1.0, 2.0]), jnp.asarray([True, False])
    assert_array_equal(settled(values, converged, policy, (), str, "do more"), want)
    with pytest.raises(Exception, match="do more"):
        jax.jit(lambda v, c: settled(v, c, "raise", v, str, "do more"))(values, converged).block_until_ready()


class TestSolve:
    def test_against_numpy(self, case: Case, x64: None, rng: np.random.Generator) -> None:
        r = rng.normal(size=N)
        found = case.op.solve(r, preconditioner=case.rough)
        assert found.converged
        x = np.asarray(found.x)
        assert_allclose(found.residual, np.linalg.norm(r - case.H @ x) / np.linalg.norm(r), rtol=0.3)
        assert found.residual < 1.5e-8
        energy = (x - np.linalg.solve(case.H, r)) @ case.H @ (x - np.linalg.solve(case.H, r))
        assert energy < 1e-10 * (r @ x)
        assert 0 < found.steps < 4 * N

    def test_a_zero_right_hand_side(self, case: Case, x64: None) -> None:
        found = case.op.solve(np.zeros(N), preconditioner=case.rough)
        assert (found.x == 0).all()
        assert (found.steps, found.residual) == (0, 0)

    def test_what_no_solution_is_near_to(self, case: Case, x64: None) -> None:
        """Of a singular kernel: what is handed out is not farther off than zero."""
        op = ink.kernel_operator(*problem(apart=0.0), tile=16)
        r = np.zeros(N)
        r[[0, -1]] = 1, -1
        with pytest.raises(ink.ConvergenceError, match=r"at a relative residual of 1\.0e\+00 after"):
            op.solve(r, preconditioner=op.preconditioner(RANK))

    def test_too_few_steps(self, case: Case, x64: None) -> None:
        with pytest.raises(
            ink.ConvergenceError, match="conjugate gradients stand at .* after 2 steps; raise max"
        ):
            case.op.solve(np.ones(N), preconditioner=case.rough, max_steps=2)


class TestQuadrature:
    def test_log_determinant_is_calibrated(self, case: Case, x64: None) -> None:
        """Over keys the error is within what is stated, and not far below it."""
        true = np.log(case.eigenvalues).sum()
        found = [case.op.logdet(case.rough, PROBES, N, key=jax.random.key(seed)) for seed in range(12)]
        scores = np.array([float((f.value - true) / f.stderr) for f in found])
        assert (np.abs(scores) < 4).all()
        assert 0.4 < np.sqrt(np.mean(scores**2)) < 2
        assert all(f.quadrature_error < 4 * f.stderr for f in found)
        assert all(f.resolved for f in found)

    def test_the_quadrature_error_covers_too_few_steps(self, case: Case, x64: None) -> None:
        """The same probes with all steps are exact. Samples apart: an outlier may escape all few steps."""
        key, op = jax.random.key(3), ink.kernel_operator(*problem(apart=1.0), tile=16)
        rough = op.preconditioner(RANK)
        full = op.logdet(rough, PROBES, N, key=key)
        for steps in (6, STEPS):
            few = op.logdet(rough, PROBES, steps, key=key)
            assert 1e-9 < abs(few.value - full.value) < few.quadrature_error

    def test_density_is_calibrated(self, case: Case, x64: None) -> None:
        """In the bulk: of an outlier a few probes see too little to tell their own error."""
        lam, width = case.eigenvalues, 0.5
        points = np.geomspace(1e-3 * lam[-1], 0.3 * lam[-1], 7)
        distance = (np.log(points)[:, None] - np.log(lam)[None]) / width
        true = np.exp(-(distance**2) / 2).mean(axis=1) / (width * np.sqrt(2 * np.pi))
        found = [case.op.density(points, width, 2 * PROBES, N, key=jax.random.key(i)) for i in range(6)]
        scores = np.array([(f.density - true) / f.stderr for f in found])
        assert np.abs(scores).max() < 4.5
        assert 0.4 < np.sqrt(np.mean(scores**2)) < 1.8
        assert max(float(f.quadrature_error.max()) for f in found) < 0.02

    def test_the_density_of_noise_is_marked(self) -> None:
        op = ink.kernel_operator(*problem(dtype="float32"))
        top = float(op.largest().values[0])
        found = op.density(np.asarray([1e-7 * top, 1e-2 * top, top], np.float32), steps=N)
        assert list(found.resolved) == [False, True, True]
        assert_allclose(found.resolution, 100 * np.finfo(np.float32).eps * top, rtol=1e-3)

    def test_gauss_rules(self, x64: None, rng: np.random.Generator) -> None:
        """Polynomials up to degree 2 s - 1 are integrated by s steps; an exhausted space ends in zeros."""
        H, v = jnp.diag(jnp.arange(1.0, 9)), jnp.asarray(rng.normal(size=8))
        nodes, weights = quadrature(*tridiagonal(lambda x: H @ x, v, 4))
        for degree in range(8):
            want = v @ np.linalg.matrix_power(H, degree) @ v / (v @ v)
            assert_allclose(weights @ nodes**degree, want, rtol=1e-12)
        diagonal, beside = tridiagonal(lambda x: H @ x, v, 4)
        T = jax.tree.leaves(decomp.tridiag_sym(4, reortho="full")(lambda x: H @ x, v / jnp.linalg.norm(v)))[1]
        assert_allclose([*diagonal, *beside[:-1]], [*jnp.diag(T), *jnp.diag(T, 1)], rtol=1e-12)
        diagonal, beside = tridiagonal(lambda x: 2 * x, v, 4)
        assert_allclose(diagonal, [2, 0, 0, 0], atol=1e-15)
        assert_allclose(beside, np.zeros(4), atol=1e-14)

    def test_a_singular_kernel_is_unresolved(self, x64: None) -> None:
        op = ink.kernel_operator(*problem(apart=0.0), tile=16)
        assert not op.logdet(probes=PROBES, steps=N).resolved


def test_every_product_is_of_full_precision(case: Case, x64: None, products: Any) -> None:
    p, limit, key = case.op.products, jnp.asarray(9), jax.random.key(0)
    calls = [
        lambda: largest_pairs(p, K, jnp.asarray(1e-3), limit, key).values,
        lambda: smallest_pairs(p, case.rough, K, jnp.asarray(1e-3), limit, key).values,
        lambda: conjugate_gradients(p, case.rough, jnp.ones(N), jnp.asarray(1e-3), limit).x,
        lambda: log_determinant(p, case.rough, PROBES, STEPS, key).value,
    ]
    for call in calls:
        found = products(jax.make_jaxpr(call)())
        assert found
        assert all(eqn.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 for eqn in found)
