"""The Jacobian of a batch of any size, some rows at a time: as many as the memory has room for."""

from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray, check_positive
from implicit_ntk._memory import memory_limit
from implicit_ntk._working_set import working_set
from implicit_ntk.equilibrium import Equilibrium, Method, Policy, checked, has_tracer
from implicit_ntk.jacobian._autodiff import AutodiffJacobian
from implicit_ntk.jacobian._jacobian import build, check_request, default_kind, solves_of
from implicit_ntk.jacobian._operator import AbstractJacobian
from implicit_ntk.networks import AbstractNetwork


def jacobian_tiles(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    method: Method | None = None,
    kind: str = "auto",
    tile: int | None = None,
) -> Iterator[tuple[slice, AbstractJacobian]]:
    """The Jacobian of a batch in tiles of rows, each solved when it is asked for.

    What the solvers factor is factored once for all tiles. Concrete arrays only.

    **Arguments:** as `jacobian`; `tile`, the rows of a tile (the last may have fewer), None for as many
    as half of the memory limit has room for, see `tile_rows`.

    **Returns:** an iterator of `(rows, J)`: a slice of the batch, and the Jacobian on `X[rows]`.

    **Raises:** as `jacobian`, at once for the arguments; `ConvergenceError` names the rows;
    `MemoryError` where a single row does not fit; `TypeError` inside of a transformation.
    """
    X, method, kind = check_request(net, X, method, kind)
    require_concrete("jacobian_tiles", has_tracer((net, X, method)))
    tile = tile_rows(net, X.shape[0], method, kind) if tile is None else tile
    check_positive(tile, "tile")
    method = prepared(net, X, method)
    return ((rows, solved(net, X, rows, method, kind)) for rows in row_tiles(X.shape[0], tile))


def tile_rows(
    net: AbstractNetwork,
    n: int,
    method: Method | None = None,
    kind: str = "auto",
    budget: int | None = None,
) -> int:
    """How many rows, of n, may be solved for and linearised at once in `budget` bytes.

    Counts the solvers' histories, the adjoint states of all outputs and what the Jacobian keeps, as
    `working_set` finds them; the network and the batch are there already. Of the sizes down to half of
    what fits one that divides n is preferred, so that one compiled program serves all tiles.

    **Arguments:** `budget`, None for half of the memory limit; the others as in `jacobian`.

    **Raises:** `MemoryError` where a single row does not fit.
    """
    method, kind = net.resolve(method), default_kind(net) if kind == "auto" else kind
    budget = memory_limit() // 2 if budget is None else budget
    return rows_within(budget, n, lambda rows: solve_bytes(net, rows, method, kind))


def rows_within(budget: int, n: int, needs: Callable[[int], int]) -> int:
    """The rows of a tile that `needs` at most `budget` bytes, of n; raises `MemoryError` where none fits."""
    least, rows = needs(1), n
    if least > budget:
        raise MemoryError(
            f"solving one row needs {least / 2**30:.2g} GiB, past the {max(budget, 0) / 2**30:.2g} GiB there "
            "is room for; take a narrower network, a solver that keeps less or, for a kernel, fewer samples, "
            "or set IMPLICIT_NTK_MEMORY (bytes)"
        )
    # What a solve takes is convex in its rows, so that a chord errs on the safe side; LU(), whose
    # own tiles make it concave, takes a few chords.
    while (needed := needs(rows)) > budget:
        rows = 1 + (rows - 1) * (budget - least) // (needed - least)
    # Of what is far from linear, such as the n^2 entries of a pair of tiles, a chord takes too little.
    while 2 * rows <= n and needs(2 * rows) <= budget:
        rows *= 2
    return _dividing(n, rows)


def row_tiles(n: int, tile: int) -> list[slice]:
    """The rows of each tile."""
    return [slice(start, min(start + tile, n)) for start in range(0, n, tile)]


def solve_bytes(net: AbstractNetwork, rows: int, method: Method, kind: str) -> int:
    """Bytes that so many rows take to be solved for and linearised, the Jacobian included."""
    return working_set(_linearized, net, _batch(net, rows), method, "report", kind)


def held_bytes(net: AbstractNetwork, rows: int, method: Method, kind: str) -> int:
    """Bytes of the Jacobian of so many rows as `slim` leaves it, without the network, which all share."""
    form = eqx.filter_eval_shape(_linearized, net, _batch(net, rows), method, "report", kind)
    arrays = (leaf for leaf in jax.tree.leaves(slim(form)) if isinstance(leaf, jax.ShapeDtypeStruct))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)


def solved(
    net: AbstractNetwork, X: Float[Array, "n d"], rows: slice, method: Method, kind: str, name: str = "X"
) -> AbstractJacobian:
    """The Jacobian on some rows of a batch that was checked; a failure names them."""
    # With the start as an operand: one program for all tiles, where a slice would be compiled for each.
    some = lax.dynamic_slice_in_dim(X, rows.start, rows.stop - rows.start)

    def run(policy: Policy) -> AbstractJacobian:
        return linearized(net, some, method, policy, kind)

    def solves(J: AbstractJacobian) -> dict[str, Equilibrium]:
        return {f"{what} of {name}[{rows.start}:{rows.stop}]": eq for what, eq in solves_of(J).items()}

    return checked(run, solves, method.on_failure, (net, some))


def slim(J: AbstractJacobian) -> AbstractJacobian:
    """The Jacobian without the states that its products and Grams do not read: who holds many needs room.

    Gradient factors, and the rows of a matrix, say all; autodiff wants the states, but not the injection.
    """

    def unread(J: AbstractJacobian) -> list:
        at = J.linearization
        return [at.phi] if isinstance(J, AutodiffJacobian) else [at.phi, at.equilibrium.z, at.adjoint.z]

    return eqx.tree_at(unread, J, [None] * len(unread(J)))


@eqx.filter_jit
def prepared(net: AbstractNetwork, X: Float[Array, "n d"], method: Method) -> Method:
    """The method with what its solvers factor once for these weights, whatever the batch."""
    with method.products():
        return method.prepared(net.affine(net.inject(X[:1])))


def linearized(
    net: AbstractNetwork, X: Float[Array, "n d"], method: Method, policy: Policy, kind: str
) -> AbstractJacobian:
    """`build`, compiled once for all tiles of one size. The weights are the network's own, not a copy."""
    J = _linearized(net, X, method, policy, kind)
    return eqx.tree_at(_shared, J, (net, method), is_leaf=lambda leaf: leaf is None)


@eqx.filter_jit
def _linearized(
    net: AbstractNetwork, X: Float[Array, "n d"], method: Method, policy: Policy, kind: str
) -> AbstractJacobian:
    with method.products():
        return eqx.tree_at(_shared, build(net, X, method, policy, kind), (None, None))


def _shared(J: AbstractJacobian) -> tuple[PyTree, PyTree]:
    """What all tiles have in common."""
    return J.linearization.net, J.linearization.method


def require_concrete(what: str, traced: bool) -> None:
    """Raise `TypeError` inside of a transformation."""
    if traced:
        raise TypeError(f"{what} needs known arrays; call it outside of jit, grad and vmap")


def _batch(net: AbstractNetwork, rows: int) -> jax.ShapeDtypeStruct:
    """The form of so many rows, in the dtype of the network."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(net) if eqx.is_inexact_array(leaf)]
    return jax.ShapeDtypeStruct((rows, net.in_size), jnp.result_type(float, *dtypes))


def _dividing(n: int, rows: int) -> int:
    """The largest divisor of n from rows/2 to rows, so that all tiles are equal; `rows` where none is."""
    return next((size for size in range(rows, rows // 2, -1) if n % size == 0), rows)
