"""The dtype of new and of stored arrays: the one that is asked for, or an error."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike


def float_type(dtype: DTypeLike | None) -> np.dtype:
    """The floating type that is asked for, JAX's default for None.

    Raises `TypeError` where it is not floating, and as `require_exact`.
    """
    found = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    if not jnp.issubdtype(found, jnp.floating):
        raise TypeError(f"dtype must be floating point, got {found}; pass float32 or float64")
    require_exact(found, "dtype")
    return found


def require_exact(dtype: np.dtype, name: str) -> None:
    """Raise `ValueError` for a dtype that JAX, as it is set, would round without a word."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"{name} is {dtype} but JAX is set to 32 bits; call "
            'jax.config.update("jax_enable_x64", True) first'
        )
