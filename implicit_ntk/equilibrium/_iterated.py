"""Linear equations by a fixed-point solver."""

import dataclasses

from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from implicit_ntk.equilibrium._affine import AffineMap, LinearizedAffine
from implicit_ntk.equilibrium._driver import Equilibrium
from implicit_ntk.equilibrium._linear import AbstractLinearSolver, solve_by_iteration
from implicit_ntk.equilibrium._rule import LinearMap
from implicit_ntk.equilibrium._solver import AbstractSolver, check_tolerances


class Iterated(AbstractLinearSolver):
    """`x = apply(x) + rhs` by a fixed-point solver, as `Neumann` does by Picard.

    `solver` may be any: `Anderson()`, `Broyden()`, or one that needs the form of the cell, which then
    iterates on the linearised cell. Its tolerances are relative to each right-hand side; `atol` is added
    to its own.
    """

    solver: AbstractSolver
    atol: ArrayLike = 0.0

    def __check_init__(self) -> None:
        if not isinstance(self.solver, AbstractSolver):
            raise TypeError(f"solver must be a fixed-point solver such as Anderson(), got {self.solver!r}")
        check_tolerances(None, self.atol, 1)

    @property
    def needs_affine(self) -> bool:
        """Does the solver?"""
        return self.solver.needs_affine

    def prepare(self, affine: AffineMap, solver: AbstractSolver) -> "Iterated":
        """With the solver prepared, from the forward one where they share what they factor."""
        return dataclasses.replace(self, solver=self.solver.prepare(affine, solver))

    def solve(
        self,
        apply: LinearMap,
        rhs: PyTree[Array],
        batch_ndim: int,
        guess: PyTree[Array] | None = None,
        at: LinearizedAffine | None = None,
    ) -> Equilibrium:
        """The fixed point of `x -> apply(x) + rhs`, from `guess` or from `rhs`."""
        return solve_by_iteration(self.solver, self.atol, apply, rhs, batch_ndim, guess, at)
