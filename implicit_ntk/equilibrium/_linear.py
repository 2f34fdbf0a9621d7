"""Solvers of the linear equations `x = apply(x) + rhs` that derivatives of an equilibrium ask for."""

import abc
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from implicit_ntk.equilibrium._affine import AffineMap, LinearizedAffine
from implicit_ntk.equilibrium._batch import divide, magnitudes, multiply, norms, select
from implicit_ntk.equilibrium._driver import Equilibrium, Iteration, iterate
from implicit_ntk.equilibrium._picard import Picard
from implicit_ntk.equilibrium._rule import LinearMap
from implicit_ntk.equilibrium._solver import AbstractSolver, Map, check_form, check_tolerances
from implicit_ntk.equilibrium._status import Status
from implicit_ntk.equilibrium._stopping import Tolerance, at_floor


class AbstractLinearSolver(eqx.Module):
    """Solves `x = apply(x) + rhs` for each problem of a batch, relative to its right-hand side."""

    atol: eqx.AbstractVar[ArrayLike]

    @property
    def needs_affine(self) -> bool:
        """Must the form of the equations be known?"""
        return False

    def prepare(self, affine: AffineMap, solver: AbstractSolver) -> "AbstractLinearSolver":
        """The same with whatever it factors once, or shares with the solver of the forward equation."""
        return self

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
        picard = Picard(self.rtol, max_steps=self.max_steps)
        return solve_by_iteration(picard, self.atol, apply, rhs, batch_ndim, guess)


def solve_by_iteration(
    solver: AbstractSolver,
    atol: ArrayLike,
    apply: LinearMap,
    rhs: PyTree[Array],
    batch_ndim: int,
    guess: PyTree[Array] | None = None,
    at: LinearizedAffine | None = None,
) -> Equilibrium:
    """The fixed point of `x -> apply(x) + rhs`, from `guess` or from `rhs`, in units of each `rhs`.

    The tolerances are those of the solver, `atol` added to its own. A solver that needs the affine form
    iterates on that of the equation, `at.equation(rhs)`, instead; the residual is that of `x` all the same.
    Raises `ValueError` where it needs a form that there is not.
    """
    unit = magnitudes(rhs, batch_ndim)
    rhs = divide(rhs, unit)
    x = rhs if guess is None else divide(guess, unit)
    tolerance, scale = Tolerance(solver.rtol, (solver.atol + atol) / unit), norms(rhs, batch_ndim)
    f = Map(lambda x: jax.tree.map(operator.add, apply(x), rhs), batch_ndim)
    iteration = Iteration(f, solver, tolerance, scale)
    eq = _iterate_affine(iteration, rhs, x, at) if solver.needs_affine else iterate(iteration, x)
    found = (multiply(unit, eq.z), unit * eq.residual, unit * eq.error)
    return eqx.tree_at(lambda eq: (eq.z, eq.residual, eq.error), eq, found)


def _iterate_affine(
    iteration: Iteration, rhs: PyTree[Array], x: PyTree[Array], at: LinearizedAffine | None
) -> Equilibrium:
    """The solution by the fixed point of the affine form, judged by its own residual.

    What the affine form's tolerance has left of it, magnified by the weights, is solved for once more.
    """
    check_form(iteration.solver, None if at is None else at.equation(rhs))
    assert at is not None
    ndim, first = iteration.f.batch_ndim, _by_affine_form(iteration, rhs, x, at)
    missing, unsolved = _unsolved(iteration, first)

    def refined() -> tuple[Equilibrium, Array, Array]:
        zero = jnp.zeros_like(missing)
        rest = select(unsolved, missing, zero)
        again = Iteration(
            iteration.f, iteration.solver, Tolerance(iteration.tolerance.rtol, 0.0), norms(rest, ndim)
        )
        more = _by_affine_form(again, rest, zero, at)
        books = (first.z + more.z, first.error + more.error, first.steps + more.steps)
        eq = eqx.tree_at(lambda eq: (eq.z, eq.error, eq.steps), first, books)
        return eq, *_unsolved(iteration, eq)

    eq, missing, unsolved = lax.cond(jnp.any(unsolved), refined, lambda: (first, missing, unsolved))
    status = jnp.where(unsolved, jnp.int32(Status.BREAKDOWN), eq.status)
    return eqx.tree_at(lambda eq: (eq.residual, eq.status), eq, (norms(missing, ndim), status))


def _by_affine_form(iteration: Iteration, rhs: Array, x: Array, at: LinearizedAffine) -> Equilibrium:
    """The fixed point of `at.equation(rhs)` to the same tolerance, as the solution that belongs to it."""
    equation, solver = at.equation(rhs), iteration.solver
    f = Map(equation, iteration.f.batch_ndim, equation)
    solver = solver.transpose() if at.transposed else solver
    eq = iterate(Iteration(f, solver, iteration.tolerance, iteration.scale), at.unknown(x, rhs))
    return eqx.tree_at(lambda eq: eq.z, eq, at.solution(eq.z, rhs))


def _unsolved(iteration: Iteration, eq: Equilibrium) -> tuple[Array, Array]:
    """What the equation still lacks, and for which problems that is too much although it was solved."""
    ndim, scale = iteration.f.batch_ndim, iteration.scale
    assert scale is not None
    missing = iteration.f(eq.z) - eq.z
    residual = norms(missing, ndim)
    enough = (residual <= iteration.tolerance.threshold(scale)) | at_floor(residual, scale, norms(eq.z, ndim))
    return missing, eq.succeeded & ~enough


def check_linear_solver(linear_solver: object) -> None:
    """Raise `TypeError` for anything else than a linear solver."""
    if not isinstance(linear_solver, AbstractLinearSolver):
        raise TypeError(f"linear_solver must be a linear solver such as Neumann(), got {linear_solver!r}")
