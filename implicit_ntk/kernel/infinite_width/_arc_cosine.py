"""The arc-cosine kernels: what one layer of relu units makes of a correlation, or of an angle.

Inside this package a pair of inputs is its angle: `arccos` loses half the digits where inputs are
nearly parallel, and there the kernels of order zero have a cusp.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray, check_floating, check_positive
from implicit_ntk._tracing import is_traced

SMALL = 0.1
"""Below this angle `sin a - a cos a` is summed as a series, whose fifth term is within rounding."""


def kappa0(r: Float[AnyArray, "..."]) -> Float[Array, "..."]:
    """`E[relu'(g) relu'(g')] = (pi - arccos r) / (2 pi)` for unit Gaussians of correlation r.

    Raises `ValueError` for an `r` outside [-1, 1].
    """
    return half_line(jnp.arccos(_correlation(r)))


def kappa1(r: Float[AnyArray, "..."]) -> Float[Array, "..."]:
    """`E[relu(g) relu(g')] = (sqrt(1 - r^2) + (pi - arccos r) r) / (2 pi)`; GLL22's `G_inf`.

    Raises `ValueError` for an `r` outside [-1, 1].
    """
    return 0.5 * (1 - decorrelation(jnp.arccos(_correlation(r))))


def hermite_coefficients(terms: int) -> Float[np.ndarray, " terms"]:
    """The first coefficients `c_k` of relu in normalised Hermite polynomials (GLL22, appendix A.9).

    `c_0 = 1/sqrt(2 pi)`, `c_1 = 1/2`, `c_k = (-1)^(k/2 - 1) (k - 3)!! / sqrt(2 pi k!)` for even k and
    zero for odd k above one. Raises `ValueError` unless `terms` is a positive integer.
    """
    check_positive(terms, "terms")
    c = np.zeros(max(terms, 3))
    c[:3] = 1 / math.sqrt(2 * math.pi), 0.5, 1 / math.sqrt(4 * math.pi)
    for k in range(4, terms, 2):
        c[k] = -c[k - 2] * (k - 3) / math.sqrt(k * (k - 1))
    return c[:terms]


def arc_cosine_series(r: Float[AnyArray, "..."], terms: int) -> Float[Array, "..."]:
    """The first terms of `kappa1(r) = sum_k c_k^2 r^k`, by `hermite_coefficients`.

    The rest is at most `sum_(k >= terms) c_k^2 |r|^k`. Raises as `kappa1` and `hermite_coefficients`.
    """
    r = _correlation(r)
    total = jnp.zeros_like(r)
    for c in hermite_coefficients(terms)[::-1]:
        total = total * r + float(c) ** 2
    return total


def half_line(angle: Float[Array, "..."]) -> Float[Array, "..."]:
    """`kappa0(cos a) = (pi - a) / (2 pi)`: both of two unit Gaussians at the angle a are positive."""
    return (math.pi - angle) / (2 * math.pi)


def gap(angle: Float[Array, "..."]) -> Float[Array, "..."]:
    """`1 - cos a`, without cancellation."""
    return 2 * jnp.sin(angle / 2) ** 2


def angle_of(gap: Float[Array, "..."]) -> Float[Array, "..."]:
    """The angle a of `gap = 1 - cos a`."""
    eps = float(jnp.finfo(gap.dtype).eps)
    return 2 * jnp.arcsin(jnp.sqrt(jnp.minimum(gap / 2, 1 - eps)))  # the slope at pi is infinite


def decorrelation(angle: Float[Array, "..."]) -> Float[Array, "..."]:
    """`1 - 2 kappa1(cos a) = 1 - cos a - (sin a - a cos a) / pi`: the gap that relu leaves of a gap."""
    square = angle**2
    series = angle * square * (1 / 3 - square * (1 / 30 - square * (1 / 840 - square / 45360)))
    difference = jnp.where(angle < SMALL, series, jnp.sin(angle) - angle * jnp.cos(angle))
    return gap(angle) - difference / math.pi


def _correlation(r: AnyArray) -> Float[Array, "..."]:
    r = check_floating(r, "r")
    if not is_traced(r) and not bool(jnp.all(jnp.abs(r) <= 1)):
        raise ValueError("r must be in [-1, 1], got values outside; divide by both norms, and clip")
    return r
