"""Whether a value is known yet, or stands for one inside a transformation."""

from jax.core import Tracer


def is_traced(value: object) -> bool:
    """Is this a stand-in of `jit`, `grad`, `vmap` and the like, without a value to look at?"""
    return isinstance(value, Tracer)
