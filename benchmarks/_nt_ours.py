"""The same kernel by this package, through its public entry."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

import implicit_ntk as ink


def kernel(arrays: dict, rtol: str = "") -> Callable[[], jax.Array]:
    """Computes `ink.ntk(net, X)` of the network in `arrays`, at the default tolerance or at a looser one."""
    net = ink.ReluImplicit(**{name: jnp.asarray(arrays[name]) for name in ("A", "W", "b", "gamma")})
    X = jnp.asarray(arrays["X"])
    method = ink.Method.of(ink.Picard(rtol=float(rtol))) if rtol else None
    return lambda: ink.ntk(net, X, method=method)
