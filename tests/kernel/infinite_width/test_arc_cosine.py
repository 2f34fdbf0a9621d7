"""The arc-cosine kernels against bivariate integrals, the Hermite series, and small angles."""

from typing import Any, cast

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose

from implicit_ntk import infinite_width
from implicit_ntk.kernel.infinite_width._arc_cosine import angle_of, decorrelation, gap

CORRELATIONS = (-1.0, -0.7, 0.0, 0.3, 0.99, 0.999, 1 - 1e-6, 1.0)


def bivariate(r: float, power: int) -> float:
    """`E[relu(g)^power relu(g')^power]`, in polar coordinates, where the radius is in closed form."""
    angle = mpmath.acos(r)
    radius = mpmath.quad(lambda R: R ** (2 * power + 1) * mpmath.exp(-R * R / 2), [0, mpmath.inf])
    both = mpmath.quad(
        lambda t: (mpmath.cos(t) * mpmath.cos(t - angle)) ** power, [angle - mpmath.pi / 2, mpmath.pi / 2]
    )
    return float(cast(Any, radius) * both / (2 * mpmath.pi))


@pytest.mark.parametrize("r", CORRELATIONS)
def test_kernels(r: float, x64: None) -> None:
    assert_allclose(infinite_width.kappa0(np.array(r)), bivariate(r, 0), rtol=1e-13, atol=1e-15)
    assert_allclose(infinite_width.kappa1(np.array(r)), bivariate(r, 1), rtol=1e-13, atol=1e-15)


def test_small_angles(x64: None) -> None:
    """`decorrelation` and `gap` have all their digits, on both sides of the switch to the series."""
    for angle in (1e-12, 1e-5, 0.0999999, 0.1000001, 1.0, 3.0):
        with mpmath.workdps(60):
            a = mpmath.mpf(angle)
            want = 1 - mpmath.cos(a) - (mpmath.sin(a) - a * mpmath.cos(a)) / mpmath.pi
            assert_allclose(decorrelation(jnp.asarray(angle)), float(want), rtol=1e-12)
            assert_allclose(gap(jnp.asarray(angle)), float(1 - mpmath.cos(a)), rtol=1e-13)
        assert_allclose(angle_of(gap(jnp.asarray(angle))), angle, rtol=1e-13)


def test_hermite_coefficients() -> None:
    """By Gauss-Hermite integrals on the half line, `c_k = E[relu(g) He_k(g)] / sqrt(k!)`."""
    for k, c in enumerate(infinite_width.hermite_coefficients(9)):
        integrand = lambda g, k=k: (  # noqa: E731
            g * mpmath.hermite(k, g / mpmath.sqrt(2)) * 2 ** (-k / 2) * mpmath.npdf(g)
        )
        assert_allclose(
            c, float(mpmath.quad(integrand, [0, 4, 12]) / mpmath.sqrt(mpmath.factorial(k))), atol=1e-14
        )
    assert infinite_width.hermite_coefficients(1).shape == (1,)


def test_series(x64: None) -> None:
    """It sums to `kappa1`, within the bound of what is left off."""
    r = np.array([-0.9, -0.3, 0.0, 0.5, 0.9])
    want = infinite_width.kappa1(r)
    assert_allclose(infinite_width.arc_cosine_series(r, 200), want, rtol=1e-11)
    c, short = infinite_width.hermite_coefficients(400), infinite_width.arc_cosine_series(r, 4)
    rest = (c[4:, None] ** 2 * np.abs(r) ** np.arange(4, 400)[:, None]).sum(0)
    assert (np.abs(short - want) <= rest + 1e-15).all()
    assert (np.abs(short - want) > 0.5 * rest - 1e-15).all()  # even terms alone: the bound is the error


def test_bad_input() -> None:
    for function in (infinite_width.kappa0, infinite_width.kappa1):
        with pytest.raises(ValueError, match=r"^r must be in \[-1, 1\]"):
            function(np.array([0.0, 1.1]))
    with pytest.raises(ValueError, match="^terms must be a positive integer"):
        infinite_width.arc_cosine_series(np.array([0.0]), 0)
