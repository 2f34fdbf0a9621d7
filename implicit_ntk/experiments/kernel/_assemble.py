"""A kernel from the Jacobians of tiles of rows, and what the solves that they took have to say."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from implicit_ntk._memory import require_memory
from implicit_ntk.equilibrium import Method
from implicit_ntk.jacobian import (
    AbstractJacobian,
    default_kind,
    held_bytes,
    jacobian_tiles,
    slim,
    tile_rows,
)
from implicit_ntk.networks import AbstractNetwork

Share = Callable[[float], None]
"""Called with the share of the work that is done."""

TILE = 1000
"""Rows at most: products of this size run at full speed, and progress is told between them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Solves:
    """What solving for samples gave beside the Jacobian: outputs, and iterations to each state."""

    u: Float[np.ndarray, "n *out"]
    steps: Int[np.ndarray, " n"]
    adjoint_steps: Int[np.ndarray, "n *out"]


@dataclasses.dataclass(frozen=True, eq=False)
class Tile:
    """Some rows of the Jacobian."""

    rows: slice
    J: AbstractJacobian
    solves: Solves


def solved_tiles(
    net: AbstractNetwork, X: Float[np.ndarray, "n d"], method: Method, progress: Share
) -> list[Tile]:
    """The Jacobian of all rows, each solved for once. Raises as `jacobian`; `MemoryError` past the limit."""
    n = len(X)
    what, remedy = f"the Jacobian of {n} samples", "pass fewer samples or take a narrower network"
    require_memory(held_bytes(net, n, method, default_kind(net)), what, remedy)
    tiles = []
    for rows, J in jacobian_tiles(net, X, method, tile=_rows(net, n, method)):
        tiles.append(_tile(rows, J, method))
        progress(rows.stop / n)
    return tiles


def solves_of_all(tiles: Sequence[Tile]) -> Solves:
    """Those of all rows."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(tile.solves, name) for tile in tiles])

    return Solves(joined("u"), joined("steps"), joined("adjoint_steps"))


def assemble(tiles: Sequence[Tile], out: Float[np.ndarray, "n *rest"], progress: Share) -> dict[str, float]:
    """Fill `out` (n, *out, n, *out) with the kernel; returns the trace of each trained leaf's part.

    Every pair of tiles once, and its mirror image. `ntk_into` would do with less memory, but solve a second
    time: outputs, steps and traces come with the Jacobians that stand here.
    """
    traces: dict[str, float] = {}
    done = 0
    for i, tile in enumerate(tiles):
        for other in tiles[i:]:
            blocks = tile.J.blocks(None if other is tile else other.J)
            if other is tile:
                traces = {name: traces.get(name, 0.0) + _trace(block) for name, block in blocks.items()}
            done += _place(out, tile.rows, other.rows, np.asarray(sum(blocks.values())))
            progress(done / out.size)
    if isinstance(out, np.memmap):
        out.flush()
    return traces


def _rows(net: AbstractNetwork, n: int, method: Method) -> int:
    """Of tiles as equal as they can be."""
    most = min(TILE, tile_rows(net, n, method, default_kind(net)))
    return -(-n // -(-n // most))


def _tile(rows: slice, J: AbstractJacobian, method: Method) -> Tile:
    at = J.linearization
    u = at.outputs - at.net.baseline(at.X, method)
    books = (u, at.equilibrium.steps, at.adjoint.steps)
    return Tile(rows, slim(J), Solves(*map(np.asarray, books)))


def _trace(block: jax.Array) -> float:
    side = round(block.size**0.5)
    return float(np.trace(np.asarray(block).reshape(side, side), dtype=np.float64))


def _place(out: Float[np.ndarray, "n *rest"], rows: slice, columns: slice, block: np.ndarray) -> int:
    """Write a tile and, off the diagonal, its mirror image; how many entries that makes."""
    half = block.ndim // 2
    inner = (slice(None),) * (half - 1)
    out[(rows, *inner, columns, *inner)] = block
    if rows == columns:
        return block.size
    out[(columns, *inner, rows, *inner)] = np.moveaxis(block, range(half), range(half, 2 * half))
    return 2 * block.size
