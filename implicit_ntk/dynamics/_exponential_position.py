"""What a step of the exponential integrator knows of a point of its way: all that is solved for there."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk.dynamics._problem import Data, FlowProblem, Leaves, States
from implicit_ntk.networks import solve_injected

PROBES = 64
"""Midpoints of training samples that stand in where no unseen data are given."""


class Position(eqx.Module):
    """A point of the way: leaves, states, residual `u - y`, and the outputs `f` on unseen inputs."""

    leaves: Leaves
    states: States
    residual: Float[Array, "n *out"]
    z_unseen: PyTree[Array]
    f: Float[Array, "q *out"]
    status: Int[Array, ""]
    """The worst of all its solves."""


def position(problem: FlowProblem, leaves: Leaves, near: States, z_unseen: PyTree[Array] | None) -> Position:
    """Solve for all that a step asks of a point, from states nearby."""
    zero = jnp.zeros((), problem.train.X.dtype)
    states = problem.solve(leaves, near.equilibrium.z, near.adjoint.z, zero, zero)
    net, unseen = problem.network(leaves), problem.test or midpoints(problem.train)
    phi = unseen.injected(net)
    eq = solve_injected(net, phi, z_unseen, problem.method, "report")
    status = jnp.maximum(states.status, jnp.max(eq.status))
    return Position(leaves, states, problem.residual(leaves, states), eq.z, net.readout(eq.z, phi), status)


def midpoints(train: Data) -> Data:
    """Of samples and their successors, brought to the samples' length."""
    X = train.X[:PROBES]
    middle = X + jnp.roll(X, 1, axis=0)
    lengths = jnp.linalg.norm(middle, axis=1, keepdims=True)
    scale = jnp.linalg.norm(X, axis=1, keepdims=True) / jnp.where(lengths > 0, lengths, 1)
    return Data(scale * middle, 0.0, None)
