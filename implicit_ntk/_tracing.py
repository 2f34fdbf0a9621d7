"""Whether a value is known yet, or stands for one inside a transformation."""

import jax.numpy as jnp
from jax.core import Tracer


def is_traced(value: object) -> bool:
    """Is this a stand-in of `jit`, `grad`, `vmap` and the like, without a value to look at?"""
    return isinstance(value, Tracer)


def is_staged() -> bool:
    """Are operations on known arrays, too, recorded now for a later run, as inside of `jit`?"""
    return is_traced(jnp.zeros(()))
