"""Arrays that are spread over devices, of which a host may hold but a part."""

import math
from typing import Any, TypeGuard

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree, Shaped

from implicit_ntk._tracing import is_traced


def is_spread(value: object) -> TypeGuard[jax.Array]:
    """Does an array live on several devices, of this process or of others too?"""
    return isinstance(value, jax.Array) and not is_traced(value) and len(value.sharding.device_set) > 1


def on_host(value: Shaped[jax.Array | np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The values of an array, gathered where other processes hold some of them: all must ask then."""
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        return multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value)


def held_rows(X: Shaped[jax.Array | np.ndarray, "n ..."]) -> int:
    """The rows of a batch that one memory holds: all n of them, unless they are spread.

    A memory is that of a device, or of a host whose processor counts as several devices, which share it.
    """
    if not is_spread(X):
        return X.shape[0]
    return X.sharding.shard_shape(X.shape)[0] * devices_a_memory(X)


def devices_a_memory(X: Shaped[jax.Array | np.ndarray, "n ..."]) -> int:
    """How many of the devices that a batch is spread over share one memory."""
    if not is_spread(X):
        return 1
    local = X.sharding.addressable_devices
    return len(local) if _share_memory({device.platform for device in local}) else 1


def held_share(tree: PyTree[Any]) -> float:
    """The least share of an array that one device holds: one over the columns that units are spread over."""
    spread = filter(is_spread, jax.tree.leaves(tree))
    shares = (math.prod(leaf.sharding.shard_shape(leaf.shape)) / max(leaf.size, 1) for leaf in spread)
    return min(shares, default=1.0)


def _share_memory(platforms: set[str]) -> bool:
    return platforms == {"cpu"}
