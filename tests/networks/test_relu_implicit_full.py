"""GLL22's network: its kernel blocks by four routes, its relation to GG22's, the pairing, bad options."""

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
ALL = ("A", "W", "u", "v")
SUBSETS = (*((name,) for name in ALL), ALL[::-1])
CASES = [
    (None, "relu"),
    (2, "tanh"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in ((None, "tanh"), (2, "relu"))),
]
FUNCTIONS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "identity": (lambda x: x, np.ones_like),
}


def draw(key: jax.Array, **options: Any) -> ink.ReluImplicitFull:
    return ink.ReluImplicitFull.init(key, D, **{"width": M, "gamma0": 0.3, **options})


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, D))  # which JAX rounds to float32 where x64 is off


def theory(net: ink.ReluImplicitFull, X: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Outputs and blocks as the theory sheet writes them, section 1.2, with dense linear algebra."""
    A, W, u, v, g = (np.asarray(leaf) for leaf in (net.A, net.W, net.u, net.v, net.gamma))
    m, out = net.width, u.shape[1:]
    u, v = u.reshape(m, -1), v.reshape(m, -1)  # a column an output
    sigma, slope = FUNCTIONS[net.activation]
    inject, injection_slope = FUNCTIONS[net.injection_activation]
    Phi = inject(X @ W.T) / np.sqrt(m)
    Z = np.zeros_like(Phi)
    for _ in range(400):
        Z = sigma(g * Z @ A.T + Phi)
    D_, E = slope(g * Z @ A.T + Phi), injection_slope(X @ W.T)
    P = np.stack([np.linalg.solve((np.eye(m) - g * d[:, None] * A).T, u).T for d in D_])  # (n, k, m)
    Lam = D_[:, None] * P
    S = E[:, None] * (Lam + v.T[None])

    def block(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The outer products of outputs c and d of samples i and j, (n, *out, n, *out)."""
        found = np.einsum("icp,jdp,iq,jq->icjd", left, left, right, right)
        return found.reshape(len(X), *out, len(X), *out)

    unit = np.broadcast_to(np.eye(u.shape[1]), (len(X), u.shape[1], u.shape[1]))
    blocks = {
        "A": g**2 * block(Lam, Z),
        "W": block(S, X) / m,
        "u": block(unit, Z),
        "v": block(unit, Phi),
    }
    return (Z @ u + Phi @ v).reshape(len(X), *out), blocks


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
    assert_allclose(net(X, tight), u, rtol=1e-12, atol=1e-14)
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
    at = ink.jacobian(draw(key, outputs=2, injection_activation="tanh"), X, method=tight).linearization

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


def test_injection_is_fixed_without_its_weights(key: jax.Array) -> None:
    assert draw(key, trained=("A", "u", "v")).injection_is_fixed
    assert not draw(key, trained=("W",)).injection_is_fixed


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_is_gg22_without_v(activation: str, key: jax.Array, X: np.ndarray, x64: None) -> None:
    """`W -> sqrt(m) W^T`, `A -> A^T`, `u = b/sqrt(m)`, `v = 0` turn GG22's network into this one."""
    gg = ink.ReluImplicit.init(key, D, M, activation=activation, trained=("A", "W", "b"))
    root = np.sqrt(M)
    net = ink.ReluImplicitFull(
        gg.A.T, root * gg.W.T, gg.b / root, jnp.zeros(M), gg.gamma, activation=activation
    )
    assert_allclose(net(X), gg(X), rtol=1e-10, atol=1e-12)
    theirs, ours = ink.ntk_blocks(gg, X), ink.ntk_blocks(net, X)
    for name, other, factor in (("A", "A", 1), ("W", "W", 1 / M), ("u", "b", M)):
        assert_allclose(ours[name], factor * theirs[other], rtol=1e-9, atol=1e-11, err_msg=name)


def test_linear_cell(key: jax.Array, X: np.ndarray, dtype: np.dtype, tol_solve: dict) -> None:
    """`f = Phi ((I - gamma A)^-T u + v)` where sigma is the identity."""
    net = draw(key, activation="identity", injection_activation="identity")
    A, W, u, v = (np.asarray(leaf, float) for leaf in (net.A, net.W, net.u, net.v))
    want = X @ W.T / np.sqrt(M) @ (np.linalg.solve((np.eye(M) - float(net.gamma) * A).T, u) + v)
    assert net(X).dtype == dtype
    assert_allclose(net(X), want, **tol_solve)


def test_leaves(key: jax.Array, dtype: np.dtype) -> None:
    net = draw(key, dtype=dtype)
    assert forms(net) == [f"{dtype}[{s}]" for s in ("7,7", "7,3", "7", "7", "")]
    assert forms(draw(key, outputs=2))[2:4] == [f"{dtype}[7,2]"] * 2
    assert (net.in_size, net.width, net.out_shape) == (D, M, ())
    assert draw(key, outputs=1).out_shape == (1,)
    assert net.trained == ALL
    big = draw(key, width=400)
    for leaf in (big.u, big.v):
        assert set(np.asarray(leaf).tolist()) == {-1.0, 1.0}
    assert abs(np.mean(big.u * big.v)) < 5 / 20, "u and v are drawn apart"
    assert abs(np.mean(big.W)) < 5 / np.sqrt(big.W.size)
    assert abs(np.var(big.W) - 1) < 5 * np.sqrt(2 / big.W.size)


def test_scaling(key: jax.Array, tol: dict) -> None:
    net = draw(key)
    assert_allclose(net.gamma0, 0.3, **tol)
    assert_allclose(net.contraction(), 0.3 / np.sqrt(M) * np.linalg.norm(net.A, 2), **tol)
    scaled = draw(key, gamma0=0.7, scaling="operator_norm", a_init=ink.init.half_normal)
    assert_allclose(scaled.contraction(), 0.7, **tol)
    with pytest.warns(UserWarning, match=r"half_normal .* pass scaling='operator_norm'$"):
        draw(key, a_init=ink.init.half_normal)


@pytest.mark.parametrize("outputs", [None, 2])
def test_paired_network_vanishes(outputs: int | None, key: jax.Array, X: np.ndarray, x64: None) -> None:
    net = draw(key, width=12, paired=True, outputs=outputs)
    J = ink.jacobian(net, X)
    (A1, A2), (A3, A4) = (np.split(half, 2, axis=1) for half in np.split(np.asarray(net.A), 2))
    assert_array_equal(A1, A4)
    assert_array_equal(A2, A3)
    assert np.abs(A1 - A2).min() > 0
    assert_allclose(*np.split(np.asarray(J.linearization.equilibrium.z), 2, axis=-1), atol=1e-14)
    P, Q = np.split(np.asarray(J.linearization.adjoint.z), 2, axis=-1)
    assert_allclose(P, -Q, atol=1e-14)
    assert np.abs(J.linearization.equilibrium.z).max() > 0.1
    assert_allclose(net(X), 0, atol=1e-14)


@pytest.mark.slow
def test_pairing_keeps_the_mean_kernel(X: np.ndarray, x64: None) -> None:
    """The theory sheet, section 4: over many draws both means agree within their sampling error."""

    def traces(paired: bool) -> np.ndarray:
        keys = jax.random.split(jax.random.key(paired), 200)

        def trace(key: jax.Array) -> jax.Array:
            return jnp.trace(ink.ntk(draw(key, width=128, gamma0=0.4, paired=paired, trained=("A",)), X))

        return np.asarray(eqx.filter_jit(eqx.filter_vmap(trace))(keys))

    iid, paired = traces(False), traces(True)
    error = np.sqrt(iid.var() / iid.size + paired.var() / paired.size)
    assert error < 0.05 * iid.mean()
    assert abs(iid.mean() - paired.mean()) < 4 * error + 0.03 * iid.mean()


BAD = [
    (dict(in_size=0), ValueError, "in_size must be a positive integer, got 0"),
    (dict(width=7, paired=True), ValueError, "paired=True needs an even width, got 7; use 8"),
    (dict(outputs=0), ValueError, "outputs must be a positive integer, got 0"),
    (dict(scaling="norm"), ValueError, r"scaling must be one of \('width', 'operator_norm'\)"),
    (dict(activation="gelu"), ValueError, "activation must be one of .* got 'gelu'"),
    (dict(injection_activation="gelu"), ValueError, "injection_activation must be one of"),
    (dict(trained=("A", "b")), ValueError, r"trained must be one of \('A', 'W', 'u', 'v'\), got 'b'"),
    (dict(trained=("u", "u")), ValueError, r"trained must name each leaf once, got \('u', 'u'\)"),
    (dict(dtype=int), TypeError, "dtype must be floating point"),
    (dict(gamma0="0.4"), TypeError, "gamma0 must be a number, got '0.4'"),
    (dict(gamma0=float("inf")), ValueError, "gamma0 must be finite, got inf"),
    (dict(a_init="normal"), TypeError, "a_init must be a function such as implicit_ntk.init.normal"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options(options: dict, error: type, message: str, unchecked: None) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("weights were drawn before the options were checked")

    arguments = {"key": jax.random.key(0), "in_size": D, "width": M, "a_init": never, **options}
    with pytest.raises(error, match=f"^{message}") as caught:
        ink.ReluImplicitFull.init(**arguments)
    assert "\n" not in str(caught.value)
