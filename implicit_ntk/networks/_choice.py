"""Which solver suits a cell, and why."""

import dataclasses
import math

from jaxtyping import Array

from implicit_ntk._tracing import is_traced
from implicit_ntk.equilibrium import (
    GMRES,
    AbstractImplicitAdjoint,
    AbstractLinearSolver,
    AbstractSolver,
    Anderson,
    Auto,
    Chord,
    ImplicitAdjoint,
    Iterated,
    Method,
    Neumann,
    PeacemanRachford,
    Picard,
    Unrolled,
)

SWIFT = 1.8
"""Below this bound of the Lipschitz constant Picard needs few steps: i.i.d. weights contract at about a
third of it."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A forward solver, a linear solver for its derivatives, and the reason."""

    solver: AbstractSolver
    linear_solver: AbstractLinearSolver
    reason: str

    @property
    def method(self) -> Method:
        """The method of both."""
        return Method(self.solver, ImplicitAdjoint(self.linear_solver))

    def __str__(self) -> str:
        return f"{self.solver} and {self.linear_solver}: {self.reason}"


def put_choice(method: Method, auto: Auto, choice: Choice) -> Method:
    """The method with the solvers chosen, at the tolerances asked for.

    A linear solver that was named stays, as does an adjoint that solves no linear equation; one that
    unrolls wants a solver that applies the cell.
    """
    solver, adjoint = choice.solver, method.adjoint
    if isinstance(adjoint, AbstractImplicitAdjoint) and adjoint.linear_solver == Neumann():
        adjoint = dataclasses.replace(adjoint, linear_solver=choice.linear_solver)
    if isinstance(adjoint, Unrolled) and solver.needs_affine:
        solver = Anderson()
    return dataclasses.replace(method, solver=auto.lend(solver), adjoint=adjoint)


def value_of(number: Array) -> float | None:
    """The number, where it can be read."""
    return None if is_traced(number) else float(number)


def unknown_cell() -> Choice:
    """For a cell of which neither the form nor a certificate is known."""
    reason = "no certificate and no affine form are known; both need neither"
    return Choice(Anderson(), GMRES(), reason)


def affine_cell(bound: float | None) -> Choice:
    """For `sigma(z W + offset)` with this bound of its Lipschitz constant; None inside a transformation."""
    if bound is None:
        return Choice(Picard(), Neumann(), "inside a transformation the certificate has no value to read")
    if bound < 1:
        return Choice(Picard(), Neumann(), f"certified: it contracts by {bound:.3g} or better")
    if bound < SWIFT:
        why = f"not certified (the bound is {bound:.3g}); i.i.d. centred weights contract at a third of it"
        return Choice(Picard(), Neumann(), why)
    chord = Chord()
    why = f"not certified (the bound is {bound:.3g}), near or beyond the edge, where a preconditioner pays"
    return Choice(chord, Iterated(solver=chord), why)


def monotone_cell(monotonicity: float | None, bound: float | None, lipschitz: float | None) -> Choice:
    """For a monotone cell: `||W|| = bound`, `||I - W|| = lipschitz`."""
    if monotonicity is None or bound is None or lipschitz is None:
        splitting = PeacemanRachford()
        why = "monotone: the splitting converges whatever the norm"
        return Choice(splitting, Iterated(solver=splitting), why)
    if bound < 0.5:
        return Choice(Picard(), Neumann(), f"certified: ||W|| = {bound:.3g}; nothing need be factored")
    if not monotonicity > 0:
        return affine_cell(bound)
    # Of a few values, since each is compiled for; the rate is flat around the best.
    alpha = 2 ** (round(-math.log2(monotonicity * lipschitz)) / 2)
    splitting = PeacemanRachford(alpha=alpha)
    why = f"monotone with modulus {monotonicity:.3g}; ||W|| = {bound:.3g} does not matter to the splitting"
    return Choice(splitting, Iterated(solver=splitting), why)
