"""The door to the kernel as an operator: solve in tiles, hold the rows of `J`."""

from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray, check_positive
from implicit_ntk._hosts import is_spread
from implicit_ntk._memory import require_memory
from implicit_ntk.equilibrium import Method, has_tracer
from implicit_ntk.jacobian import (
    AbstractJacobian,
    check_request,
    held_bytes,
    jacobian,
    jacobian_tiles,
    tile_rows,
)
from implicit_ntk.kernel.matrix_free._operator import KernelOperator
from implicit_ntk.kernel.matrix_free._products import held
from implicit_ntk.networks import AbstractNetwork


def kernel_operator(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    method: Method | None = None,
    kind: str = "auto",
    tile: int | None = None,
) -> KernelOperator:
    """The kernel `H = J J^T` of a batch without the (n, n) array.

    Solves once, some rows at a time, and holds of each row what its products take: with gradient factors
    two arrays (n, m) for GG22. Inside a transformation, and for samples that are spread over devices, all
    rows are solved at once.

    **Arguments:** as `ntk`; `tile`, the rows solved at once, None for as many as memory has room for.

    **Returns:** an operator with `mv`, `diagonal`, `trace`, `largest`, `smallest`, `density`, `logdet` and
    `solve`.

    **Raises:** as `jacobian`; `MemoryError` where the rows of `J` do not fit.
    """
    X, method, kind = check_request(net, X, method, kind)
    n = X.shape[0]
    if tile is not None:
        check_positive(tile, "tile")
    if has_tracer((net, X)) or is_spread(X):
        if tile is not None:
            raise ValueError("tile must be None where X is traced or spread over devices: it is solved whole")
        return KernelOperator(held([jacobian(net, X, method, kind)], n))
    # Rows are held twice while the tiles are put together.
    nbytes = 2 * held_bytes(net, n, net.resolve(method), kind)
    require_memory(nbytes, f"the Jacobian of {n} rows", "pass fewer samples")
    return KernelOperator(held(_equal_tiles(net, X, method, kind, tile), n))


def _equal_tiles(
    net: AbstractNetwork, X: Float[Array, "n d"], method: Method, kind: str, tile: int | None
) -> Iterator[AbstractJacobian]:
    """Tiles of as many rows each, for which the last sample may be repeated."""
    n = X.shape[0]
    most = tile_rows(net, n, method, kind) if tile is None else min(tile, n)
    tiles = -(-n // most)
    rows = -(-n // tiles)
    padded = X if tiles * rows == n else X[jnp.minimum(jnp.arange(tiles * rows), n - 1)]
    return (J for _, J in jacobian_tiles(net, padded, method, kind, rows))
