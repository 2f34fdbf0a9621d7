"""What an integrator of gradient flow is."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import Number
from implicit_ntk._tracing import is_traced
from implicit_ntk.dynamics._problem import FlowProblem, Leaves


class AbstractIntegrator(eqx.Module):
    """Moves a `FlowState` along the gradient flow of a `FlowProblem`; pure, and jitted once."""

    reaches_infinity: ClassVar[bool] = False
    """May the last of the requested times be `inf`?"""

    @property
    def krylov_size(self) -> int | None:
        """From how many products of `H(0)` it is to be known; None: it is formed and decomposed."""
        return None

    @abc.abstractmethod
    def check(self, problem: FlowProblem) -> FlowProblem:
        """The problem, refused where this integrator is known to fail on it."""

    @abc.abstractmethod
    def init(self, problem: FlowProblem) -> PyTree:
        """The state at t = 0."""

    @abc.abstractmethod
    def advance(self, problem: FlowProblem, state: PyTree, until: Float[Array, ""]) -> PyTree:
        """The state from which `leaves_at(until)` is known: after the last step before that time."""

    @abc.abstractmethod
    def leaves_at(self, problem: FlowProblem, state: PyTree, time: Float[Array, ""]) -> Leaves:
        """Dense output: the trained leaves at a time within the step that was advanced to."""

    @abc.abstractmethod
    def error_at(self, problem: FlowProblem, state: PyTree, time: Float[Array, ""]) -> Float[Array, ""]:
        """An estimate of `||u_numerical - u||`, the integrator's own error."""


def require_resolved(problem: FlowProblem, rtol: Number, least: Float[Array, ""]) -> FlowProblem:
    """The problem; raises `ValueError` for a tolerance of steps below the `least` that the solves resolve."""
    below = jnp.asarray(rtol, least.dtype) < least
    if is_traced(below):
        return eqx.error_if(problem, below, "rtol is below what the solves resolve; raise it")
    if below:
        raise ValueError(
            f"rtol={float(rtol):g} is below what the solves resolve; pass {float(least):.1g} or more, or "
            "solve to a smaller rtol"
        )
    return problem
