"""Initialisers of the implicit layer's weights `A`: `initialiser(key, shape, dtype) -> array`.

Any function of that form will do: i.i.d. entries of mean zero and variance one are what GG22 and
GLL22 assume. Entries that are not centred need the scale `scaling="operator_norm"`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

Shape = tuple[int, ...]


def normal(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "..."]:
    """I.i.d. N(0, 1): GG22's and GLL22's own. `||A|| ~ 2 sqrt(m)`."""
    return jax.random.normal(key, shape, dtype)


def half_normal(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "..."]:
    """I.i.d. `|N(0, 1)|` (GG22, section 5.1). Its mean `sqrt(2/pi)` makes `||A|| ~ m sqrt(2/pi)`."""
    return jnp.abs(jax.random.normal(key, shape, dtype))


def diagonal(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "m m"]:
    """A diagonal of i.i.d. N(0, 1), zero elsewhere (GG22, section 5.2)."""
    return jnp.diag(jax.random.normal(key, shape[:1], dtype))


NOT_CENTRED = (half_normal,)
"""The initialisers here whose entries have a mean other than zero."""
