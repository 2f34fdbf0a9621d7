"""One array on its devices, and whether the processes agree on what they pass."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Shaped, UInt32

from implicit_ntk._checks import AnyArray
from implicit_ntk._hosts import on_host
from implicit_ntk._tracing import is_traced


def place(value: Shaped[AnyArray, "..."], sharding: NamedSharding) -> Shaped[Array, "..."]:
    """The array as `sharding` has it: moved there, or, inside a compiled function, made there."""
    if is_traced(value):
        return lax.with_sharding_constraint(value, sharding)
    if sharding.is_fully_addressable or not _is_whole(value):
        return jax.device_put(value, sharding)
    host = np.asarray(jnp.asarray(value))
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def check_same(values: list[Shaped[AnyArray, "..."]], message: str) -> None:
    """Raise `ValueError` unless all processes pass the same arrays. All of them must ask."""
    if jax.process_count() > 1 and all(_is_whole(value) for value in values):
        words = [fingerprint(on_host(value)) for value in values]
        if not agreed(words).all():
            raise ValueError(message)


def fingerprint(host: Shaped[np.ndarray, "..."]) -> int:
    """A number that differs where form or values do."""
    form = zlib.crc32(f"{host.shape} {host.dtype}".encode())
    return zlib.crc32(np.ascontiguousarray(host).reshape(-1).view(np.uint8).data, form)


def from_processes(words: list[int]) -> UInt32[np.ndarray, "processes words"]:
    """What each process passed. All of them must ask."""
    return multihost_utils.process_allgather(np.array(words, np.uint32)[None], tiled=True)


def agreed(words: list[int]) -> Bool[np.ndarray, " words"]:
    """Which of the numbers are the same in all processes."""
    found = from_processes(words)
    return (found == found[:1]).all(axis=0)


def _is_whole(value: Shaped[AnyArray, "..."]) -> bool:
    """Is all of it in this process, and not a part of an array that is in several?"""
    return not is_traced(value) and (not isinstance(value, jax.Array) or value.is_fully_addressable)
