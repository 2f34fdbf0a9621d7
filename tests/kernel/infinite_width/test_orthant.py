"""The moments of `u = h + relu(g)` against two-dimensional quadrature that knows nothing of Plackett's path."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate
from scipy.special import ndtr

from implicit_ntk.kernel.infinite_width._orthant import pair_of_inputs, same_input

NODES, WEIGHTS = np.polynomial.legendre.leggauss(100)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


def density(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def both_below(a: np.ndarray, b: np.ndarray, r: float) -> np.ndarray:
    """`Phi2(a, b; r)` by Plackett's integral over the angle up to `arcsin r`."""
    t = NODES * np.arcsin(r)
    square = a[..., None] ** 2 + b[..., None] ** 2 - 2 * a[..., None] * b[..., None] * np.sin(t)
    integral = (WEIGHTS * np.exp(-square / (2 * np.cos(t) ** 2))).sum(-1)
    return ndtr(a) * ndtr(b) + np.arcsin(r) / (2 * np.pi) * integral


def shifted_relu(a: np.ndarray, b: np.ndarray, s: float, psi: float) -> tuple[np.ndarray, np.ndarray]:
    """`E[relu(h + a) relu(h' + b)]` and `P(h + a > 0, h' + b > 0)`."""
    al, be, r, w = a / np.sqrt(s), b / np.sqrt(s), np.cos(psi), np.sin(psi)
    P = both_below(al, be, r)
    joint = np.exp(-(al**2 + be**2 - 2 * r * al * be) / (2 * w**2)) / (2 * np.pi * w)
    edges = al * density(be) * ndtr((al - r * be) / w) + be * density(al) * ndtr((be - r * al) / w)
    return s * ((al * be + r) * P + edges + w**2 * joint), P


def by_wedges(theta: float, psi: float, s: float) -> tuple[float, float, float]:
    """`E[relu(u) relu(u')]`, `P(u, u' > 0)` and `P(u, u', g, g' > 0)`, each sign pattern of (g, g') a wedge.

    In the plane `g = R cos t`, `g' = R cos(t - theta)`.
    """
    half = np.pi / 2
    radius = 10 * NODES
    K, S, T = 0.0, 0.0, 0.0
    for signs, low, high in (
        ("++", theta - half, half),
        ("+-", half, half + theta),
        ("-+", -half, theta - half),
        ("--", half + theta, half + np.pi),
    ):
        t = low + (high - low) * NODES
        a = np.maximum(radius[:, None] * np.cos(t), 0) * (signs[0] == "+")
        b = np.maximum(radius[:, None] * np.cos(t - theta), 0) * (signs[1] == "+")
        weight = (10 * WEIGHTS * radius * np.exp(-(radius**2) / 2))[:, None] * WEIGHTS * (high - low)
        moment, P = shifted_relu(a, b, s, psi)
        K += (weight * moment).sum() / (2 * np.pi)
        S += (weight * P).sum() / (2 * np.pi)
        T += (weight * P).sum() / (2 * np.pi) * (signs == "++")
    return K, S, T


@pytest.mark.parametrize("s", [0.01, 0.2, 5.0])
@pytest.mark.parametrize(
    ("theta", "psi"), [(0.045, 0.04), (0.5, 0.4), (1.2, 1.5), (2.5, 0.7), (np.pi, 1.4)]
)
def test_pair(theta: float, psi: float, s: float, x64: None) -> None:
    lost, S, T = pair_of_inputs(*map(jnp.asarray, (theta, psi, s)))
    K = same_input(jnp.asarray(s))[0] - lost
    assert_allclose((K, S, T), by_wedges(theta, psi, s), rtol=0, atol=2e-13)


@pytest.mark.parametrize("s", [1e-4, 0.2, 30.0])
def test_one_input(s: float, x64: None) -> None:
    """By adaptive quadrature over g, the Gaussian h being done in closed form."""

    def over_g(function, low: float, high: float) -> float:
        return integrate.quad(lambda g: density(g) * function(g), low, high, epsabs=1e-14, points=[0.0])[0]

    root = np.sqrt(s)
    square = lambda a: (s + a**2) * ndtr(a / root) + a * root * density(a / root)  # noqa: E731
    want = (
        over_g(lambda g: square(max(g, 0)), -12, 12),
        over_g(lambda g: ndtr(max(g, 0) / root), -12, 12),
        over_g(lambda g: (g > 0) * ndtr(g / root), -12, 12),
    )
    assert_allclose(same_input(jnp.asarray(s)), want, rtol=1e-11)


def test_nearly_parallel(x64: None) -> None:
    """As both angles vanish together the loss is `(s S psi^2 + T theta^2) / 2`, to the first order, exactly."""
    s = jnp.asarray(0.2)
    _, S0, T0 = same_input(s)
    for theta in (1e-5, 1e-9):
        psi = 0.8 * theta
        lost, S, T = pair_of_inputs(jnp.asarray(theta), jnp.asarray(psi), s)
        assert_allclose(lost, (s * S0 * psi**2 + T0 * theta**2) / 2, rtol=2 * theta)
        assert_allclose((S, T), (S0, T0), atol=theta)
        assert S < S0
        assert T < T0


def test_one_slope_is_the_derivative_of_the_moment(x64: None) -> None:
    """Price: `dK/dE[hh'] = S`, `dK/dE[gg'] = T`, by differences of fourth order."""
    theta, psi, s, h = 1.1, 0.8, 0.3, 1e-3

    def K(c: float, rho: float) -> float:
        lost = pair_of_inputs(jnp.arccos(jnp.asarray(rho)), jnp.arccos(jnp.asarray(c / s)), jnp.asarray(s))[0]
        return -float(lost)

    c, rho = s * np.cos(psi), np.cos(theta)
    _, S, T = pair_of_inputs(*map(jnp.asarray, (theta, psi, s)))
    for want, du, dv in ((S, h, 0.0), (T, 0.0, h)):
        at = [K(c + k * du, rho + k * dv) for k in (-2, -1, 1, 2)]
        assert_allclose((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h), want, rtol=1e-8)
