"""One Jacobian, five routes: factors, autodiff, a dense matrix, products with unit vectors, differences."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink

KINDS = ("outer", "autodiff", "dense")
ALL = ("A", "W", "b")
TIGHT = ink.Method(
    solver=ink.Picard(rtol=0.0),
    adjoint=ink.ImplicitAdjoint(ink.Neumann(rtol=0.0)),
    on_failure="nan",
)

Activation = str | Callable[[jax.Array], jax.Array]


def squareplus(x: jax.Array) -> jax.Array:
    """A user's own activation: smooth, nonexpansive."""
    return (x + jnp.sqrt(1 + x * x)) / 2


# width, activation, injection_activation: each of them at least once, and all pairs of the last two;
# and the number of outputs.
FEW = [
    (24, "relu", "identity", None),
    (5, "identity", squareplus, None),
    (12, "tanh", "relu", None),
    (40, squareplus, "tanh", None),
    (12, "relu", "relu", 3),
    (10, "tanh", "tanh", 3),
]
GRID = [
    (m, activation, injection, None)
    for m, activation in zip((24, 40, 5, 12), ("relu", "identity", "tanh", squareplus), strict=True)
    for injection in ("relu", "identity", "tanh", squareplus)
]
CASES = [*FEW, *(pytest.param(*case, marks=pytest.mark.slow) for case in GRID)]

# Stencil of the derivative, error O(h^4): nodes in units of h, weights.
NODES = np.array([-2.0, -1.0, 1.0, 2.0])
WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12
STEP = 3e-4


def network(
    key: jax.Array, width: int, activation: Activation, injection: Activation, outputs: int | None
) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(
        key,
        3,
        width,
        activation=activation,
        injection_activation=injection,
        trained=ALL,
        outputs=outputs,
    )


def numpy_of(activation: Activation) -> Callable[[np.ndarray], np.ndarray]:
    named = {"relu": lambda x: np.maximum(x, 0), "identity": lambda x: x, "tanh": np.tanh}
    return named.get(activation) or (lambda x: (x + np.sqrt(1 + x * x)) / 2)


def slope_of(activation: Activation, x: np.ndarray) -> np.ndarray:
    """By a complex step: exact, and nothing of JAX's."""
    if activation == "relu":
        return (x > 0).astype(x.dtype)
    return numpy_of(activation)(x + 1e-30j).imag / 1e-30


def preactivations(net: ink.ReluImplicit, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What goes into the cell and into the injection, by a solver of the test's own."""
    A, XW = np.asarray(net.gamma * net.A), X @ np.asarray(net.W)
    phi, sigma = numpy_of(net.injection_activation)(XW), numpy_of(net.activation)
    z = np.zeros_like(XW)
    for _ in range(400):
        z = sigma(z @ A + phi)
    return z @ A + phi, XW


def rows_off_the_kinks(key: jax.Array, net: ink.ReluImplicit, n: int) -> np.ndarray:
    """The n of many inputs whose pre-activations stay furthest from zero."""
    X = np.asarray(jax.random.normal(key, (64, 3), net.A.dtype))
    margins = np.minimum(*(np.abs(a).min(axis=1) for a in preactivations(net, X)))
    chosen = np.argsort(margins)[-n:]
    assert margins[chosen].min() > movement(net, X), "a relu may change sides within the stencil"
    return X[chosen]


def movement(net: ink.ReluImplicit, X: np.ndarray) -> float:
    """A bound on what the stencil moves any pre-activation by.

    A parameter's own factor there is an entry of `gamma Z` or of `X`; the equilibrium answers with at
    most `1 / (1 - contraction)` times that.
    """
    z = np.abs(numpy_of(net.activation)(preactivations(net, X)[0])).max()
    return 2 * STEP * max(float(net.gamma) * z, np.abs(X).max()) / (1 - float(net.contraction()))


def flat(tree: object) -> jax.Array:
    """Trained leaves in one vector."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


@eqx.filter_jit
def products(net: ink.ReluImplicit, X: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """For each kind the rows of `J`, `J J^T` by products with every unit vector, and the blocks."""
    N = X.shape[0] * math.prod(net.out_shape)
    unit = jnp.eye(N, dtype=X.dtype).reshape(N, X.shape[0], *net.out_shape)
    found = {}
    for kind in KINDS:
        J = ink.jacobian(net, X, method=TIGHT, kind=kind)
        pulled = jax.vmap(J.rmv)(unit)
        rows = jax.vmap(flat)(pulled)
        kernels = {"pushed": jax.vmap(J.mv)(pulled), "gram": J.gram(), **J.blocks()}
        found[kind] = {"rows": rows, **{name: H.reshape(N, N) for name, H in kernels.items()}}
    return found


def differences(net: ink.ReluImplicit, X: np.ndarray) -> jax.Array:
    """`J` by central differences of `net(X)` in every trained entry: a row an output."""
    params, frozen = eqx.partition(net, ink.trainable(net))
    theta, unravel = jax.flatten_util.ravel_pytree(params)

    def column(e: jax.Array) -> jax.Array:
        def along(s: jax.Array) -> jax.Array:
            return jnp.ravel(eqx.combine(unravel(theta + s * STEP * e), frozen)(X, TIGHT))

        return jnp.asarray(WEIGHTS) @ jax.vmap(along)(NODES) / STEP

    return jax.jit(lambda E: jax.lax.map(column, E, batch_size=256))(np.eye(theta.size)).T


def formula(net: ink.ReluImplicit, X: np.ndarray) -> np.ndarray:
    """GG22, eq. (7)-(9), with every matrix written out; with k outputs a row of `b^T` for each."""
    x, _ = preactivations(net, X)
    Z, A, b, gamma = numpy_of(net.activation)(x), *map(np.asarray, (net.A, net.b, net.gamma))
    b = b.reshape(len(b), -1)
    n, m = Z.shape
    D = np.diag(slope_of(net.activation, x).T.reshape(-1))  # vec stacks columns
    Q = np.eye(m * n) - gamma * D @ np.kron(A.T, np.eye(n))
    J = np.kron(np.eye(n), b.T) @ _sample_major(n, m) @ np.linalg.solve(Q, D)
    return gamma**2 / m * J @ np.kron(np.eye(m), Z @ Z.T) @ J.T


def _sample_major(n: int, m: int) -> np.ndarray:
    """The permutation from `vec(Z)`, unit by unit, to sample by sample."""
    return np.eye(n * m)[np.arange(n * m).reshape(m, n).T.reshape(-1)]


@pytest.mark.parametrize(("width", "activation", "injection", "outputs"), CASES)
def test_every_route(
    width: int,
    activation: Activation,
    injection: Activation,
    outputs: int | None,
    key: jax.Array,
    x64: None,
) -> None:
    key_net, key_X = jax.random.split(key)
    net = network(key_net, width, activation, injection, outputs)
    X = rows_off_the_kinks(key_X, net, 4)
    found = products(net, X)
    want = np.asarray(found["outer"]["rows"])
    scale = np.abs(want).max()
    parts = np.split(want, np.cumsum([net.A.size, net.W.size]), axis=1)
    for kind, J in found.items():
        assert_allclose(J["rows"], want, rtol=1e-12, atol=1e-12 * scale, err_msg=kind)
        assert_allclose(J["pushed"], want @ want.T, rtol=1e-12, err_msg=kind)
        assert_allclose(J["gram"], want @ want.T, rtol=1e-12, err_msg=kind)
        for name, part in zip(ALL, parts, strict=True):
            assert_allclose(J[name], part @ part.T, rtol=1e-11, err_msg=f"{kind} {name}")
    assert_allclose(found["outer"]["A"], formula(net, X), rtol=1e-11)
    assert_allclose(differences(net, X), want, rtol=1e-8, atol=1e-8 * scale)
