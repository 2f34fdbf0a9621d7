"""Tiles for a kernel whose solves do not fit in the memory at once."""

import dataclasses
import operator

from implicit_ntk._checks import check_positive
from implicit_ntk._memory import memory_limit, require_memory
from implicit_ntk.jacobian import held_bytes, rows_within
from implicit_ntk.kernel._reduction import Reduction
from implicit_ntk.kernel._request import Request

TRIVIAL = 100_000, 100
"""Nothing is traced for the sake of its memory where so many copies of the states, and results, would fit."""

SHARE = 4
"""One part in so many of the room is for a pair of tiles, the rest for Jacobians that are held."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Tiles of so many rows; the Jacobians of so many are held while those of the others pass by."""

    tile: int
    held: int


def plan_for(request: Request, tile: int | None, reduction: Reduction, matrices: int) -> Plan | None:
    """How to make a result of so many (n1, n2) arrays; None for one piece.

    Raises `MemoryError` where the result does not fit, or a piece that can be no smaller; `ValueError`
    for a tile that is none, or where the kernel is made in one piece whatever its size.
    """
    if tile is not None:
        check_positive(tile, "tile")
    if request.is_traced or request.is_spread:
        _require_one_piece(request, tile, reduction, matrices)
        return None
    n1, n2 = request.sizes
    result = matrices * n1 * n2 * request.X1.dtype.itemsize
    require_memory(result, "the kernel", "pass fewer samples, or, for ntk, ntk_into and a memory map")
    one_piece = tile is None or tile >= max(n1, n2)
    if one_piece and (_is_trivial(request, matrices) or _piece_bytes(request, reduction) <= memory_limit()):
        return None
    return plan_within(memory_limit() - result, request, tile, reduction)


def plan_within(room: int, request: Request, tile: int | None, reduction: Reduction) -> Plan:
    """Tiles within so many bytes; raises `MemoryError` where they do not fit."""

    def pair(rows: int) -> int:
        return request.piece_bytes(reduction, rows, rows)

    most = max(request.sizes)
    tile = rows_within(room // SHARE, most, pair) if tile is None else min(tile, most)
    if pair(tile) > room:
        raise MemoryError(
            f"tiles of {tile} rows need {pair(tile) / 2**30:.2g} GiB, past the {room / 2**30:.2g} GiB there "
            "is room for; pass a smaller tile, or set IMPLICIT_NTK_MEMORY (bytes)"
        )
    each = held_bytes(request.net, tile, request.method, request.kind)
    return Plan(tile, 1 + (room - pair(tile)) // each)


def _require_one_piece(request: Request, tile: int | None, reduction: Reduction, matrices: int) -> None:
    """There are no tiles inside of a transformation, nor over several devices."""
    where, remedy = (
        ("inside of a transformation", "call it outside of jit, where it works in tiles")
        if request.is_traced
        else ("of arrays that are spread over devices", "spread the rows over more devices")
    )
    if tile is not None:
        raise ValueError(f"tile has no meaning {where}, where the kernel is made in one piece; leave it out")
    if not _is_trivial(request, matrices):
        needed = _piece_bytes(request, reduction) if request.is_traced else request.spread_bytes(matrices)
        require_memory(needed, f"the kernel {where}", remedy)


def _piece_bytes(request: Request, reduction: Reduction) -> int:
    n1, n2 = request.sizes
    return request.piece_bytes(reduction, n1, None if request.X2 is None else n2)


def _is_trivial(request: Request, matrices: int) -> bool:
    """Is it so small that its memory is nobody's concern?"""
    n1, n2 = request.sizes
    numbers = (max(n1, n2) * request.outputs * request.net.width, matrices * n1 * n2)
    copies = max(map(operator.mul, TRIVIAL, numbers))
    return copies * request.X1.dtype.itemsize <= memory_limit()
