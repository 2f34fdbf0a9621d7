"""Where the exponential integrator gets the modes of its steps, and what it makes of them."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from implicit_ntk.dynamics._problem import FlowProblem
from implicit_ntk.dynamics.exponential._modes import Modes, Scalar, in_full_precision
from implicit_ntk.dynamics.exponential._position import Position
from implicit_ntk.dynamics.exponential._step import AbstractStep, Step, gram
from implicit_ntk.jacobian import AbstractJacobian


class AbstractSplitting(eqx.Module):
    """Splits the flow at a linear part: the modes of a step, and the step that corrects for the rest."""

    @abc.abstractmethod
    def first(self, problem: FlowProblem, start: Position) -> Modes:
        """The modes at t = 0."""

    @abc.abstractmethod
    def modes(
        self, J: AbstractJacobian, r: Float[Array, "n *out"], kept: Modes, way: Scalar, tolerated: Scalar
    ) -> Modes:
        """Those of a step over `way` that starts where the Jacobian is `J`.

        `kept` may serve again where they put the outputs off by less than is `tolerated`.
        """

    @abc.abstractmethod
    def step(
        self,
        J0: AbstractJacobian,
        J1: AbstractJacobian,
        start: Position,
        modes: Modes,
        ahead: Position,
        h: Scalar,
    ) -> AbstractStep:
        """The step whose linearised flow leads from `start` to `ahead` in time `h`."""


class DenseSplitting(AbstractSplitting):
    """All modes of `H_0`: N^3 work where it is decomposed, two products of N^3 where the last ones serve."""

    def first(self, problem: FlowProblem, start: Position) -> Modes:
        """From the decomposition that posed the problem."""
        return Modes.new(problem.eigenvalues, problem.eigenvectors, start.residual)

    @in_full_precision
    def modes(
        self, J: AbstractJacobian, r: Float[Array, "n *out"], kept: Modes, way: Scalar, tolerated: Scalar
    ) -> Modes:
        """Of `J J^T`."""
        H = gram(J, J)
        old = kept.of_kernel(H, r)
        serve = old.defect(old.time_to(way)) < tolerated

        def decomposed() -> Modes:
            eigenvalues, eigenvectors = jnp.linalg.eigh(H)
            return Modes.new(eigenvalues, eigenvectors, r)

        return lax.cond(serve, lambda: old, decomposed)

    def step(
        self,
        J0: AbstractJacobian,
        J1: AbstractJacobian,
        start: Position,
        modes: Modes,
        ahead: Position,
        h: Scalar,
    ) -> Step:
        """With the couplings of all modes."""
        return Step.between(J0, J1, start, modes, ahead, h)
