"""The linearised twin: a closed form against a matrix exponential and against an integrator."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

import implicit_ntk as ink

pytestmark = pytest.mark.usefixtures("quick_compilation")

N, Q = 6, 2
TIMES = np.array([0.0, 1e-3, 0.3, 2.0, 50.0])


def kernel(lam: np.ndarray, seed: int = 0) -> np.ndarray:
    """A symmetric matrix with these eigenvalues."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(lam), len(lam))))
    return (Q * lam) @ Q.T


@pytest.fixture
def data() -> tuple[np.ndarray, ...]:
    """`H, u0, y, k0, f0`, condition number 300."""
    rng = np.random.default_rng(1)
    H = kernel(np.geomspace(0.01, 3.0, N))
    return H, rng.normal(size=N), rng.normal(size=N), rng.normal(size=(Q, N)), rng.normal(size=Q)


def exact_u(H: np.ndarray, u0: np.ndarray, y: np.ndarray, t: float) -> np.ndarray:
    return y - scipy.linalg.expm(-H * t) @ (y - u0)


def exact_f(H, u0, y, k0, f0, t: float) -> np.ndarray:
    """By one exponential of the system of r = y - u and f: no division by H."""
    n, q = len(H), len(f0)
    system = np.block([[-H, np.zeros((n, q))], [k0, np.zeros((q, q))]])
    return (scipy.linalg.expm(system * t) @ np.concatenate([y - u0, f0]))[n:]


@pytest.mark.parametrize("t", TIMES)
def test_matrix_exponential(dtype: np.dtype, data: tuple, t: float, tol: dict) -> None:
    H, u0, y, k0, f0 = (jnp.asarray(a, dtype) for a in data)
    lin = ink.linearized_flow(H, u0, y)
    found_u, found_f = lin(t), lin.at(t, k0, f0)
    assert found_u.dtype == found_f.dtype == dtype
    scale = 100  # of k0 (1 - e^{-Ht})/H (y - u0)
    assert_allclose(found_u, exact_u(*data[:3], t), atol=tol["atol"], rtol=tol["rtol"])
    assert_allclose(found_f, exact_f(*data, t), atol=scale * tol["atol"], rtol=tol["rtol"])


def test_integrator(x64: None, data: tuple) -> None:
    """The flow that it solves, `du/dt = -H(u - y)`, `df/dt = k0 (y - u)`, by Runge-Kutta of order 5."""
    H, u0, y, k0, f0 = map(jnp.asarray, data)

    def slope(t, state, args):
        u, _f = state
        return H @ (y - u), k0 @ (y - u)

    times = jnp.asarray([0.0, 0.7, 5.0])
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Tsit5(),
        0.0,
        5.0,
        0.01,
        (u0, f0),
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-12),
    )
    lin = ink.linearized_flow(H, u0, y)
    assert_allclose(lin(times), solution.ys[0], atol=1e-9)
    assert_allclose(lin.at(times, k0, f0), solution.ys[1], atol=1e-9)


def test_start_and_limit(x64: None, data: tuple) -> None:
    H, u0, y, k0, f0 = data
    lin = ink.linearized_flow(H, u0, y)
    assert_allclose(lin(0.0), u0, atol=1e-14)
    assert_allclose(lin.at(0, k0, f0), f0, atol=1e-14)
    limit = f0 + k0 @ np.linalg.solve(H, y - u0)
    assert_allclose(lin.limit(), y, atol=1e-14)
    assert_allclose(lin.limit(k0, f0), limit, rtol=1e-11)
    assert_allclose(lin(np.inf), y, atol=1e-14)
    assert_allclose(lin.at(jnp.asarray([0.0, jnp.inf]), k0, f0), [f0, limit], rtol=1e-11)
    assert_allclose(lin.at(1e5, k0, f0), limit, rtol=1e-11)


def test_on_its_own_data(x64: None, data: tuple) -> None:
    """With `k0` a row of `H`, unseen data are training data."""
    H, u0, y, _, _ = data
    lin = ink.linearized_flow(H, u0, y)
    assert_allclose(lin.at(TIMES, H, u0), lin(TIMES), atol=1e-13)
    assert_allclose(lin.limit(H, u0), y, atol=1e-12)


@pytest.mark.parametrize(
    ("t", "shape"), [(0.5, ()), (1, ()), (np.float64(0.5), ()), (np.array([0.5]), (1,)), (TIMES, (5,))]
)
def test_shapes(data: tuple, t, shape: tuple) -> None:
    H, u0, y, k0, f0 = (jnp.asarray(a, jnp.float32) for a in data)
    lin = ink.linearized_flow(H, u0, y)
    assert lin(t).shape == (*shape, N)
    assert lin.at(t, k0, f0).shape == (*shape, Q)
    assert_allclose(lin(t).reshape(-1, N), [lin(float(s)) for s in np.ravel(t)], rtol=1e-5, atol=1e-6)


def test_a_mode_without_kernel_does_not_move(dtype: np.dtype, tol: dict) -> None:
    """Singular H: `(1 - e^{-lam t})/lam -> t`. Two equal samples: their difference is never learnt."""
    rng = np.random.default_rng(3)
    lam = np.array([0.0, 0.0, 0.3, 0.5, 1.0, 2.0])
    H, u0, y, k0, f0 = kernel(lam), *rng.normal(size=(2, N)), rng.normal(size=(Q, N)), rng.normal(size=Q)
    lin = ink.linearized_flow(*(jnp.asarray(a, dtype) for a in (H, u0, y)))
    t = 4.0
    assert_allclose(lin(t), exact_u(H, u0, y, t), **tol)
    want = exact_f(H, u0, y, k0, f0, t)
    assert_allclose(lin.at(t, jnp.asarray(k0, dtype), jnp.asarray(f0, dtype)), want, atol=50 * tol["atol"])
    still = np.linalg.eigh(H)[1][:, :2]
    assert_allclose(still.T @ lin(1e3), still.T @ u0, atol=1e3 * tol["atol"])
    with pytest.raises(ValueError, match="lambda_min is not resolved"):
        lin.limit()


def test_exactly_singular(x64: None) -> None:
    H = np.diag([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    lin = ink.linearized_flow(H, np.zeros(N), np.ones(N))
    t, learnt = 3.0, 1 - np.exp(-3.0)
    assert_allclose(lin(t), [0.0] + 5 * [learnt], rtol=1e-15)
    assert_allclose(lin.at(t, np.eye(N)[:Q], np.zeros(Q)), [t, learnt], rtol=1e-15)


def test_small_eigenvalues_keep_their_digits(x64: None) -> None:
    """expm1, not `1 - e^{-x}`: at `lam t = 1e-9` the factor is t to 9 digits, the difference 1e-9/2."""
    lam, t = 1e-9, 1.0
    H = np.diag([lam, 1.0, 1.0, 1.0, 1.0, 1.0])
    found = ink.linearized_flow(H, np.zeros(N), np.ones(N)).at(t, np.eye(N)[:Q], np.zeros(Q))[0]
    assert abs((t - float(found)) / t - lam * t / 2) < 1e-15


def test_linear_in_the_residual(x64: None, data: tuple) -> None:
    H, u0, y, k0, f0 = data
    other_u, other_y, other_f = np.random.default_rng(5).normal(size=(3, N))
    t = 1.3

    def both(u0, y, f0):
        lin = ink.linearized_flow(H, u0, y)
        return np.concatenate([lin(t), lin.at(t, k0, f0)])

    parts = 2 * both(u0, y, f0) - 3 * both(other_u, other_y, other_f[:Q])
    whole = both(2 * u0 - 3 * other_u, 2 * y - 3 * other_y, 2 * f0 - 3 * other_f[:Q])
    assert_allclose(whole, parts, atol=1e-12)


def test_semigroup(x64: None, data: tuple) -> None:
    H, u0, y, _, _ = data
    once = ink.linearized_flow(H, u0, y)
    assert_allclose(ink.linearized_flow(H, once(0.8), y)(1.1), once(1.9), atol=1e-13)


def test_transformations(x64: None, data: tuple) -> None:
    H, u0, y, k0, f0 = map(jnp.asarray, data)
    lin = ink.linearized_flow(H, u0, y)
    inside = jax.jit(lambda H, t: ink.linearized_flow(H, u0, y).at(t, k0, f0))
    assert_allclose(inside(H, 0.7), lin.at(0.7, k0, f0), rtol=1e-12)
    speed = jax.jacfwd(lambda t: lin(t))(jnp.asarray(0.7))
    assert_allclose(speed, H @ (y - lin(0.7)), rtol=1e-11)
    many = jax.vmap(lambda scale: ink.linearized_flow(scale * H, u0, y)(1.0))(jnp.asarray([0.5, 2.0]))
    assert_allclose(many, lin(jnp.asarray([0.5, 2.0])), atol=1e-13)


@pytest.mark.parametrize("unseen", [False, True])
def test_unresolved_limit(x64: None, data: tuple, unseen: bool) -> None:
    """Where lambda_min is below what the dtype resolves, `t = inf` is refused, eagerly and inside jit."""
    _, u0, y, k0, f0 = map(jnp.asarray, data)
    H = jnp.asarray(kernel(np.array([1e-13, 0.1, 0.2, 0.5, 1.0, 2.0])))
    rest = (k0, f0) if unseen else ()
    lin = ink.linearized_flow(H, u0, y)
    with pytest.raises(ValueError, match="lambda_min is not resolved.*float64.*finite t"):
        lin.limit(*rest)
    with pytest.raises(RuntimeError, match="lambda_min is not resolved"):
        jax.block_until_ready(jax.jit(lambda H: ink.linearized_flow(H, u0, y).limit(*rest))(H))
    with pytest.raises(ValueError, match="lambda_min is not resolved"):
        lin(jnp.asarray([1.0, jnp.inf]))
    assert np.isfinite(lin(1e6)).all()


def test_what_float64_resolves_float32_may_not(x64: None, data: tuple) -> None:
    _, u0, y, _, _ = map(jnp.asarray, data)
    H = jnp.asarray(kernel(np.array([1e-6, 0.1, 0.2, 0.5, 1.0, 2.0])))
    assert ink.linearized_flow(H, u0, y).resolved
    single = ink.linearized_flow(*(a.astype(jnp.float32) for a in (H, u0, y)))
    assert not single.resolved
    assert single(1.0).dtype == jnp.float32


BAD = {
    "indefinite": ({"H": np.diag([-0.1, 1.0])}, ValueError, "H has the eigenvalue -1.00e-01.*ntk"),
    "not symmetric": ({"H": np.array([[1.0, 0.5], [0.4, 1.0]])}, ValueError, "H must be symmetric.*ntk"),
    "negative": ({"H": -np.eye(2)}, ValueError, "H has the eigenvalue"),
    "not square": ({"H": np.ones((2, 3))}, ValueError, "H must be a square matrix"),
    "vector": ({"H": np.ones(2)}, ValueError, "H must be a square matrix"),
    "empty": ({"H": np.ones((0, 0))}, ValueError, "H must be a square matrix"),
    "NaN kernel": ({"H": np.diag([np.nan, 1.0])}, ValueError, "H holds NaN"),
    "integer kernel": ({"H": np.eye(2, dtype=int)}, TypeError, "H must be floating point"),
    "short u0": ({"u0": np.zeros(1)}, ValueError, r"u0 must have shape \(2,\)"),
    "NaN u0": ({"u0": np.array([np.nan, 0.0])}, ValueError, "u0 holds NaN"),
    "column y": ({"y": np.zeros((2, 1))}, ValueError, r"y must have shape \(2,\)"),
    "infinite y": ({"y": np.array([np.inf, 0.0])}, ValueError, "y holds NaN or infinite"),
    "integer y": ({"y": np.array([1, -1])}, TypeError, r"y must be floating point.*astype"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    change, error, message = BAD[case]
    good = {"H": np.eye(2, dtype=np.float32), "u0": np.zeros(2), "y": np.ones(2)}
    with pytest.raises(error, match=message):
        ink.linearized_flow(**(good | change))


CALLS = {
    "negative t": (lambda lin, k0, f0: lin(-1.0), "t must be >= 0"),
    "one negative t": (lambda lin, k0, f0: lin.at(jnp.asarray([1.0, -1.0]), k0, f0), "t must be >= 0"),
    "NaN t": (lambda lin, k0, f0: lin(jnp.nan), "t must be >= 0"),
    "matrix of t": (lambda lin, k0, f0: lin(jnp.ones((2, 2))), "t must be a scalar or a vector"),
    "transposed k0": (lambda lin, k0, f0: lin.at(1.0, k0.T, f0), r"k0 must have shape \(q, 6\).*ntk"),
    "vector k0": (lambda lin, k0, f0: lin.at(1.0, k0[0], f0), r"k0 must have shape \(q, 6\)"),
    "NaN k0": (lambda lin, k0, f0: lin.at(1.0, k0 * jnp.nan, f0), "k0 holds NaN"),
    "short f0": (lambda lin, k0, f0: lin.at(1.0, k0, f0[:1]), r"f0 must have shape \(2,\)"),
    "limit without f0": (lambda lin, k0, f0: lin.limit(k0), "k0 and f0 belong together"),
    "limit without k0": (lambda lin, k0, f0: lin.limit(f0=f0), "k0 and f0 belong together"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", CALLS)
def test_bad_calls(case: str) -> None:
    call, message = CALLS[case]
    lin = ink.linearized_flow(np.eye(N, dtype=np.float32), np.zeros(N), np.ones(N))
    with pytest.raises(ValueError, match=message) as caught:
        call(lin, jnp.ones((Q, N)), jnp.zeros(Q))
    assert "\n" not in str(caught.value)
