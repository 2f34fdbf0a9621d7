"""What an exponential run can know: how small a residual, how slow a mode, and when it is over."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from implicit_ntk.dynamics._problem import FlowProblem
from implicit_ntk.dynamics.exponential._modes import Modes, Scalar
from implicit_ntk.dynamics.exponential._position import Position
from implicit_ntk.dynamics.exponential._state import ExponentialState, rms
from implicit_ntk.equilibrium import Iterated, default_rtol
from implicit_ntk.jacobian import implicit_adjoint
from implicit_ntk.kernel import resolution_of

ABOVE_SOLVES = 10
"""What the solves resolve, in units of their own relative tolerance."""


def settled(problem: FlowProblem, state: ExponentialState) -> Bool[Array, ""]:
    """Does the residual fall no more? It has vanished, or lies in modes that are not resolved.

    The latter where a longest step did not halve it.
    """
    modes = state.step.modes
    started = size(modes, problem.y.size)
    stuck = (rms(state.end.residual) > started / 2) & (state.step.h >= modes.end) & ~modes.resolved
    return vanished(problem, state.end) | stuck


def unresolved(problem: FlowProblem, time: Scalar) -> Scalar:
    """Modes of eigenvalues between zero and the resolution may have decayed by any share up to this one."""
    resolution = resolution_of(problem.eigenvalues)
    unknown = problem.eigenvalues <= resolution
    coefficients = jnp.matmul(
        problem.eigenvectors.T, jnp.ravel(problem.initial_residual), precision="highest"
    )
    share = jnp.where(resolution > 0, -jnp.expm1(-resolution * time), 0)
    return share * jnp.sqrt(jnp.sum(jnp.where(unknown, coefficients, 0) ** 2))


def size(modes: Modes, outputs: int) -> Scalar:
    """The root mean square of the residual at the start of a step."""
    return jnp.sqrt(jnp.sum(modes.coefficients**2) / outputs)


def vanished(problem: FlowProblem, end: Position) -> Bool[Array, ""]:
    """Is the residual below what the solves resolve?"""
    return rms(end.residual) <= floor(problem)


def floor(problem: FlowProblem) -> Scalar:
    """A residual that the solves hardly resolve."""
    return ABOVE_SOLVES * solved_to(problem) * (rms(problem.y) + rms(problem.initial_residual))


def least_rtol(problem: FlowProblem) -> Scalar:
    """Of steps: adjoint states, which the outputs hardly see, are what the velocity is made of."""
    linear = implicit_adjoint(problem.method).linear_solver
    own = getattr(linear.solver if isinstance(linear, Iterated) else linear, "rtol", None)
    adjoint = jnp.asarray(0.0 if own is None else own, problem.y.dtype)
    return ABOVE_SOLVES * jnp.maximum(solved_to(problem), adjoint)


def solved_to(problem: FlowProblem) -> Scalar:
    """The relative tolerance of the forward solves; none is trusted beyond the default of its dtype."""
    rtol, dtype = problem.method.solver.rtol, problem.y.dtype
    return jnp.maximum(jnp.asarray(0.0 if rtol is None else rtol, dtype), default_rtol(dtype))
