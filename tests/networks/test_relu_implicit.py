"""GG22's network: what is drawn, how it is scaled, the bounds that hold, the pairing."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.networks import forms

D, M = 3, 12


def draw(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, D, **{"width": M, **options})


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, D))  # which JAX rounds to float32 where x64 is off


def test_leaves(key: jax.Array, dtype: np.dtype) -> None:
    net = draw(key, dtype=dtype)
    assert forms(net) == [f"{dtype}[12,12]", f"{dtype}[3,12]", f"{dtype}[12]", f"{dtype}[]"]
    assert (net.in_size, net.width) == (D, M)
    assert set(np.asarray(net.b).tolist()) == {-1.0, 1.0}
    assert forms(draw(key)) == forms(net), "the default is JAX's default float type"


def test_weights_are_standard_and_independent(key: jax.Array) -> None:
    net = ink.ReluImplicit.init(key, 400, 400)
    A, W, b = (np.asarray(leaf) for leaf in (net.A, net.W, net.b))
    for leaf in (A, W):
        assert abs(leaf.mean()) < 5 / np.sqrt(leaf.size)
        assert abs(leaf.var() - 1) < 5 * np.sqrt(2 / leaf.size)
    assert abs(b.mean()) < 5 / np.sqrt(b.size)
    assert abs(np.corrcoef(A.ravel(), W.ravel())[0, 1]) < 5 / np.sqrt(W.size)


@pytest.mark.parametrize("paired", [False, True])
def test_same_key_same_network(paired: bool, key: jax.Array) -> None:
    first, again = draw(key, paired=paired), draw(key, paired=paired)
    jax.tree.map(assert_array_equal, first, again)
    assert (first.A != draw(jax.random.fold_in(key, 1), paired=paired).A).all()


def test_options_do_not_change_the_draw(key: jax.Array) -> None:
    first = draw(key)
    other = draw(key, gamma0=0.1, activation="tanh", injection_activation="identity", trained=("b",))
    jax.tree.map(assert_array_equal, (first.A, first.W, first.b), (other.A, other.W, other.b))


def test_several_outputs(key: jax.Array, X: np.ndarray, tol: dict) -> None:
    """A column of signs for each; the other weights are those of a scalar network."""
    net, scalar = draw(key, width=400, outputs=3), draw(key, width=400)
    assert (net.b.shape, net.out_shape, scalar.out_shape) == ((400, 3), (3,), ())
    assert set(np.unique(net.b)) == {-1.0, 1.0}
    assert np.abs(np.corrcoef(net.b.T) - np.eye(3)).max() < 5 / np.sqrt(400)
    jax.tree.map(assert_array_equal, (net.A, net.W, net.gamma), (scalar.A, scalar.W, scalar.gamma))
    assert_allclose(net(X), ink.solve(net, X).z @ net.b / 20, **tol)
    paired = draw(key, paired=True, outputs=3)
    assert_array_equal(paired.b[: M // 2], -paired.b[M // 2 :])


def test_the_shape_of_the_outputs_costs_one_trace(key: jax.Array) -> None:
    """It is asked for at every entry: the network is not traced for it again, whatever its numbers."""
    traces = []

    def counted(x: jax.Array) -> jax.Array:
        traces.append(1)
        return jnp.tanh(x)

    net = draw(key, outputs=2, activation=counted)
    assert net.out_shape == (2,)
    first = len(traces)
    assert first > 0
    for other in (net, draw(jax.random.fold_in(key, 1), outputs=2, activation=counted)):
        assert other.out_shape == (2,)
    assert jax.jit(lambda net: jnp.ones(net.out_shape))(net).shape == (2,)
    assert len(traces) == first


@pytest.mark.parametrize("gamma0", [0.0, 0.4, 7.0])
def test_scaled_by_the_width(gamma0: float, key: jax.Array, dtype: np.dtype, tol: dict) -> None:
    net = draw(key, gamma0=gamma0)
    assert_allclose(net.gamma, gamma0 / np.sqrt(M), **tol)
    assert_allclose(net.gamma0, gamma0, **tol)
    assert_allclose(net.contraction(), gamma0 / np.sqrt(M) * np.linalg.norm(net.A, 2), **tol)


@pytest.mark.parametrize(
    ("a_init", "width"),
    [(ink.init.normal, M), (ink.init.normal, 600), (ink.init.half_normal, M), (ink.init.diagonal, M)],
)
def test_scaled_by_the_norm(a_init: Any, width: int, key: jax.Array) -> None:
    net = draw(key, width=width, gamma0=0.7, scaling="operator_norm", a_init=a_init)
    assert_allclose(net.contraction(), 0.7, rtol=1e-5)
    assert_allclose(net.gamma * np.linalg.norm(net.A, 2), 0.7, rtol=1e-3)


def test_contraction_of_a_negative_scale(key: jax.Array, tol: dict) -> None:
    assert_allclose(draw(key, gamma0=-0.4).contraction(), draw(key, gamma0=0.4).contraction(), **tol)


def test_half_normal_diverges_with_the_width(key: jax.Array) -> None:
    """GG22's section 5.1 as printed: `gamma ||A|| ~ gamma0 sqrt(2 m / pi)` (10.7 at m = 2000)."""
    for width, slack in ((M, 0.2), (400, 0.02)):
        with pytest.warns(UserWarning, match=r"half_normal .* pass scaling='operator_norm'$"):
            net = draw(key, width=width, gamma0=0.3, a_init=ink.init.half_normal)
        assert_allclose(net.contraction(), 0.3 * np.sqrt(2 * width / np.pi), rtol=slack)


def test_half_normal_is_linear_in_the_injection(key: jax.Array, X: np.ndarray, x64: None) -> None:
    """GG22, section 5.1, well scaled: every unit is on, so `Z = Phi (I - gamma A)^-1`."""
    net = draw(key, gamma0=0.7, scaling="operator_norm", a_init=ink.init.half_normal)
    Phi = np.maximum(X @ net.W, 0)
    Z = ink.solve(net, X).z
    assert (Z > 0).all()
    assert_allclose(Z, Phi @ np.linalg.inv(np.eye(M) - net.gamma * net.A), rtol=1e-10)


def test_linear_cell(key: jax.Array, X: np.ndarray, dtype: np.dtype, tol_solve: dict) -> None:
    """`sigma = identity` has the closed form `u = Phi (I - gamma A)^-1 b / sqrt(m)`."""
    net = draw(key, activation="identity", injection_activation="tanh")
    Z = np.tanh(X @ net.W) @ np.linalg.inv(np.eye(M) - net.gamma * net.A)
    eq = ink.solve(net, X)
    assert_allclose(eq.z, Z, **tol_solve)
    assert_allclose(net(X), Z @ net.b / np.sqrt(M), **tol_solve)
    assert eq.z.dtype == net(X).dtype == dtype


@pytest.mark.parametrize("gamma0", [0.1, 0.5, 0.95])
def test_bounds(gamma0: float, key: jax.Array, X: np.ndarray, x64: None) -> None:
    """GG22, Lemma A.5, and `sigma_min(I - gamma D A^T) >= 1 - gamma ||A||` for every sample."""
    net = draw(key, gamma0=gamma0, scaling="operator_norm")
    kappa = float(net.contraction())
    Z = np.asarray(ink.solve(net, X).z)
    Phi = np.maximum(X @ net.W, 0)
    assert np.linalg.norm(Z) <= np.linalg.norm(Phi) / (1 - kappa)
    for z in Z:
        Q = np.eye(M) - net.gamma * (z > 0)[:, None] * net.A.T
        assert np.linalg.svd(Q, compute_uv=False)[-1] >= 1 - kappa


@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
def test_paired_network_vanishes(activation: str, key: jax.Array, X: np.ndarray, dtype: np.dtype) -> None:
    net = draw(key, paired=True, activation=activation, trained=("A", "W", "b"))
    J = ink.jacobian(net, X)
    eq = J.linearization.equilibrium
    size = np.abs(eq.z).max()
    eps = float(jnp.finfo(dtype).eps)
    assert_array_equal(*np.split(np.asarray(net.W), 2, axis=1))
    assert_allclose(*np.split(np.asarray(eq.z), 2, axis=1), atol=50 * eps * size, rtol=0)
    P, Q = np.split(np.asarray(J.linearization.adjoint.z), 2, axis=1)
    assert_allclose(P, -Q, atol=50 * eps)
    assert_allclose(J.linearization.outputs, 0, atol=50 * eps * size)


def test_paired_weights(key: jax.Array) -> None:
    net = draw(key, width=400, paired=True)
    A, b = np.asarray(net.A), np.asarray(net.b)
    (A1, A2), (A3, A4) = (np.split(half, 2, axis=1) for half in np.split(A, 2))
    assert_array_equal(A1, A4)
    assert_array_equal(A2, A3)
    assert_array_equal(b[:200], -b[200:])
    assert abs(np.corrcoef(A1.ravel(), A2.ravel())[0, 1]) < 5 / 200
    assert abs(A.var() - 1) < 5 * np.sqrt(2) / 200
    assert_allclose(np.linalg.norm(A, 2), 2 * np.sqrt(400), rtol=0.05)


BAD = [
    (dict(in_size=0), ValueError, "in_size must be a positive integer, got 0"),
    (dict(in_size=2.0), ValueError, "in_size must be a positive integer, got 2.0"),
    (dict(in_size=True), ValueError, "in_size must be a positive integer, got True"),
    (dict(width=-3), ValueError, "width must be a positive integer, got -3"),
    (dict(width=7, paired=True), ValueError, "paired=True needs an even width, got 7; use 8"),
    (dict(outputs=0), ValueError, "outputs must be a positive integer, got 0"),
    (dict(outputs=2.0), ValueError, "outputs must be a positive integer, got 2.0"),
    (dict(scaling="norm"), ValueError, r"scaling must be one of \('width', 'operator_norm'\)"),
    (dict(activation="gelu"), ValueError, "activation must be one of .* got 'gelu'"),
    (dict(injection_activation="gelu"), ValueError, "injection_activation must be one of"),
    (dict(trained=("A", "c")), ValueError, r"trained must be one of \('A', 'W', 'b'\), got 'c'"),
    (dict(trained=("A", "A")), ValueError, r"trained must name each leaf once, got \('A', 'A'\)"),
    (dict(dtype=int), TypeError, "dtype must be floating point, got int64; pass float32"),
    (dict(dtype=complex), TypeError, "dtype must be floating point, got complex128"),
    (dict(dtype="float64"), ValueError, "dtype is float64 but JAX is set to 32 bits; call jax.config"),
    (dict(gamma0="0.4"), TypeError, "gamma0 must be a number, got '0.4'"),
    (dict(gamma0=np.ones(2)), TypeError, "gamma0 must be a number, got array"),
    (dict(gamma0=float("nan")), ValueError, "gamma0 must be finite, got nan"),
    (dict(a_init="normal"), TypeError, "a_init must be a function such as implicit_ntk.init.normal"),
    (
        dict(a_init=lambda key, shape, dtype: jnp.ones(shape[0], dtype)),
        ValueError,
        r"a_init must return float32\[12,12\], as it is asked to, got \['float32\[12\]'\]",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options(options: dict, error: type, message: str, unchecked: None) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("weights were drawn before the options were checked")

    arguments = {"key": jax.random.key(0), "in_size": D, "width": M, "a_init": never, **options}
    with pytest.raises(error, match=f"^{message}") as caught:
        ink.ReluImplicit.init(**arguments)
    assert "\n" not in str(caught.value)


def test_beyond_the_certificate_is_legal(key: jax.Array, X: np.ndarray) -> None:
    """Gaussian weights contract for gamma0 < 1/2 only; at 0.6 the equilibrium is there all the same."""
    net = draw(key, gamma0=0.6)
    assert net.contraction() > 1
    assert ink.solve(net, X).succeeded.all()


def test_drawn_inside_jit_and_vmap(key: jax.Array, tol: dict) -> None:
    keys = jax.random.split(key, 2)

    def make(key: jax.Array, gamma0: float | jax.Array) -> ink.ReluImplicit:
        return draw(key, gamma0=gamma0, scaling="operator_norm")

    stacked = eqx.filter_jit(eqx.filter_vmap(make))(keys, jnp.array([0.2, 0.6]))
    alone = make(keys[1], 0.6)
    jax.tree.map(lambda a, b: assert_allclose(a[1], b, **tol), stacked, alone)
