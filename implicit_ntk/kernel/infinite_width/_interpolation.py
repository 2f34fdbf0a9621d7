"""A smooth function of an angle at many angles: Chebyshev interpolation from a few."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

POINTS = 128
"""Rounding in float64 for gamma0 between 0.05 and 1.41; outside, kinks of the limit come near the angles."""


def over_angles(
    function: Callable[[Float[Array, " points"]], PyTree[Array]], theta: Float[Array, "..."]
) -> PyTree[Float[Array, "..."]]:
    """`function(theta)`, for a function that is analytic on [0, pi] and costs more than its polynomial.

    Evaluated directly for fewer angles than the polynomial has coefficients.
    """
    if theta.size <= POINTS:
        return function(theta)
    x = np.cos(math.pi * (np.arange(POINTS) + 0.5) / POINTS)
    values = function(jnp.asarray(0.5 * math.pi * (1 + x), theta.dtype))
    return jax.tree.map(lambda leaf: _clenshaw(_coefficients(leaf), 2 * theta / math.pi - 1), values)


def _coefficients(values: Float[Array, " points"]) -> Float[Array, " points"]:
    """Of the Chebyshev polynomials through values at their zeros."""
    degrees = np.arange(POINTS)
    cosines = np.cos(math.pi * degrees[:, None] * (degrees[None, :] + 0.5) / POINTS)
    weights = np.where(degrees > 0, 2.0, 1.0)[:, None] / POINTS
    return jnp.sum(jnp.asarray(weights * cosines, values.dtype) * values[None, :], axis=1)


def _clenshaw(coefficients: Float[Array, " points"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`sum_k c_k T_k(x)`."""

    def add(
        carry: tuple[Float[Array, "..."], Float[Array, "..."]], c: Float[Array, ""]
    ) -> tuple[tuple[Float[Array, "..."], Float[Array, "..."]], None]:
        first, second = carry
        return (c + 2 * x * first - second, first), None

    start = (jnp.zeros_like(x), jnp.zeros_like(x))
    first, second = jax.lax.scan(add, start, coefficients[:0:-1])[0]
    return coefficients[0] + x * first - second
