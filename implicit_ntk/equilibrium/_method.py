"""How to solve: one value that every entry point takes as `method=`."""

import dataclasses
from contextlib import AbstractContextManager

import equinox as eqx
import jax

from implicit_ntk.equilibrium._adjoint import HIGHEST, AbstractAdjoint, ImplicitAdjoint
from implicit_ntk.equilibrium._affine import AffineMap
from implicit_ntk.equilibrium._iterated import Iterated
from implicit_ntk.equilibrium._krylov import GMRES
from implicit_ntk.equilibrium._linear import AbstractLinearSolver
from implicit_ntk.equilibrium._newton import Newton
from implicit_ntk.equilibrium._picard import Picard
from implicit_ntk.equilibrium._policy import POLICIES, Policy
from implicit_ntk.equilibrium._solver import AbstractSolver, check_form

PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")


class Method(eqx.Module):
    """Solver, adjoint, failure policy and precision of the products.

    - `solver`: the forward iteration, `Picard()` by default.
    - `adjoint`: how derivatives are taken, `ImplicitAdjoint()` by default.
    - `on_failure`: `"raise"` (a failed solve raises, inside any transformation too), `"nan"` (its state
      and its cotangents are NaN), `"report"` (the state is handed out as it is, its `status` tells; an
      adjoint that failed still gives NaN, never an unconverged number).
    - `precision`: of matrix products and convolutions, None for the highest; otherwise one of JAX's
      names (`"default"`, `"high"`, `"tensorfloat32"`, ...). A product that a user's own function gives
      a precision keeps it.
    """

    solver: AbstractSolver = Picard()
    adjoint: AbstractAdjoint = ImplicitAdjoint()
    on_failure: Policy = "raise"
    precision: str | None = None

    def __check_init__(self) -> None:
        if not isinstance(self.solver, AbstractSolver):
            raise TypeError(f"solver must be a solver such as Picard(), got {self.solver!r}")
        if not isinstance(self.adjoint, AbstractAdjoint):
            raise TypeError(f"adjoint must be an adjoint such as ImplicitAdjoint(), got {self.adjoint!r}")
        if self.on_failure not in POLICIES:
            raise ValueError(f"on_failure must be one of {POLICIES}, got {self.on_failure!r}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(f"precision must be None or one of {PRECISIONS}, got {self.precision!r}")

    @classmethod
    def of(
        cls, solver: AbstractSolver, on_failure: Policy = "raise", precision: str | None = None
    ) -> "Method":
        """The method that solves for equilibria and for their derivatives by the same solver.

        Forward and adjoint share what the solver factors. `Newton` lends its linear solver (where it was
        given none, `GMRES()`) at the full tolerance; an `atol` is the states' own and not lent.
        """
        return cls(solver, ImplicitAdjoint(_linear_solver_of(solver)), on_failure, precision)

    def prepared(self, affine: AffineMap | None) -> "Method":
        """The method with what its solvers factor once for these weights, forward and adjoint alike.

        Raises `ValueError` where the solver needs a form that the cell has not.
        """
        check_form(self.solver, affine)
        if affine is None:
            return self
        affine = affine.constant()
        solver = self.solver.prepare(affine)
        return dataclasses.replace(self, solver=solver, adjoint=self.adjoint.prepare(affine, solver))

    @property
    def full_precision(self) -> str:
        """JAX's name of the precision of products."""
        return self.precision or HIGHEST

    def products(self) -> AbstractContextManager:
        """A context in which every product is traced with this method's precision written on it."""
        return jax.default_matmul_precision(self.full_precision)


def _linear_solver_of(solver: AbstractSolver) -> AbstractLinearSolver:
    """For derivatives: a solver's tolerances on states, or on Newton's steps, say nothing of cotangents."""
    if not isinstance(solver, Newton):
        return Iterated(solver=dataclasses.replace(solver, atol=0.0))
    if solver.linear_solver is None:
        return GMRES()
    loose = hasattr(solver.linear_solver, "rtol")
    return dataclasses.replace(solver.linear_solver, atol=0.0, **({"rtol": None} if loose else {}))
