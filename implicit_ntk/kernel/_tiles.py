"""Kernels in tiles: one after the other, or into an array on disk, for those larger than the memory."""

import functools
import operator
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk._checks import AnyArray, check_positive
from implicit_ntk._hosts import on_host
from implicit_ntk._memory import memory_limit
from implicit_ntk.equilibrium import Method
from implicit_ntk.jacobian import require_concrete
from implicit_ntk.kernel._plan import plan_within
from implicit_ntk.kernel._reduction import BLOCKS, Reduction
from implicit_ntk.kernel._request import Request
from implicit_ntk.kernel._walk import Walk
from implicit_ntk.networks import AbstractNetwork


class Tile(NamedTuple):
    """`ntk(net, X1[rows], X2[columns])`: a block of the kernel, and where it belongs."""

    rows: slice
    columns: slice
    block: Float[Array, "..."]


def kernel_tiles(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
    tile: int | None = None,
) -> Iterator[Tile]:
    """The blocks of `ntk(net, X1, X2)` one after the other, for kernels larger than the memory.

    As many Jacobians are held as there is room for, a strip of s of the n rows; the other rows pass by it. A
    kernel of one batch takes `n (1 + (n/s - 1)/2)` solves and comes as the blocks on and above the diagonal:
    `H[columns, rows]` is the transposed `H[rows, columns]`. A cross kernel takes `n1 + (n1/s) n2` solves.
    Concrete arrays only.

    **Arguments:** as `ntk`; `tile`, the rows and columns of a block (fewer at the ends), None for what a
    quarter of the memory limit has room for.

    **Returns:** an iterator of `Tile(rows, columns, block)`; a block is (rows, columns), or
    (rows, k, columns, k) with k outputs.

    **Raises:** as `ntk`, at once for the arguments; `TypeError` inside of a transformation;
    `MemoryError` where a pair of tiles does not fit.
    """
    walk = _walk(_request("kernel_tiles", net, X1, X2, method, kind), tile)
    return (Tile(rows, columns, _total(block)) for rows, columns, block in walk)


def ntk_into(
    out: np.ndarray,
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
    tile: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Fill an array with `ntk(net, X1, X2)`, never holding more of it than a block.

    For kernels that no memory holds: `out = numpy.lib.format.open_memmap(path, "w+", dtype, shape)`. A
    memory map is flushed at the end.

    **Arguments:** `out`, a writable NumPy array or memory map of the kernel's shape, (n1, n2) or
    (n1, k, n2, k), and dtype; `progress`, called after every block with the share of the
    operations that are done, rising to 1; the others as in `kernel_tiles`.

    **Raises:** as `kernel_tiles`; `ValueError` or `TypeError` for an `out` that is not of that form.
    """
    request = _request("ntk_into", net, X1, X2, method, kind)
    _check_out(out, request)
    walk = _walk(request, tile)
    for rows, columns, block in walk:
        some = on_host(_total(block))
        out[BLOCKS.index(out.ndim, rows, columns)] = some
        if walk.symmetric and rows != columns:
            out[BLOCKS.index(out.ndim, columns, rows)] = BLOCKS.transposed(some)
        if progress is not None:
            progress(walk.share)
    if isinstance(out, np.memmap):
        out.flush()


def assembled(walk: Walk, finish: Callable[[PyTree[Array]], PyTree[Array]]) -> PyTree[Array]:
    """The whole of what a walk makes, each block finished and put where it belongs, on the device."""
    whole = None
    for rows, columns, block in walk:
        block = finish(block)
        whole = _empty(block, walk) if whole is None else whole
        put = functools.partial(_put, reduction=walk.reduction)
        whole = jax.tree.map(functools.partial(put, rows=rows, columns=columns), whole, block)
        if walk.symmetric and rows != columns:
            block = jax.tree.map(walk.reduction.transposed, block)
            whole = jax.tree.map(functools.partial(put, rows=columns, columns=rows), whole, block)
    return whole


def _request(
    what: str,
    net: AbstractNetwork,
    X1: AnyArray,
    X2: AnyArray | None,
    method: Method | None,
    kind: str,
) -> Request:
    request = Request.of(net, X1, X2, method, kind)
    require_concrete(what, request.is_traced)
    return request


def _walk(request: Request, tile: int | None) -> Walk:
    if tile is not None:
        check_positive(tile, "tile")
    return Walk(request, plan_within(memory_limit(), request, tile, BLOCKS), BLOCKS)


def _check_out(out: np.ndarray, request: Request) -> None:
    """A writable array of the kernel's shape and dtype."""
    (n1, n2), inner = request.sizes, request.net.out_shape
    shape, dtype = (n1, *inner, n2, *inner), request.X1.dtype
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array or memory map, got {type(out).__name__}; see open_memmap")
    if out.shape != shape:
        raise ValueError(f"out must have the kernel's shape {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"out is {out.dtype} but the kernel is {dtype}; make out with dtype='{dtype}'")
    if not out.flags.writeable:
        raise ValueError("out is read-only; open a memory map with mode 'r+' or 'w+'")


def _total(blocks: dict[str, Float[Array, "..."]]) -> Float[Array, "..."]:
    return jax.tree.reduce(operator.add, blocks)


def _empty(block: PyTree[Array], walk: Walk) -> PyTree[Array]:
    """Zeros of the whole's shape, where the blocks are."""

    def zeros(leaf: Array) -> Array:
        shape = list(leaf.shape)
        for axis, size in zip(walk.reduction.axes(leaf.ndim), walk.request.sizes, strict=True):
            shape[axis] = size
        return jnp.zeros(shape, leaf.dtype, device=leaf.sharding)

    return jax.tree.map(zeros, block)


def _put(whole: Array, block: Array, reduction: Reduction, rows: slice, columns: slice) -> Array:
    """The whole with a block in its place."""
    index = reduction.index(whole.ndim, rows, columns)
    return _updated(whole, block, tuple(part.start or 0 for part in index))


@functools.partial(jax.jit, donate_argnums=0)
def _updated(whole: Array, block: Array, start: tuple[Int[Array, ""], ...]) -> Array:
    """In place: the whole is given away."""
    return lax.dynamic_update_slice(whole, block, start)
