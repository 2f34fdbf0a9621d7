"""Ways to differentiate through an equilibrium; each runs the solve that its derivatives need."""

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, PyTree

from implicit_ntk._checks import check_positive
from implicit_ntk.equilibrium._affine import AffineMap, LinearizedAffine
from implicit_ntk.equilibrium._driver import Equilibrium, Iteration, iterate, unroll
from implicit_ntk.equilibrium._linear import AbstractLinearSolver, Neumann, check_linear_solver
from implicit_ntk.equilibrium._policy import Policy, guard_adjoint, guard_forward
from implicit_ntk.equilibrium._rule import LinearMap, LinearSolve, ParametricMap, both_modes, reverse_only
from implicit_ntk.equilibrium._solver import AbstractSolver, Map

HIGHEST = "highest"
"""The precision of products that nobody has asked for less of."""


class Problem(eqx.Module):
    """A fixed-point problem `z = f(z, args)` as an adjoint gets it."""

    f: ParametricMap
    args: Any
    batch_ndim: int
    policy: Policy
    affine: AffineMap | None = None
    precision: str = eqx.field(static=True, default=HIGHEST)

    def iteration(self, solver: AbstractSolver) -> Iteration:
        """The problem at its arguments, ready to be iterated."""
        f = Map(lambda z: self.f(z, self.args), self.batch_ndim, self.affine)
        return Iteration(f, solver, solver.tolerance)


class AbstractAdjoint(eqx.Module):
    """Solves a problem and attaches derivatives with respect to `args` (never to the guess)."""

    @abc.abstractmethod
    def solve(self, problem: Problem, solver: AbstractSolver, z0: PyTree[Array]) -> Equilibrium:
        """The equilibrium, its `z` differentiable in `problem.args`."""

    def prepare(self, affine: AffineMap, solver: AbstractSolver) -> "AbstractAdjoint":
        """The adjoint with whatever its solver factors once, or shares with the forward solver."""
        return self


class AbstractImplicitAdjoint(AbstractAdjoint):
    """The implicit function theorem; `linear_solver` solves the equations that it leads to."""

    linear_solver: eqx.AbstractVar[AbstractLinearSolver]

    @abc.abstractmethod
    def attach(self, f: ParametricMap, z: PyTree[Array], args: Any, solve: LinearSolve) -> PyTree[Array]:
        """The value `z` with derivatives in `args`."""

    def __check_init__(self) -> None:
        check_linear_solver(self.linear_solver)

    def prepare(self, affine: AffineMap, solver: AbstractSolver) -> "AbstractImplicitAdjoint":
        """The adjoint with its linear solver prepared."""
        return dataclasses.replace(self, linear_solver=self.linear_solver.prepare(affine, solver))

    def solve(self, problem: Problem, solver: AbstractSolver, z0: PyTree[Array]) -> Equilibrium:
        """Solve without derivatives, then attach the rule."""
        eq = _solve_without_derivatives(problem, solver, z0)
        solve = GuardedSolve(self.linear_solver, problem.batch_ndim, problem.policy, problem.precision)
        solve = solve.near(problem.affine, eq.z)
        return _with_state(eq, self.attach(problem.f, eq.z, problem.args, solve), problem.policy)


class ImplicitAdjoint(AbstractImplicitAdjoint):
    """The implicit function theorem in both modes and to every order (the default).

    `linear_solver` solves the tangent and the cotangent equation alike.
    """

    linear_solver: AbstractLinearSolver = Neumann()

    def attach(self, f: ParametricMap, z: PyTree[Array], args: Any, solve: LinearSolve) -> PyTree[Array]:
        """By a `custom_jvp` whose tangent equation JAX can transpose."""
        return both_modes(f, z, args, solve)


class ReverseAdjoint(AbstractImplicitAdjoint):
    """The implicit function theorem as a literal `jax.custom_vjp`: reverse mode, first order.

    For training loops that want nothing else. Forward mode, and so Hessians and the kernel by `jvp`,
    raise JAX's own error; `ImplicitAdjoint` has them, at the same cost.
    """

    linear_solver: AbstractLinearSolver = Neumann()

    def attach(self, f: ParametricMap, z: PyTree[Array], args: Any, solve: LinearSolve) -> PyTree[Array]:
        """By a `custom_vjp`."""
        return reverse_only(f, z, args, solve)


class Unrolled(AbstractAdjoint):
    """Differentiate the iteration itself: the reference that the implicit rules are tested against.

    Always runs `depth` evaluations (None: the solver's `max_steps`) and keeps them in memory. The
    derivative of a truncated iteration lags behind its value.
    """

    depth: int | None = None

    def __check_init__(self) -> None:
        if self.depth is not None:
            check_positive(self.depth, "depth")

    def solve(self, problem: Problem, solver: AbstractSolver, z0: PyTree[Array]) -> Equilibrium:
        """Run the driver's loop as a `scan`."""
        if solver.needs_affine:
            raise ValueError(
                f"adjoint: Unrolled() differentiates applications of the cell, which {type(solver).__name__} "
                "does not make; use ImplicitAdjoint(), or unroll Picard() or Anderson()"
            )
        depth = solver.max_steps if self.depth is None else self.depth
        return guard_forward(unroll(problem.iteration(solver), lax.stop_gradient(z0), depth), problem.policy)


class JacobianFree(AbstractAdjoint):
    """Replace `(I - J)^{-1}` by `I`: the derivative of one application at the solution.

    A deliberate surrogate (Fung et al. 2022, "JFB"): a descent direction for contractive maps, not the
    gradient. One product, no linear solve.
    """

    def solve(self, problem: Problem, solver: AbstractSolver, z0: PyTree[Array]) -> Equilibrium:
        """Solve without derivatives; the value is the solution, the derivative that of `f(z*, args)`."""
        eq = _solve_without_derivatives(problem, solver, z0)
        once = problem.f(eq.z, problem.args)
        z = jax.tree.map(lambda z, once: z + (once - lax.stop_gradient(once)), eq.z, once)
        return _with_state(eq, z, problem.policy)


class GuardedSolve(eqx.Module):
    """The linear solve that a rule is given: its failures are those of `guard_adjoint`.

    It brings the precision of its products along: JAX runs rules outside the context they were made in.
    """

    linear_solver: AbstractLinearSolver
    batch_ndim: int
    policy: Policy
    precision: str = eqx.field(static=True)
    tangents: LinearizedAffine | None = None

    def near(self, affine: AffineMap | None, z: PyTree[Array]) -> "GuardedSolve":
        """The same, told the form of the equations at `z`, where the linear solver wants to know it."""
        if affine is None or not self.linear_solver.needs_affine:
            return self
        return dataclasses.replace(self, tangents=affine.constant().linearized(lax.stop_gradient(z)))

    def solve(
        self,
        apply: LinearMap,
        rhs: PyTree[Array],
        transposed: bool = False,
        guess: PyTree[Array] | None = None,
    ) -> Equilibrium:
        """The solution of `x = apply(x) + rhs` with its books."""
        at = self.tangents
        if at is not None and transposed:
            at = at.transpose()
        with jax.default_matmul_precision(self.precision):
            eq = self.linear_solver.solve(apply, rhs, self.batch_ndim, guess, at)
        return guard_adjoint(eq, self.policy)

    def __call__(self, apply: LinearMap, rhs: PyTree[Array], transposed: bool = False) -> PyTree[Array]:
        """The `x` of `x = apply(x) + rhs`."""
        return self.solve(apply, rhs, transposed).z


def _solve_without_derivatives(problem: Problem, solver: AbstractSolver, z0: PyTree[Array]) -> Equilibrium:
    arrays, static = eqx.partition((problem, solver, z0), eqx.is_array)
    problem, solver, z0 = eqx.combine(lax.stop_gradient(arrays), static)
    eq = iterate(problem.iteration(solver), z0)
    # Raise before the rule reads the state, so that the cause is told and not its consequence. The NaN
    # of a failed state comes after the rule, which at a NaN would find that a relu is dead and slopes 0.
    return lax.stop_gradient(guard_forward(eq, problem.policy) if problem.policy == "raise" else eq)


def _with_state(eq: Equilibrium, z: PyTree[Array], policy: Policy) -> Equilibrium:
    """The solve with the state `z`, which carries the derivatives, and which the policy marks once more.

    Without the mark a derivative that needs no state, as a linear map's, would not know of the failure.
    """
    eq = eqx.tree_at(lambda eq: eq.z, eq, z)
    return eq if policy == "report" else guard_forward(eq, "nan")
