"""The points of the exponential integrator's way, and how closely their states are solved for.

A Jacobian that is off by a share of what it drifts over a step puts the step off by that share of its
estimated error. So solves leave a share of the states' motion unsolved, and the tolerance of all
of them follows the step's own: it shrinks with the way, and with the residual at the end. The
outputs are corrected to first order for it (`FlowProblem.residual`). What is left adds up over the
steps, of which there are about `rtol^{-1/2}`: the share shrinks in proportion.
"""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.equilibrium import norms

LARGEST_SHARE = 0.05
"""Of the states' motion over a step, which its solves may leave unsolved."""

Scalar = Float[Array, ""]


class Waypoint(eqx.Module):
    """Leaves and equilibria: enough to continue a motion."""

    leaves: Leaves
    z: PyTree[Array]


class Position(eqx.Module):
    """A point of the way: leaves, the states there, the residual `u - y`."""

    leaves: Leaves
    states: States
    residual: Float[Array, "n *out"]

    @property
    def status(self) -> Int[Array, ""]:
        """The worst of its solves."""
        return self.states.status

    @property
    def waypoint(self) -> Waypoint:
        """Without the adjoint states."""
        return Waypoint(self.leaves, self.states.equilibrium.z)


class Pace(eqx.Module):
    """How far the states move by distance in the parameters: root mean squares over the problems."""

    z: Scalar
    p: Scalar

    @classmethod
    def expected(cls, start: Position) -> "Pace":
        """Before anything has moved: states move by no smaller a share of their size than parameters do."""
        size = jnp.sqrt(inner(start.leaves, start.leaves))
        size = jnp.where(size > 0, size, 1)
        z, p = start.states.equilibrium.z, start.states.adjoint.z
        return cls(_mean_size(z, 1) / size, _mean_size(p, start.residual.ndim) / size)

    @classmethod
    def between(cls, start: Position, end: Position, way: Scalar) -> "Pace":
        """As seen over a step."""
        way = jnp.where(way > 0, way, 1)
        outputs = start.residual.ndim
        z = _mean_size(difference(end.states.equilibrium.z, start.states.equilibrium.z), 1)
        p = _mean_size(difference(end.states.adjoint.z, start.states.adjoint.z), outputs)
        return cls(z / way, p / way)


def unsolved_share(rtol: Scalar) -> Scalar:
    """Of the motion over a step, for runs of this tolerance."""
    return jnp.minimum(jnp.sqrt(rtol), LARGEST_SHARE)


def position(
    problem: FlowProblem, leaves: Leaves, z: PyTree[Array], p: PyTree[Array], pace: Pace, slack: Scalar
) -> Position:
    """Solve at `leaves`, from guesses, up to what moves over a distance of `slack` in the parameters."""
    states = problem.solve(leaves, z, p, slack * pace.z, slack * pace.p)
    return Position(leaves, states, problem.residual(leaves, states))


def continued(start: Waypoint, known: Waypoint, leaves: Leaves) -> PyTree[Array]:
    """The equilibria on the line through both, where its parameters are nearest to `leaves`.

    Adjoint states are not continued: those of relu cells jump.
    """
    direction = difference(known.leaves, start.leaves)
    length = inner(direction, direction)
    share = inner(difference(leaves, start.leaves), direction) / jnp.where(length > 0, length, 1)
    return jax.tree.map(lambda a, b: a + share * (b - a), start.z, known.z)


def inner(left: Leaves, right: Leaves) -> Scalar:
    """`<left, right>`, over all leaves."""
    return jax.tree.reduce(operator.add, jax.tree.map(lambda a, b: jnp.sum(a * b), left, right))


def difference(left: PyTree[Array], right: PyTree[Array]) -> PyTree[Array]:
    """Leaf by leaf."""
    return jax.tree.map(operator.sub, left, right)


def _mean_size(motion: PyTree[Array], batch_ndim: int) -> Scalar:
    return jnp.sqrt(jnp.mean(norms(motion, batch_ndim) ** 2))
