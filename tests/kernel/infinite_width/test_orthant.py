"""The moments of `u = h + relu(g)` against quadrature over g and g', sign pattern by sign pattern."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate
from scipy.special import ndtr

from implicit_ntk.kernel.infinite_width._orthant import pair_of_inputs, same_input


def density(x: float) -> float:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize("s", [0.01, 0.2, 5.0])
@pytest.mark.parametrize(("theta", "psi"), [(0.045, 0.04), (0.5, 0.4), (1.2, 1.5), (2.5, 0.7), (np.pi, 1.4)])
def test_pair(theta: float, psi: float, s: float, x64: None, by_wedges: Callable) -> None:
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
    """As both angles vanish together the loss is `(s S psi^2 + T theta^2) / 2`, with all its digits."""
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
