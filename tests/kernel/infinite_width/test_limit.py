"""The limit kernels against fixed points that are found, and moments that are integrated, in another way."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk import infinite_width
from implicit_ntk.kernel.infinite_width import _interpolation as interpolation

RHO = (0.3, -0.7, 0.99, 0.995, 0.999, 1 - 1e-6, 1.0, -1.0)
GG22, GLL22 = ("A", "W", "b"), ("A", "W", "u", "v")


def network(kind: type = ink.ReluImplicit, gamma0: float = 0.6, **options: Any) -> Any:
    """A network of two inputs; its width and its weights are of no importance here."""
    trained = GG22 if kind is ink.ReluImplicit else GLL22
    return kind.init(jax.random.key(0), 2, 4, **{"gamma0": gamma0, "trained": trained, **options})


def row_of_correlations(norm: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """One input, and others at the correlations above with it."""
    angles = np.arccos(RHO)
    return np.array([[norm, 0.0]]), np.stack([np.cos(angles), np.sin(angles)], axis=1)


def gg22_identity(gamma0: float, angle: float) -> dict[str, float]:
    """`C = gamma0^2 K + XX`, `K = sqrt(C_ii C_jj) kappa1(corr C)`, unit inputs, in 40 digits by bisection."""
    with mpmath.workdps(40):
        g2, rho, pi = mpmath.mpf(gamma0) ** 2, mpmath.cos(mpmath.mpf(angle)), mpmath.pi
        C = 2 / (2 - g2)  # = C_ii

        def K(psi: mpmath.mpf) -> mpmath.mpf:
            return C * (mpmath.sin(psi) + (pi - psi) * mpmath.cos(psi)) / (2 * pi)

        equation = lambda psi: C * mpmath.cos(psi) - g2 * K(psi) - rho  # noqa: E731
        root = (
            mpmath.findroot(equation, (0, pi), solver="bisect", tol=1e-70, maxsteps=200)
            if angle
            else mpmath.mpf(0)
        )
        S = (pi - root) / (2 * pi)
        Pi = 1 / (1 - g2 * S)
        values = {"A": g2 * K(root) * S * Pi, "W": rho * S * Pi, "b": K(root)}
        values["total"] = K(root) + C * mpmath.cos(root) * S * Pi
        return {name: float(value) for name, value in values.items()}


@pytest.mark.parametrize("gamma0", [0.4, 1.3, 1.41])
def test_gg22_identity(gamma0: float, x64: None) -> None:
    """Every block, and their sum `K + C S Pi`, against 40 digits."""
    net = network(gamma0=gamma0, injection_activation="identity")
    blocks = infinite_width.ntk_blocks(net, *row_of_correlations())
    for j, angle in enumerate(np.arccos(RHO)):
        want = gg22_identity(float(net.gamma0), float(angle))
        found = {name: float(H[0, j]) for name, H in blocks.items()}
        found["total"] = sum(found.values())
        for name, value in want.items():
            assert_allclose(found[name], value, rtol=1e-10, atol=1e-13, err_msg=f"{name} {RHO[j]}")


@pytest.mark.parametrize("rho", [0.6, -0.8, 0.995])
@pytest.mark.parametrize("gamma0", [0.4, 1.2])
def test_relu_injection(gamma0: float, rho: float, x64: None, by_wedges: Callable) -> None:
    """All blocks of GG22 and GLL22, for norms 2 and 3: `K` solves its equation, the rest follows."""
    X1, X2 = np.array([[2.0, 0.0]]), 3.0 * np.array([[rho, np.sqrt(1 - rho**2)], [1.0, 0.0]])
    blocks = infinite_width.ntk_blocks(network(gamma0=gamma0), X1, X2)
    K, q = (float(x) / 6 for x in blocks["b"][0])
    g2, theta = gamma0**2, np.arccos(rho)
    s = g2 * q
    half = 0.25 + np.arcsin(1 / np.sqrt(1 + s)) / (2 * np.pi)
    assert_allclose(q, s / 4 + (1 + s) * half + np.sqrt(s) / (2 * np.pi), rtol=1e-13)
    want, S, T = by_wedges(theta, np.arccos(K / q), s)
    assert_allclose(K, want, rtol=1e-10 * (1 - g2 * S))
    Pi = 1 / (1 - g2 * S)
    assert_allclose(blocks["A"][0, 0], 6 * g2 * K * S * Pi, rtol=1e-10)
    assert_allclose(blocks["W"][0, 0], 6 * rho * T * Pi, rtol=1e-10)
    full = infinite_width.ntk_blocks(network(ink.ReluImplicitFull, gamma0), X1, X2)
    assert_allclose(full["u"], blocks["b"], rtol=1e-13)
    assert_allclose(full["A"], blocks["A"], rtol=1e-13)
    kappa0, kappa1 = (float(k(np.array(rho))) for k in (infinite_width.kappa0, infinite_width.kappa1))
    assert_allclose(full["W"][0, 0], 6 * rho * (T * Pi + kappa0), rtol=1e-10)
    assert_allclose(full["v"][0, 0], 6 * kappa1, rtol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("phi", ["relu", "identity"])
def test_weight_tied(activation: str, phi: str, x64: None) -> None:
    """It tends to the equilibrium's with the depth, for every block, at all correlations."""
    net = network(gamma0=0.5, activation=activation, injection_activation=phi)
    X1, X2 = row_of_correlations(1.7)
    limit = infinite_width.ntk_blocks(net, X1, X2)
    distance = []
    for depth in (1, 4, 30):
        tied = infinite_width.ntk_blocks(ink.WeightTied(net, depth), X1, X2)
        distance.append(max(np.abs(tied[k] - limit[k]).max() for k in GG22))
    assert distance[0] > distance[1] > 1e-4
    assert distance[2] < 1e-10


def test_weight_tied_identity_by_hand(x64: None) -> None:
    """`H^(L) = sum_l gamma0^2 K^(l-1) S^l prod_(k>l) gamma0^2 S^k`, and its distance to the equilibrium's."""
    X = np.random.default_rng(3).normal(size=(8, 4))
    net = ink.ReluImplicit.init(jax.random.key(0), 4, 4, gamma0=0.8, injection_activation="identity")
    limit, XX = np.asarray(infinite_width.ntk(net, X)), X @ X.T
    distances = []
    for depth in (2, 3, 6, 11, 18):
        K, terms, S = [np.zeros_like(XX)], [], []
        for _ in range(depth):
            C = 0.64 * K[-1] + XX
            root = np.sqrt(np.diag(C)[:, None] * np.diag(C))
            angle = np.arccos(np.clip(C / root, -1, 1))
            K.append(root * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi))
            S.append((np.pi - angle) / (2 * np.pi))
        terms = [0.64 * K[k] * S[k] * np.prod([0.64 * s for s in S[k + 1 :]], axis=0) for k in range(depth)]
        tied = infinite_width.ntk(ink.WeightTied(net, depth), X)
        assert_allclose(tied, sum(terms), rtol=1e-6, atol=1e-7)  # whose diagonal goes through an arccos
        distances.append(np.linalg.norm(tied - limit) / np.linalg.norm(limit))
    # The relative distances at unit correlation one are .54, .24, 1.5e-2, 8.8e-5, 4.9e-8; less off it.
    assert_allclose(distances, (0.53, 0.23, 1.4e-2, 7.7e-5, 4.0e-8), rtol=0.25)


def test_linear_cell(x64: None) -> None:
    """`K = P0 / (1 - gamma0^2)`, `S = 1`; with the identity before it no approximation is left."""
    X1, X2 = row_of_correlations(1.5)
    XX, g2 = X1 @ X2.T, 0.36
    for phi, P0, P1 in (
        ("identity", XX, np.ones_like(XX)),
        ("relu", 1.5 * infinite_width.kappa1(XX / 1.5), infinite_width.kappa0(XX / 1.5)),
    ):
        Pi = 1 / (1 - g2)
        net = network(activation="identity", injection_activation=phi)
        blocks = infinite_width.ntk_blocks(net, X1, X2)
        assert_allclose(blocks["b"], P0 * Pi, rtol=1e-12, atol=1e-15)
        assert_allclose(blocks["A"], g2 * P0 * Pi**2, rtol=1e-12, atol=1e-15)
        assert_allclose(blocks["W"], P1 * Pi * XX, rtol=1e-7, atol=1e-15)  # kappa0 of a rounded rho
        full = network(ink.ReluImplicitFull, activation="identity", injection_activation=phi)
        assert_allclose(
            infinite_width.ntk_blocks(full, X1, X2)["W"], (Pi + 1) * P1 * XX, rtol=1e-7, atol=1e-15
        )


@pytest.mark.parametrize("phi", ["relu", "identity"])
@pytest.mark.parametrize("gamma0", [0.1, 0.9, 1.3])
def test_float32(gamma0: float, phi: str) -> None:
    """It agrees with float64 to float32's rounding, a little amplified, at all correlations."""
    X1, X2 = row_of_correlations(3.0)
    single = network(gamma0=gamma0, injection_activation=phi, dtype="float32")
    small = infinite_width.ntk_blocks(single, X1.astype("float32"), X2.astype("float32"))
    with jax.enable_x64(True):
        double = network(gamma0=gamma0, injection_activation=phi, dtype="float64")
        large = infinite_width.ntk_blocks(double, X1, X2)
        large = {name: np.asarray(H) for name, H in large.items()}
    for name, H in large.items():
        assert small[name].dtype == np.float32
        assert_allclose(small[name], H, atol=3e-6 * np.abs(H).max())


@pytest.mark.parametrize("gamma0", [0.1, 0.4, 1.0, 1.4])
def test_interpolation(gamma0: float, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose pairs are interpolated, highly correlated ones among them, and pair by pair."""
    random = np.random.default_rng(1)
    X = np.concatenate([random.normal(size=(9, 3)), [1.0, 1.0, 1.0] + 1e-3 * random.normal(size=(4, 3))])
    net = ink.ReluImplicit.init(jax.random.key(0), 3, 4, gamma0=gamma0, trained=GG22)
    assert len(X) ** 2 > interpolation.POINTS
    interpolated = infinite_width.ntk_blocks(net, X)
    direct = [infinite_width.ntk_blocks(net, X[i : i + 1], X) for i in range(len(X))]
    for name, H in interpolated.items():
        want = np.concatenate([row[name] for row in direct])
        assert_allclose(H, want, atol=1e-11 * np.abs(want).max())


def test_positive_definite(x64: None) -> None:
    """A grey-image-like batch (correlations around .9) keeps a resolved smallest eigenvalue."""
    random = np.random.default_rng(2)
    X = 1.0 + 0.3 * random.normal(size=(12, 30))
    net = ink.ReluImplicitFull.init(jax.random.key(0), 30, 4)
    H = infinite_width.ntk(net, X)
    assert_allclose(H, H.T, rtol=1e-12)
    assert ink.spectrum(H, relative_residual=0).resolved


@pytest.mark.parametrize("phi", [pytest.param("relu", marks=pytest.mark.slow), "identity"])
def test_gamma_is_differentiated(phi: str, x64: None, differences: Callable) -> None:
    """Reverse mode, and forward mode twice, against differences."""
    X1, X2 = row_of_correlations()
    net = network(gamma0=0.9, injection_activation=phi)

    def value(gamma: jax.Array) -> jax.Array:
        return infinite_width.ntk(eqx.tree_at(lambda net: net.gamma, net, gamma), X1, X2).sum()

    def slope(gamma: jax.Array) -> jax.Array:
        return jax.jvp(value, (gamma,), (jax.numpy.ones_like(gamma),))[1]

    value_at, slope_at = jax.jit(value), jax.jit(slope)
    want = differences(lambda t: value_at(net.gamma + t), 1e-3)
    assert_allclose(slope_at(net.gamma), want, rtol=1e-8)
    assert_allclose(jax.grad(value)(net.gamma), want, rtol=1e-8)
    second = jax.jvp(slope, (net.gamma,), (jax.numpy.ones_like(net.gamma),))[1]
    assert_allclose(second, differences(lambda t: slope_at(net.gamma + t), 1e-3), rtol=1e-7)


def test_inputs_are_differentiated(x64: None, differences: Callable) -> None:
    """Also on the diagonal, where the angle has no direction, and for many pairs, which are interpolated."""
    random = np.random.default_rng(4)
    X, V, C = random.normal(size=(12, 2)), random.normal(size=(12, 2)), random.normal(size=(12, 12))
    value = jax.jit(lambda X: (C * infinite_width.kernel(network(trained=("A", "b")), X).ntk).sum())
    assert_allclose((jax.grad(value)(X) * V).sum(), differences(lambda t: value(X + t * V)), rtol=1e-6)
