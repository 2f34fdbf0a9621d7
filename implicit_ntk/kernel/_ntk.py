"""The empirical neural tangent kernel of a network."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray
from implicit_ntk.equilibrium import Method
from implicit_ntk.kernel._plan import plan_for
from implicit_ntk.kernel._reduction import BLOCKS, DIAGONAL, TRACE, Reduction
from implicit_ntk.kernel._request import Request
from implicit_ntk.kernel._tiles import assembled
from implicit_ntk.kernel._walk import Walk
from implicit_ntk.networks import AbstractNetwork

Kernel = Float[Array, "..."]
Blocks = dict[str, Kernel]


class Entry(NamedTuple):
    """A reduction, what is made of its arrays at the end, and how many (n1, n2) arrays that leaves."""

    reduction: Reduction
    finish: Callable[[PyTree[Array]], PyTree[Array]]
    matrices: Callable[[Request], int]


_WHOLE = Entry(BLOCKS, lambda blocks: jax.tree.reduce(operator.add, blocks), lambda ask: ask.outputs**2)
_BLOCKS = Entry(BLOCKS, lambda blocks: blocks, lambda ask: len(ask.net.trained) * ask.outputs**2)
_TRACE = Entry(TRACE, lambda trace: trace, lambda ask: 1)
_DIAGONAL = Entry(DIAGONAL, lambda diagonal: diagonal, lambda ask: ask.outputs)


def ntk(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
    tile: int | None = None,
) -> Kernel:
    """The empirical kernel `H = J J^T`, or the cross kernel `k(X1, X2) = J_1 J_2^T`.

    For GG22 `H = gamma^2 (Lam Lam^T) o (Z Z^T)` (GG22, eq. (7)-(9)). Costs one forward and one
    adjoint solve a sample and 4 n1 n2 m flops. With k outputs there are k adjoint solves, and k^2 entries a
    pair of samples: `ntk_trace` and `ntk_diagonal` do with k.

    Some ten (n, m) arrays at once, where they fit in the memory limit. Where not, the batch is taken in
    tiles, and beside the result there is never more than the limit: each sample is solved for once if the
    gradients of all fit, and more often if they do not (see `kernel_tiles`). Inside of `jit` and its like,
    and over several devices, it is one piece.

    **Arguments:** `X1` (n1, d); `X2` (n2, d), None for `X1`; `method`, None for the network's default;
    `kind` of Jacobian, see `jacobian`; `tile`, the rows of a tile, None for what the memory has room for.

    **Returns:** (n1, n2), or (n1, k, n2, k) with k outputs: `H[i, c, j, e]` is the inner product of the
    gradients of `u_ic` and of `u_je`.

    **Raises:** as `jacobian`; `MemoryError` where the result is past the limit, or what cannot be
    taken in tiles; `ValueError` for a tile that is not a positive integer, or where there are none.
    """
    return _kernel(net, X1, X2, method, kind, tile, _WHOLE)


def ntk_blocks(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
    tile: int | None = None,
) -> Blocks:
    """The kernel of each trained leaf, `{"A": H_A, ...}`; they sum to `ntk`, whose arguments these are."""
    return _kernel(net, X1, X2, method, kind, tile, _BLOCKS)


def ntk_trace(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
    tile: int | None = None,
) -> Float[Array, "n1 n2"]:
    """The kernel traced over the outputs, `sum_c H[i, c, j, c]`, shape (n1, n2).

    What wide networks with an independent read-out an output approach is `H = (trace/k) x I_k`. Costs k
    Grams where `ntk` costs k^2 of them. With a scalar output it is `ntk`, whose arguments these are.
    """
    return _kernel(net, X1, X2, method, kind, tile, _TRACE)


def ntk_diagonal(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
    tile: int | None = None,
) -> Float[Array, "k n1 n2"]:
    """The kernel of each output by itself, `H[:, c, :, c]`, shape (k, n1, n2).

    Costs k Grams where `ntk` costs k^2 of them. With a scalar output it is `ntk(...)[None]`, whose
    arguments these are.
    """
    return _kernel(net, X1, X2, method, kind, tile, _DIAGONAL)


def _kernel(
    net: AbstractNetwork,
    X1: AnyArray,
    X2: AnyArray | None,
    method: Method | None,
    kind: str,
    tile: int | None,
    entry: Entry,
) -> Any:
    """What an entry makes of the Jacobians of both batches: in one piece where that fits, else in tiles."""
    request = Request.of(net, X1, X2, method, kind)
    plan = plan_for(request, tile, entry.reduction, entry.matrices(request))
    if plan is None:
        return entry.finish(request.in_one_piece(entry.reduction))
    return assembled(Walk(request, plan, entry.reduction), entry.finish)
