"""The limits of GG22's section 5: implicit layers whose entries are not centred, or not independent.

Both are for GG22's network with a relu injection, trained in `A`.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray, Number, check_floating, check_number
from implicit_ntk._tracing import is_traced
from implicit_ntk.kernel.infinite_width._arc_cosine import decorrelation, half_line
from implicit_ntk.kernel.infinite_width._pairs import norms_and_angles


def half_normal(X: Float[AnyArray, "n d"], gamma0: Number) -> Float[Array, "n n"]:
    """The limit of `m H` for `a_init=half_normal`, `scaling="operator_norm"` (GG22, 5.1, corrected).

    `gamma0^2 (pi/2) [G + c ||x|| ||x'|| / (2 pi)]`, `c = (1 - gamma0)^-2 - 1` and `G = kappa1` the
    arc-cosine Gram. `H` itself vanishes like 1/m: in this limit such a layer does not learn. As printed,
    with `gamma = gamma0 / sqrt(m)`, the network is ill posed.

    **Raises:** `ValueError` unless `0 <= gamma0 < 1`, or for an `X` that is not (n, d).
    """
    X, g = _checked(X, gamma0)
    if not is_traced(g) and not 0 <= g < 1:
        raise ValueError(f"gamma0 must be in [0, 1), which is gamma ||A|| here, got {gamma0}")
    norms, theta = _norms_and_angles(X)
    common = ((1 - g) ** -2 - 1) / (2 * math.pi)  # by the one eigenvalue of A that grows like m
    return g**2 * (math.pi / 2) * norms * (0.5 * (1 - decorrelation(theta)) + common)


def diagonal(X: Float[AnyArray, "n d"], gamma0: Number) -> Float[Array, "n n"]:
    """The limit of `H` for `a_init=diagonal` (GG22, 5.2): `gamma0^2 G o kappa0`.

    `G = kappa1` is the arc-cosine Gram. The layer itself is gone: `z` tends to `phi`.

    **Raises:** `ValueError` for a `gamma0` that is not finite, or an `X` that is not (n, d).
    """
    X, g = _checked(X, gamma0)
    norms, theta = _norms_and_angles(X)
    return g**2 * norms * 0.5 * (1 - decorrelation(theta)) * half_line(theta)


@jax.jit
def _norms_and_angles(X: Float[Array, "n d"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    return norms_and_angles(X, X)


def _checked(X: AnyArray, gamma0: Number) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    X = check_floating(X, "X")
    if X.ndim != 2 or X.size == 0:
        raise ValueError(f"X must have shape (n, d), one row a sample, got {X.shape}; reshape it")
    check_number(gamma0, "gamma0")
    return X, jnp.asarray(gamma0, X.dtype)
