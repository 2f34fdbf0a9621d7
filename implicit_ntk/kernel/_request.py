"""A kernel that was asked for, checked at the door."""

import dataclasses
import math
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray
from implicit_ntk._hosts import devices_a_memory, held_rows, held_share, is_spread
from implicit_ntk._tracing import is_staged
from implicit_ntk._working_set import SLACK, working_set
from implicit_ntk.equilibrium import Equilibrium, Method, Policy, checked, has_tracer
from implicit_ntk.jacobian import check_request, held_bytes, solve_bytes
from implicit_ntk.kernel._reduction import Piece, Reduction, reduced
from implicit_ntk.networks import AbstractNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """The arguments of a kernel; `X2` None for `X1`."""

    net: AbstractNetwork
    X1: Float[Array, "n1 d"]
    X2: Float[Array, "n2 d"] | None
    method: Method
    kind: str

    @classmethod
    def of(
        cls, net: AbstractNetwork, X1: AnyArray, X2: AnyArray | None, method: Method | None, kind: str
    ) -> "Request":
        """Checked; raises as `check_request`."""
        X1, method, chosen = check_request(net, X1, method, kind, "X1")
        if X2 is not None:
            X2, _, _ = check_request(net, X2, method, kind, "X2")
        return cls(net, X1, X2, method, chosen)

    @property
    def sizes(self) -> tuple[int, int]:
        """(n1, n2)."""
        return self.X1.shape[0], (self.X1 if self.X2 is None else self.X2).shape[0]

    @property
    def outputs(self) -> int:
        """How many numbers the network says of a sample."""
        return math.prod(self.net.out_shape)

    @property
    def inputs(self) -> PyTree[Any]:
        """All that may hold arrays."""
        return self.net, self.X1, self.X2, self.method

    @property
    def is_traced(self) -> bool:
        """Inside of a transformation, be it that all arrays are known there?"""
        return has_tracer(self.inputs) or is_staged()

    @property
    def is_spread(self) -> bool:
        """Do its arrays live on several devices?"""
        return any(map(is_spread, jax.tree.leaves(self.inputs)))

    def piece_bytes(self, reduction: Reduction, n1: int, n2: int | None) -> int:
        """Bytes that so many rows and columns take in one piece, solves and result included."""
        X1, X2 = (None if n is None else self._batch(n) for n in (n1, n2))
        return working_set(reduced, self.net, X1, X2, self.method, "report", self.kind, reduction)

    def spread_bytes(self, matrices: int) -> int:
        """Bytes that one memory holds where arrays are spread over devices: an upper estimate.

        States and gradients of its rows and units; the gradients of all columns, which the Gram gathers; a
        product's rows and its partial sums, of all units; its rows of the result, by leaf and summed.
        """
        itemsize, share = self.X1.dtype.itemsize, held_share(self.net)
        rows = sum(map(held_rows, (self.X1,) if self.X2 is None else (self.X1, self.X2)))
        columns = self.sizes[1] * devices_a_memory(self.X1)
        states = solve_bytes(self.net, rows, self.method, self.kind)
        gathered = held_bytes(self.net, columns, self.method, self.kind)
        exchanged = 2 * rows * self.outputs * self.net.width * itemsize if share < 1 else 0
        blocks = (2 + len(self.net.trained)) * matrices * held_rows(self.X1) * self.sizes[1] * itemsize
        return int(share * (states + gathered) + exchanged + SLACK * blocks)

    def in_one_piece(self, reduction: Reduction) -> PyTree[Array]:
        """All of it in one program."""

        def run(policy: Policy) -> Piece:
            return reduced(self.net, self.X1, self.X2, self.method, policy, self.kind, reduction)

        return checked(run, _named_solves, self.method.on_failure, self.inputs)[0]

    def _batch(self, n: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n, self.X1.shape[1]), self.X1.dtype)


def _named_solves(piece: Piece) -> dict[str, Equilibrium]:
    return {
        f"{what} of {name}": eq
        for name, solves in zip(("X1", "X2"), piece[1], strict=False)
        for what, eq in solves.items()
    }
