"""Pairs of inputs as the limits see them: the product of the norms, and the angle."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def norms_and_angles(
    X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]
) -> tuple[Float[Array, "n1 n2"], Float[Array, "n1 n2"]]:
    """`||x_i|| ||x_j||` and the angle between `x_i` and `x_j`, pair by pair.

    The angle is `2 arctan(||e - e'|| / ||e + e'||)` of the unit vectors, which has all its digits for
    parallel and antipodal pairs, where `arccos(e.e')` has half of them. It costs n1 n2 d operations and
    d n2 numbers at a time. Angles below rounding are set to it: zero has no direction, nor derivatives.
    """
    first, second = _norms(X1), _norms(X2)
    E1, E2 = X1 / first[:, None], X2 / second[:, None]

    def against_all(e: Float[Array, " d"]) -> Float[Array, " n2"]:
        return 2 * jnp.arctan2(_norms(E2 - e[None, :]), _norms(E2 + e[None, :]))

    angles = jax.lax.map(against_all, E1)
    least = float(jnp.finfo(X1.dtype).eps)
    return first[:, None] * second[None, :], jnp.maximum(angles, least)


def _norms(X: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Norms of rows; a zero row has the least one, so that it has a direction and derivatives."""
    tiny = float(jnp.finfo(X.dtype).tiny)
    return jnp.sqrt(jnp.maximum(jnp.sum(X**2, axis=1), tiny))
