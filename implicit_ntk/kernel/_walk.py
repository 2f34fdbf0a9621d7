"""The order in which the tiles of a kernel are solved for and multiplied.

A *strip* of tiles is solved for and held, the others pass by it, one at a time:

    solves = n (1 + (strips - 1)/2)            for a kernel of one batch, upper triangle only,
    solves = n1 + strips n2                    for a cross kernel,

so that with room for all of them every sample is solved for once.
"""

from collections.abc import Iterator

from jaxtyping import Array, Float, PyTree

from implicit_ntk.jacobian import AbstractJacobian, prepared, row_tiles, slim, solved
from implicit_ntk.kernel._plan import Plan
from implicit_ntk.kernel._reduction import Reduction, reduced_pair
from implicit_ntk.kernel._request import Request

Held = list[tuple[slice, AbstractJacobian]]
Block = tuple[slice, slice, PyTree[Array]]


class Walk:
    """An iterator over `(rows, columns, block)`, which knows what share of its work is done.

    With one batch only blocks on and above the diagonal: the others are their mirror images.
    """

    def __init__(self, request: Request, plan: Plan, reduction: Reduction):
        self.request, self.plan, self.reduction = request, plan, reduction
        self.method = prepared(request.net, request.X1, request.method)
        self.rows = row_tiles(request.sizes[0], plan.tile)
        self.columns = row_tiles(request.sizes[1], plan.tile)
        self.symmetric = request.X2 is None
        self._solves = self._pairs = 0
        self._price = 0.0

    def __iter__(self) -> Iterator[Block]:
        for first in range(0, len(self.rows), self.plan.held):
            strip = range(first, min(first + self.plan.held, len(self.rows)))
            yield from self._triangle(strip) if self.symmetric else self._rectangle(strip)

    @property
    def share(self) -> float:
        """Of the operations so far in those of the whole walk, in [0, 1]: one at its end."""
        solves, pairs = self._total
        return (self._price * self._solves + self._pairs) / (self._price * solves + pairs)

    def _triangle(self, strip: range) -> Iterator[Block]:
        """The strip's rows of the upper triangle: it is solved for on the way."""
        held: Held = []
        for j in range(strip.start, len(self.rows)):
            J = self._solved(self.request.X1, self.rows[j], "X1")
            if j in strip:
                held.append((self.rows[j], J))
            yield from self._against(held, self.rows[j], J)

    def _rectangle(self, strip: range) -> Iterator[Block]:
        """The strip's rows of a cross kernel."""
        X1, X2 = self.request.X1, self.request.X2
        assert X2 is not None
        held = [(self.rows[i], self._solved(X1, self.rows[i], "X1")) for i in strip]
        for columns in self.columns:
            yield from self._against(held, columns, self._solved(X2, columns, "X2"))

    def _against(self, held: Held, columns: slice, J: AbstractJacobian) -> Iterator[Block]:
        for rows, J1 in held:
            block = reduced_pair(J1, J, self.reduction)
            self._pairs += 1
            yield rows, columns, block

    def _solved(self, X: Float[Array, "n d"], rows: slice, name: str) -> AbstractJacobian:
        request = self.request
        J = solved(request.net, X, rows, self.method, request.kind, name)
        self._price = self._price or self._price_of(J)
        self._solves += 1
        return slim(J)

    def _price_of(self, J: AbstractJacobian) -> float:
        """Operations of a tile's solves over those of a pair, taken of the first tile.

        An evaluation is `m^2` a row, as for a cell that is one product; an entry of the kernel the inner
        product of two gradients, which are two rows of factors, or all that is trained.
        """
        at, outputs, m = J.linearization, self.request.outputs, self.request.net.width
        evaluations = float(at.equilibrium.steps.max()) + outputs * float(at.adjoint.steps.max())
        gradient = 2 * m if self.request.kind == "outer" else J.shape[1]
        return evaluations * m**2 / (self.plan.tile * outputs**2 * gradient)

    @property
    def _total(self) -> tuple[int, int]:
        """How many tiles will be solved for, and how many pairs be multiplied."""
        n1, n2, held = len(self.rows), len(self.columns), self.plan.held
        strips = range(0, n1, held)
        if self.symmetric:
            return sum(n1 - first for first in strips), n1 * (n1 + 1) // 2
        return n1 + len(strips) * n2, n1 * n2
