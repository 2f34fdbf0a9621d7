"""The spectrum against NumPy, and what it calls noise against kernels that are noisy."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.kernel import resolution_of

N = 7


@pytest.fixture(autouse=True)
def quick_compilation() -> Iterator[None]:
    """Small programs that run once: do without LLVM's optimisations."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def network(rng: np.random.Generator, m: int = 40, d: int = 4, gamma0: float = 0.4) -> ink.ReluImplicit:
    return ink.ReluImplicit(
        A=jnp.asarray(rng.normal(size=(m, m))),
        W=jnp.asarray(rng.normal(size=(d, m))),
        b=jnp.asarray(rng.choice([-1.0, 1.0], m)),
        gamma=jnp.asarray(gamma0 / np.sqrt(m)),
    )


def sphere(rng: np.random.Generator, n: int = N, d: int = 4) -> jax.Array:
    X = rng.normal(size=(n, d))
    return jnp.asarray(X / np.linalg.norm(X, axis=1, keepdims=True))


def at_tolerance(rtol: float) -> ink.Method:
    """A tolerance that is an array costs no second compilation."""
    rtol = jnp.asarray(rtol)
    return ink.Method(solver=ink.Picard(rtol=rtol), adjoint=ink.ImplicitAdjoint(ink.Neumann(rtol=rtol)))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 2, N])
def test_against_numpy(dtype: np.dtype, rng: np.random.Generator, n: int, tol: dict) -> None:
    J = rng.normal(size=(n, 2 * n))
    H = (J @ J.T).astype(dtype)
    s = ink.spectrum(jnp.asarray(H))
    lam = np.linalg.eigvalsh(H.astype(float))
    assert_allclose(s.eigenvalues, lam, rtol=tol["rtol"], atol=tol["atol"] * lam[-1])
    assert s.eigenvalues.dtype == s.lambda_min.dtype == s.resolution.dtype == dtype
    assert (s.lambda_min, s.lambda_max) == (s.eigenvalues[0], s.eigenvalues[-1])
    assert_allclose(s.condition, lam[-1] / lam[0], rtol=1e4 * tol["rtol"])
    assert s.resolved
    assert s.rank == n


@pytest.mark.parametrize(
    ("relative_residual", "share"),
    [
        (None, {"float32": 4 * 2e-6, "float64": 4 * 2e-12}),
        (0.0, {"float32": N * 2.0**-23, "float64": N * 2.0**-52}),
        (0, {"float32": N * 2.0**-23, "float64": N * 2.0**-52}),
        (1e-3, {"float32": 4e-3, "float64": 4e-3}),
    ],
)
def test_resolution(dtype: np.dtype, relative_residual: float | None, share: dict) -> None:
    """`lambda_max max(n eps, 4 (forward + adjoint relative residual))`."""
    s = ink.spectrum(jnp.diag(jnp.linspace(1.0, 5.0, N, dtype=dtype)), relative_residual)
    assert_allclose(s.resolution, 5 * share[str(dtype)], rtol=1e-6)
    assert_allclose(s.resolution, resolution_of(s.eigenvalues, relative_residual))


@pytest.mark.parametrize(("above", "rank"), [(1.5, 3), (0.5, 2)])
def test_the_line_between_number_and_noise(x64: None, above: float, rank: int) -> None:
    """Just above the resolution an eigenvalue counts, just below it does not."""
    relative_residual = 1e-5
    smallest = above * 2.0 * 4 * relative_residual
    s = ink.spectrum(jnp.diag(jnp.asarray([smallest, 1.0, 2.0])), relative_residual)
    assert bool(s.resolved) == (rank == 3)
    assert s.rank == rank
    assert_allclose(s.condition, 2 / smallest if rank == 3 else np.inf)


def test_equal_samples_are_unresolved(dtype: np.dtype, rng: np.random.Generator) -> None:
    """Two equal rows: rank n - 1, and what comes out as lambda_min is noise of either sign."""
    X = sphere(rng).astype(dtype)
    X = X.at[-1].set(X[0])
    net = jax.tree.map(lambda a: a.astype(dtype), network(rng))
    s = ink.spectrum(ink.ntk(net, X))
    assert not s.resolved
    assert s.condition == jnp.inf
    assert s.rank == N - 1
    apart = ink.spectrum(ink.ntk(net, X.at[-1].set(-X[0])))
    assert apart.resolved
    assert jnp.isfinite(apart.condition)


def test_nearly_equal_samples_need_float64(rng: np.random.Generator) -> None:
    """lambda_min about 1e-7 lambda_max: a number in float64, noise in float32, and called so."""
    with jax.enable_x64(True):
        X = sphere(rng)
        X = X.at[-1].set(X[0] + 1e-3 * X[1])
        net = network(rng)
        fine = ink.spectrum(ink.ntk(net, X))
        coarse = ink.spectrum(ink.ntk(jax.tree.map(lambda a: a.astype("float32"), net), X.astype("float32")))
    assert fine.resolved
    assert not coarse.resolved
    assert 1e-9 < float(fine.lambda_min) / float(fine.lambda_max) < 1e-5
    assert abs(float(coarse.lambda_min) - float(fine.lambda_min)) < coarse.resolution


@pytest.mark.parametrize("gamma0", [0.4, 0.9])
def test_solver_tolerance_bounds_the_kernel(x64: None, rng: np.random.Generator, gamma0: float) -> None:
    """The kernel's error at solver tolerances 1e-2, 1e-4, 1e-6 stays below the resolution."""
    net, X = network(rng, 60, gamma0=gamma0), sphere(rng)
    exact = ink.ntk(net, X)
    for rtol in (1e-2, 1e-4, 1e-6):
        H = ink.ntk(net, X, method=at_tolerance(rtol))
        s = ink.spectrum(H, relative_residual=2 * rtol)
        error = np.linalg.norm(H - exact, 2)
        assert error < s.resolution
        shift = np.abs(s.eigenvalues - np.linalg.eigvalsh(exact)).max()
        assert shift <= error * (1 + 1e-9)


@pytest.mark.parametrize(
    ("eigenvalues", "effective", "stable", "participation"),
    [
        ([3.0] * N, N, N, N),
        ([0.0] * (N - 1) + [2.0], 1, 1, 1),
        ([-1e-12, 0, 0, 0, 0, 1.0, 1.0], 2, 2, 2),
        # p = 1/2, 1/4, 1/4: entropy 1.5 log 2
        ([0, 0, 0, 0, 1.0, 1.0, 2.0], 2**1.5, 2, 8 / 3),
    ],
)
def test_ranks(x64: None, eigenvalues: list, effective: float, stable: float, participation: float) -> None:
    s = ink.spectrum(np.diag(eigenvalues))
    assert_allclose(s.effective_rank, effective, rtol=1e-10)
    assert_allclose(s.stable_rank, stable, rtol=1e-10)
    assert_allclose(s.participation_ratio, participation, rtol=1e-10)


def test_of_each_block(x64: None, rng: np.random.Generator) -> None:
    blocks = {name: J @ J.T for name, J in zip("AW", rng.normal(size=(2, N, 2 * N)), strict=True)}
    found = ink.block_spectra(blocks, 1e-3)
    assert list(found) == ["A", "W"]
    for name, H in blocks.items():
        assert_allclose(found[name].eigenvalues, np.linalg.eigvalsh(H))
        assert_allclose(found[name].resolution, 4e-3 * found[name].lambda_max)
    with pytest.raises(ValueError, match=r"blocks\['W'\] must be symmetric"):
        ink.block_spectra({**blocks, "W": np.triu(np.ones((N, N)))})


def test_zero_and_negative_kernels(x64: None) -> None:
    for H in (jnp.zeros((3, 3)), -jnp.eye(3)):
        s = ink.spectrum(H)
        assert not s.resolved
        assert s.condition == jnp.inf
        assert s.rank == 0


def test_transformations(x64: None, rng: np.random.Generator) -> None:
    J = jnp.asarray(rng.normal(size=(2, N, 2 * N)))
    H = J @ J.swapaxes(1, 2)
    want = [ink.spectrum(h) for h in H]
    assert_allclose(jax.jit(lambda h: ink.spectrum(h).condition)(H[0]), want[0].condition, rtol=1e-10)
    many = jax.vmap(ink.spectrum)(H)
    assert_allclose(many.eigenvalues, [s.eigenvalues for s in want], rtol=1e-10)
    # d lambda_min / dH = q q^T
    slope = jax.grad(lambda h: ink.spectrum(h).lambda_min)(H[0])
    q = np.linalg.eigh(H[0])[1][:, 0]
    assert_allclose(slope, np.outer(q, q), atol=1e-10)


BAD = {
    "wide": (np.ones((2, 3)), None, ValueError, r"H must be a square matrix, \(n, n\) or .* got \(2, 3\)"),
    "outputs": (np.ones((2, 3, 3, 2)), None, ValueError, r"square matrix.*\(n, k, n, k\), got \(2, 3"),
    "three axes": (np.ones((2, 2, 2)), None, ValueError, "square matrix"),
    "empty": (np.ones((0, 0)), None, ValueError, "square matrix"),
    "NaN": (np.diag([1.0, np.nan]), None, ValueError, "H holds NaN"),
    "infinite": (np.diag([1.0, np.inf]), None, ValueError, "H holds NaN or infinite"),
    "integers": (np.eye(2, dtype=int), None, TypeError, "H must be floating point"),
    "a list": ([[1.0]], None, TypeError, "H must be an array, got list; wrap it in numpy.asarray"),
    "a cross kernel": (
        np.array([[1.0, 0.5], [0.4, 1.0]]),
        None,
        ValueError,
        r"H must be symmetric up to rounding; pass H = ntk\(net, X\), for a cross kernel is not",
    ),
    "negative residual": (np.eye(2), -1e-3, ValueError, "relative_residual must be >= 0"),
    "NaN residual": (np.eye(2), np.nan, ValueError, "relative_residual must be >= 0"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    H, relative_residual, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        ink.spectrum(H, relative_residual)
    assert "\n" not in str(caught.value)


def test_rounding_may_break_the_symmetry(dtype: np.dtype) -> None:
    """A hundred eps pass, and change nothing that is resolved."""
    H = np.diag([1.0, 2.0]).astype(dtype)
    H[0, 1] = 100 * np.finfo(dtype).eps
    assert_allclose(ink.spectrum(H).eigenvalues, [1, 2], rtol=1e3 * float(np.finfo(dtype).eps))


def test_past_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    H = np.eye(3, dtype=np.float32)
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(4 * 9 * 4 - 1))
    for entry in (ink.spectrum, lambda H: ink.linearized_flow(H, H[0], H[1])):
        with pytest.raises(
            MemoryError, match="^the eigendecomposition of 3 rows needs .* pass fewer samples"
        ):
            entry(H)
