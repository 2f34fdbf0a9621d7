"""N22's network: its kernel blocks by four routes, what its parametrisation certifies, bad options."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.jacobian import AutodiffJacobian, Linearization, OuterProductJacobian
from implicit_ntk.networks import forms

D, M = 3, 7
ALL = ("A", "B", "U", "u")
SUBSETS = (*((name,) for name in ALL), ALL[::-1])
CASES = [
    (None, "relu"),
    (2, "tanh"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in ((None, "tanh"), (2, "relu"))),
]
FUNCTIONS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
}


def draw(key: jax.Array, **options: Any) -> ink.MonotoneImplicit:
    """Weights so small that Picard converges, if nothing else is said."""
    return ink.MonotoneImplicit.init(key, D, **{"width": M, "scale": 0.2, **options})


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, D))  # which JAX rounds to float32 where x64 is off


def weights(net: ink.MonotoneImplicit) -> np.ndarray:
    A, B, mu = (np.asarray(leaf, float) for leaf in (net.A, net.B, net.monotonicity))
    return (1 - mu) * np.eye(net.width) - A.T @ A + B - B.T


def states(net: ink.MonotoneImplicit, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Z`, slopes (n, m) and `P` (n, k, m), by solvers of the test's own."""
    W, bias = weights(net), X @ np.asarray(net.U, float).T
    sigma, slope = FUNCTIONS[net.activation]
    eye = np.eye(net.width)
    # Forward-backward steps, which need a projection; for the tanh plain ones.
    step = 1.0 if net.activation == "tanh" else float(net.monotonicity) / np.linalg.norm(eye - W, 2) ** 2
    Z = np.zeros_like(bias)
    for _ in range(1000):
        Z = sigma(Z - step * (Z @ (eye - W).T - bias))
    if net.activation == "relu":  # Newton's method, for the rest of the way
        for _ in range(net.width):
            active = (Z @ W.T + bias > 0) * 1.0
            Z = np.stack(
                [np.linalg.solve(eye - a[:, None] * W, a * b) for a, b in zip(active, bias, strict=True)]
            )
    slopes = slope(Z @ W.T + bias)
    u = np.asarray(net.u, float).reshape(net.width, -1)
    P = np.stack([np.linalg.solve((eye - d[:, None] * W).T, u).T for d in slopes])
    return Z, slopes, P


def theory(net: ink.MonotoneImplicit, X: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Outputs and blocks as the theory sheet writes them, section 1.3, an entry a pair of outputs."""
    Z, slopes, P = states(net, X)
    A, u = np.asarray(net.A), np.asarray(net.u)
    out, k, Q = u.shape[1:], P.shape[1], A.T @ A
    blocks = {name: np.zeros((len(X), k, len(X), k)) for name in ALL}
    for c in range(k):
        for d in range(k):
            V, V2 = slopes * P[:, c], slopes * P[:, d]
            pair = {
                "A": (Z @ Q @ V2.T) * (V @ Z.T)
                + (Z @ Q @ Z.T) * (V @ V2.T)
                + (V @ Q @ V2.T) * (Z @ Z.T)
                + (V @ Q @ Z.T) * (Z @ V2.T),
                "B": 2 * ((V @ V2.T) * (Z @ Z.T) - (V @ Z.T) * (Z @ V2.T)),
                "U": (V @ V2.T) * (X @ X.T),
                "u": (c == d) * Z @ Z.T,
            }
            for name in ALL:
                blocks[name][:, c, :, d] = pair[name]
    shape = (len(X), *out)
    return (Z @ u).reshape(shape), {name: block.reshape(shape * 2) for name, block in blocks.items()}


@pytest.mark.parametrize(("outputs", "activation"), CASES)
def test_blocks_by_every_route(
    outputs: int | None,
    activation: str,
    key: jax.Array,
    x64: None,
    tight: ink.Method,
    differences: Callable,
    off_the_kinks: Callable,
    rng: np.random.Generator,
) -> None:
    net = draw(key, outputs=outputs, activation=activation)
    X = off_the_kinks(net)
    u, want = theory(net, X)
    assert_allclose(net(X, tight), u, rtol=1e-12, atol=1e-13)
    J = ink.jacobian(net, X, method=tight)
    assert type(J).__name__ == "OuterProductJacobian"
    found, rows = J.blocks(), differences(net, X)
    assert set(found) == set(ALL)
    for name, block in found.items():
        scale = np.abs(want[name]).max()
        assert_allclose(block, want[name], rtol=0, atol=1e-12 * scale, err_msg=name)
        flat = rows[name].reshape(*u.shape, -1)
        assert_allclose(block, np.tensordot(flat, flat, (-1, -1)), rtol=0, atol=1e-8 * scale, err_msg=name)
    assert_allclose(ink.ntk(net, X, method=tight), sum(want.values()), rtol=1e-12, atol=1e-12)
    r = rng.normal(size=u.shape)
    loss = eqx.filter_grad(lambda net: jnp.sum(r * net(X, tight)))(net)
    for name in ALL:
        gradient = getattr(J.rmv(r), name)
        assert_allclose(gradient, getattr(loss, name), rtol=1e-11, atol=1e-12)
        assert_allclose(gradient, np.tensordot(r, rows[name], r.ndim), rtol=1e-8, atol=1e-8)


def test_every_subset_of_leaves(key: jax.Array, X: np.ndarray, x64: None, tight: ink.Method) -> None:
    """Factors against autodiff, each leaf alone, and all in another order: the states are the same."""
    at = ink.jacobian(draw(key, outputs=2), X, method=tight).linearization

    @eqx.filter_jit
    def blocks(at: Linearization) -> list[tuple]:
        found = []
        for trained in SUBSETS:
            part = dataclasses.replace(at, net=dataclasses.replace(at.net, trained=trained))
            kinds = OuterProductJacobian(part), AutodiffJacobian(part)
            found.append(tuple(J.kernel_blocks(J) for J in kinds))
        return found

    for trained, (factored, autodiff) in zip(SUBSETS, blocks(at), strict=True):
        assert set(factored) == set(autodiff) == set(trained)
        for name in trained:
            assert factored[name].shape == (4, 2, 4, 2)
            assert_allclose(factored[name], autodiff[name], rtol=1e-12, atol=1e-12, err_msg=str(trained))


@pytest.mark.parametrize("monotonicity", [0.3, 2.0])
def test_monotone_whatever_the_norm(monotonicity: float, key: jax.Array, X: np.ndarray, x64: None) -> None:
    """Far from a contraction the equilibrium is there, bounded, and the factors are right at it."""
    net = draw(key, monotonicity=monotonicity, scale=2.0, outputs=2)
    W = weights(net)
    assert_allclose(net.W, W, rtol=1e-13, atol=1e-13)
    assert net.contraction() > 1
    least = np.linalg.eigvalsh(np.eye(M) - (W + W.T) / 2)[0]
    assert least >= monotonicity * (1 - 1e-12)
    Z, _, P = states(net, X)
    phi = net.inject(jnp.asarray(X))
    assert_allclose(net.cell(jnp.asarray(Z), phi), Z, atol=1e-10)
    assert np.linalg.norm(Z) <= np.linalg.norm(X) * np.linalg.norm(net.U, 2) / monotonicity  # N22, 3.3.3
    factors = net.gradient_factors(jnp.asarray(X), phi, jnp.asarray(Z), jnp.asarray(P))
    _, want = theory(net, X)
    for name, terms in factors.items():
        rows = sum(term.left[..., :, None] * term.right[..., None, :] for term in terms)
        flat = np.asarray(rows).reshape(4, 2, -1)
        scale = np.abs(want[name]).max()
        assert_allclose(np.tensordot(flat, flat, (-1, -1)), want[name], atol=1e-11 * scale, err_msg=name)


def test_weights_are_formed_once_a_solve(key: jax.Array, X: np.ndarray) -> None:
    net = draw(key)
    phi = net.inject(jnp.asarray(X))
    z = net.initial_state(phi)
    assert str(jax.make_jaxpr(net.cell)(z, phi)).count("dot_general") == 1
    assert_array_equal(net.affine(phi)(z), net.cell(z, phi))


def test_linear_cell(key: jax.Array, X: np.ndarray, dtype: np.dtype, tol_solve: dict) -> None:
    """`f = X U^T (I - W)^-T u` where sigma is the identity."""
    net = draw(key, activation="identity")
    u = np.linalg.solve((np.eye(M) - weights(net)).T, np.asarray(net.u, float))
    assert net(X).dtype == dtype
    assert_allclose(net(X), X @ np.asarray(net.U, float).T @ u, **tol_solve)


def test_leaves(key: jax.Array, dtype: np.dtype) -> None:
    net = draw(key, dtype=dtype)
    assert forms(net) == [f"{dtype}[{s}]" for s in ("7,7", "7,7", "7,3", "7", "")]
    assert forms(draw(key, outputs=2))[3] == f"{dtype}[7,2]"
    assert (net.in_size, net.width, net.out_shape, net.trained) == (D, M, (), ALL)
    assert draw(key, outputs=1).out_shape == (1,)


def test_variances(key: jax.Array) -> None:
    """Of `A` and `B` by default that of the uniform law on `[-1, 1] / sqrt(m)`."""
    m = 400
    net = ink.MonotoneImplicit.init(key, m, m, outputs=m, injection_scale=10.0, readout_scale=3.0)
    for leaf, variance in ((net.A, 1 / (3 * m)), (net.B, 1 / (3 * m)), (net.U, 100.0), (net.u, 9 / m)):
        leaf = np.asarray(leaf) / np.sqrt(variance)
        assert abs(leaf.mean()) < 5 / m
        assert abs(leaf.var() - 1) < 5 * np.sqrt(2) / m
    assert abs(np.corrcoef(net.A.ravel(), net.B.ravel())[0, 1]) < 5 / m
    uniform = ink.MonotoneImplicit.init(key, 3, m, a_init=ink.init.uniform)
    assert np.sqrt(m) * np.abs(uniform.A).max() <= 1 + 1e-6


def test_no_readout_no_outputs(key: jax.Array, X: np.ndarray) -> None:
    assert_array_equal(draw(key, readout_scale=0)(X), np.zeros(4))


def test_norms(key: jax.Array, tol: dict) -> None:
    net = draw(key, monotonicity=0.5)
    W = weights(net)
    assert_allclose(net.contraction(), np.linalg.norm(W, 2), **tol)
    assert_allclose(net.lipschitz(), np.linalg.norm(np.eye(M) - W, 2), **tol)


def test_injection_is_fixed_without_its_weights(key: jax.Array) -> None:
    assert draw(key, trained=("u",)).injection_is_fixed
    for name in ("A", "B", "U"):
        assert not draw(key, trained=(name, "u")).injection_is_fixed


@pytest.mark.parametrize("outputs", [None, 2])
def test_paired_network_vanishes(outputs: int | None, key: jax.Array, X: np.ndarray, x64: None) -> None:
    net = draw(key, width=12, paired=True, outputs=outputs)
    for leaf in (net.A, net.B):
        (first, second), (third, fourth) = (np.split(h, 2, axis=1) for h in np.split(np.asarray(leaf), 2))
        assert_array_equal(first, fourth)
        assert_array_equal(second, third)
        assert np.abs(first - second).min() > 0
    J = ink.jacobian(net, X)
    z = np.asarray(J.linearization.equilibrium.z)
    assert_allclose(*np.split(z, 2, axis=-1), atol=1e-13)
    P, Q = np.split(np.asarray(J.linearization.adjoint.z), 2, axis=-1)
    assert_allclose(P, -Q, atol=1e-13)
    assert np.abs(z).max() > 0.1
    assert_allclose(net(X), 0, atol=1e-13)


BAD = [
    (dict(in_size=0), ValueError, "in_size must be a positive integer, got 0"),
    (dict(width=7, paired=True), ValueError, "paired=True needs an even width, got 7; use 8"),
    (dict(outputs=1.5), ValueError, "outputs must be a positive integer, got 1.5"),
    (dict(monotonicity=0.0), ValueError, "monotonicity must be positive, got 0.0"),
    (dict(monotonicity=-1), ValueError, "monotonicity must be positive, got -1"),
    (dict(monotonicity=float("nan")), ValueError, "monotonicity must be finite, got nan"),
    (dict(monotonicity=None), TypeError, "monotonicity must be a number, got None"),
    (dict(scale=np.ones(2)), TypeError, "scale must be a number, got array"),
    (dict(injection_scale="big"), TypeError, "injection_scale must be a number, got 'big'"),
    (dict(readout_scale=float("inf")), ValueError, "readout_scale must be finite, got inf"),
    (dict(activation="gelu"), ValueError, "activation must be one of .* got 'gelu'"),
    (dict(trained=("W",)), ValueError, r"trained must be one of \('A', 'B', 'U', 'u'\), got 'W'"),
    (dict(trained=("u", "u")), ValueError, r"trained must name each leaf once, got \('u', 'u'\)"),
    (dict(dtype=int), TypeError, "dtype must be floating point"),
    (dict(a_init="normal"), TypeError, "a_init must be a function such as implicit_ntk.init.normal"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options(options: dict, error: type, message: str, unchecked: None) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("weights were drawn before the options were checked")

    arguments = {"key": jax.random.key(0), "in_size": D, "width": M, "a_init": never, **options}
    with pytest.raises(error, match=f"^{message}") as caught:
        ink.MonotoneImplicit.init(**arguments)
    assert "\n" not in str(caught.value)


def test_drawn_inside_jit_and_vmap(key: jax.Array, tol: dict) -> None:
    keys = jax.random.split(key, 2)

    def make(key: jax.Array, monotonicity: float | jax.Array) -> ink.MonotoneImplicit:
        return draw(key, monotonicity=monotonicity)

    stacked = eqx.filter_jit(eqx.filter_vmap(make))(keys, jnp.array([0.2, 0.6]))
    alone = make(keys[1], 0.6)
    jax.tree.map(lambda a, b: assert_allclose(a[1], b, **tol), stacked, alone)


def test_certificates_in_full_precision(key: jax.Array, products: Callable) -> None:
    """`W` as it is read is exact whatever the context; a solve forms it at the precision of its method."""
    net, method = draw(key), ink.Method(precision="default")

    def precisions(function: Callable) -> set:
        with method.products():
            return {eqn.params["precision"] for eqn in products(jax.make_jaxpr(function)(net))}

    highest, default = (jax.lax.Precision(name) for name in ("highest", "default"))
    for certificate in (lambda net: net.W, lambda net: net.contraction(), lambda net: net.lipschitz()):
        assert precisions(certificate) == {(highest, highest)}
    assert precisions(lambda net: net.inject(jnp.ones((2, D)))) == {(default, default)}
