"""Keys of `jax.random`, checked at the door, and optional where a first choice exists."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

OptionalKey = PRNGKeyArray | None


def check_key(key: Any) -> None:
    """Raises `TypeError` unless `key` is one JAX key, of the new or of the old style."""
    new = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    old = isinstance(key, jax.Array) and key.dtype == np.uint32
    if not ((new and key.ndim == 0) or (old and key.ndim == 1)):
        raise TypeError(f"key: {type(key).__name__} is not one key; pass jax.random.key(seed)")


def split_optional(key: OptionalKey) -> tuple[OptionalKey, OptionalKey]:
    """Two keys from one, or two times None; raises `TypeError` for what is neither."""
    if key is None:
        return None, None
    check_key(key)
    first, second = jax.random.split(key)
    return first, second
