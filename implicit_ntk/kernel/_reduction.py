"""What an entry makes of the Jacobians of two batches: arrays with a row and a column axis, and what else."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray
from implicit_ntk.equilibrium import Equilibrium, Method, Policy
from implicit_ntk.jacobian import AbstractJacobian, build, solves_of
from implicit_ntk.networks import AbstractNetwork

Piece = tuple[PyTree[Array], list[dict[str, Equilibrium]]]
"""What a reduction has made, and the solves of each batch."""


@dataclasses.dataclass(frozen=True)
class Reduction:
    """`of(J1, J2)`, traceable: arrays `(*lead, n1, *out, n2, *out)`, with `lead` axes before the rows'.

    `transposed` is then `of(J2, J1)`, and the two axes of samples are `rows_axis` and `columns_axis`.
    """

    of: Callable[[AbstractJacobian, AbstractJacobian], PyTree[Array]]
    lead: int = 0

    def axes(self, ndim: int) -> tuple[int, int]:
        """The axes of the rows and of the columns."""
        return self.lead, (ndim + self.lead) // 2

    def transposed(self, block: Float[AnyArray, "..."]) -> Float[AnyArray, "..."]:
        """Rows and columns exchanged, each with its outputs."""
        rows, columns = self.axes(block.ndim)
        order = (*range(rows), *range(columns, block.ndim), *range(rows, columns))
        return block.transpose(order)

    def index(self, ndim: int, rows: slice, columns: slice) -> tuple[slice, ...]:
        """Where a block belongs."""
        where = [slice(None)] * ndim
        for axis, part in zip(self.axes(ndim), (rows, columns), strict=True):
            where[axis] = part
        return tuple(where)


def _all_blocks(J1: AbstractJacobian, J2: AbstractJacobian) -> dict[str, Float[Array, "..."]]:
    return J1.kernel_blocks(J2)


def _trace(J1: AbstractJacobian, J2: AbstractJacobian) -> Float[Array, "n1 n2"]:
    return J1.kernel_trace(J2)


def _diagonal(J1: AbstractJacobian, J2: AbstractJacobian) -> Float[Array, "k n1 n2"]:
    return J1.kernel_diagonal(J2)


BLOCKS = Reduction(_all_blocks)
TRACE = Reduction(_trace)
DIAGONAL = Reduction(_diagonal, lead=1)


@eqx.filter_jit
def reduced(
    net: AbstractNetwork,
    X1: Float[Array, "n1 d"],
    X2: Float[Array, "n2 d"] | None,
    method: Method,
    policy: Policy,
    kind: str,
    reduction: Reduction,
) -> Piece:
    """Solves and reduction in one program; `X2` None for `X1`."""
    with method.products():
        J1 = build(net, X1, method, policy, kind)
        J2 = J1 if X2 is None else build(net, X2, method, policy, kind)
        solves = [solves_of(J) for J in ((J1,) if X2 is None else (J1, J2))]
        return reduction.of(J1, J2), solves


@eqx.filter_jit
def reduced_pair(J1: AbstractJacobian, J2: AbstractJacobian, reduction: Reduction) -> PyTree[Array]:
    """The reduction of Jacobians that are there."""
    with J1.linearization.method.products():
        return reduction.of(J1, J2)
