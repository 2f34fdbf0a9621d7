"""Kernels of many independent networks, as many at once as pays."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from implicit_ntk.kernel import ntk_blocks
from implicit_ntk.networks import AbstractNetwork

Make = Callable[[Key[Array, ""], int, Float[Array, ""]], AbstractNetwork]
"""From a key, a width and one real parameter to a network; traceable."""

TOGETHER = 2**19
"""Weights that are drawn at once: beyond some megabytes a batch of networks gains nothing."""


def draw_blocks(
    make: Make, X: Float[np.ndarray, "n d"], width: int, seeds: int, key: Key[Array, ""], parameter: float
) -> dict[str, Float[np.ndarray, "seeds n n"]]:
    """The kernel of each trained leaf of `seeds` networks; NaN where a solve failed.

    One program for a `make` and a width, whatever the parameter. The statistics are float64.
    """
    together = min(seeds, max(1, TOGETHER // width**2))
    inputs = jnp.asarray(X)
    given = jnp.asarray(parameter, inputs.dtype)
    # Whole batches, so that there is one program; what is too much is not looked at.
    keys = jax.random.split(key, (-(-seeds // together), together))
    batches = [_drawn(make, inputs, width, of_batch, given) for of_batch in keys]
    return {
        name: np.concatenate([np.asarray(batch[name], np.float64) for batch in batches])[:seeds]
        for name in batches[0]
    }


@eqx.filter_jit
def _drawn(
    make: Make, X: Float[Array, "n d"], width: int, keys: Key[Array, " batch"], parameter: Float[Array, ""]
) -> dict[str, Float[Array, "batch n n"]]:
    def kernel(key: Key[Array, ""]) -> dict[str, Float[Array, "n n"]]:
        net = make(key, width, parameter)
        method = dataclasses.replace(net.default_method(), on_failure="nan")
        return ntk_blocks(net, X, method=method)

    return jax.vmap(kernel)(keys)


def require_solved(solved: int, drawn: int, width: int) -> None:
    """Raise `ValueError` where fewer than two networks were solved, of which there is no standard error."""
    if solved < 2:
        raise ValueError(f"widths: {solved} of {drawn} networks of width {width} were solved")
