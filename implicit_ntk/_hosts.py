"""Arrays that are spread over devices, of which a host may hold but a part."""

from typing import TypeGuard

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Shaped

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
    each = X.sharding.shard_shape(X.shape)[0]
    local = X.sharding.addressable_devices
    return each * len(local) if _share_memory({device.platform for device in local}) else each


def _share_memory(platforms: set[str]) -> bool:
    return platforms == {"cpu"}
