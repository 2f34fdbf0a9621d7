"""Solvers of the linear equations `x = apply(x) + rhs` that derivatives of an equilibrium ask for."""

import abc
import operator
from typing import ClassVar

import equinox as eqx
import jax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from implicit_ntk.equilibrium._affine import LinearizedAffine
from implicit_ntk.equilibrium._batch import divide, magnitudes, multiply, norms
from implicit_ntk.equilibrium._driver import Equilibrium, Iteration, iterate
from implicit_ntk.equilibrium._picard import Picard
from implicit_ntk.equilibrium._rule import LinearMap
from implicit_ntk.equilibrium._solver import Map, check_tolerances
from implicit_ntk.equilibrium._stopping import Tolerance


class AbstractLinearSolver(eqx.Module):
    """Solves `x = apply(x) + rhs` for each problem of a batch, relative to its right-hand side."""

    needs_affine: ClassVar[bool] = False

    atol: eqx.AbstractVar[ArrayLike]

    @abc.abstractmethod
    def solve(
        self,
        apply: LinearMap,
        rhs: PyTree[Array],
        batch_ndim: int,
        guess: PyTree[Array] | None = None,
        at: LinearizedAffine | None = None,
    ) -> Equilibrium:
        """The solution (as `.z`) with residual, error, steps and status of each problem.

        `at` is the form of `apply` where that is the derivative of an affine map, or its transpose, and
        the solver asked for it (`needs_affine`).
        """


class Neumann(AbstractLinearSolver):
    """The Neumann series `x = sum_k apply^k(rhs)`, until `||x - apply(x) - rhs|| <= atol + rtol ||rhs||`.

    Converges at the rate of the forward Picard iteration, since `apply` is the Jacobian of the map or
    its transpose. A zero right-hand side has the solution zero, in zero steps.
    """

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)

    def solve(
        self,
        apply: LinearMap,
        rhs: PyTree[Array],
        batch_ndim: int,
        guess: PyTree[Array] | None = None,
        at: LinearizedAffine | None = None,
    ) -> Equilibrium:
        """Picard on `x -> apply(x) + rhs`, from `guess` or from `rhs`, in units of each `rhs`."""
        unit = magnitudes(rhs, batch_ndim)
        rhs = divide(rhs, unit)
        iteration = Iteration(
            Map(lambda x: jax.tree.map(operator.add, apply(x), rhs), batch_ndim),
            Picard(max_steps=self.max_steps),
            Tolerance(self.rtol, self.atol / unit),
            scale=norms(rhs, batch_ndim),
        )
        eq = iterate(iteration, rhs if guess is None else divide(guess, unit))
        found = (multiply(unit, eq.z), unit * eq.residual, unit * eq.error)
        return eqx.tree_at(lambda eq: (eq.z, eq.residual, eq.error), eq, found)


def check_linear_solver(linear_solver: object) -> None:
    """Raise `TypeError` for anything else than a linear solver."""
    if not isinstance(linear_solver, AbstractLinearSolver):
        raise TypeError(f"linear_solver must be a linear solver such as Neumann(), got {linear_solver!r}")
