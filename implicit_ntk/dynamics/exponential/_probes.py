"""Unseen inputs on which the exponential integrator watches its error.

Errors made while learning stay where the training outputs do not see them, and are errors of `f_inf`.
What a correction of the parameters changes there is `J' (theta_2 - theta_1)`, to first order:
for an estimate the states of a few probes will do that are solved for roughly.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_ntk.dynamics._problem import Data, FlowProblem, Leaves, States
from implicit_ntk.dynamics.exponential._position import Scalar
from implicit_ntk.equilibrium import norms
from implicit_ntk.jacobian import from_linearization

PROBES = 64
"""Rows of the unseen data that are watched, or midpoints of training samples where there are none."""

ROUGHLY = 0.03
"""To this share of their size are the probes' states solved for: the estimate is off by as much."""


def watched(problem: FlowProblem) -> FlowProblem:
    """The problem with the probes for its training data."""
    return eqx.tree_at(lambda p: p.train, problem, _probes(problem))


def states_of(problem: FlowProblem, leaves: Leaves, near: States | None) -> States:
    """The probes' states, roughly, from others nearby; without them, in full."""
    probes, zero = watched(problem), jnp.zeros((), problem.train.X.dtype)
    if near is None:
        return probes.solve(leaves, None, None, zero, zero)
    z, p = near.equilibrium.z, near.adjoint.z
    return probes.solve(leaves, z, p, _roughly(z, 1), _roughly(p, problem.y.ndim))


def change(problem: FlowProblem, leaves: Leaves, states: States, moved: Leaves) -> Float[Array, "q *out"]:
    """`J' v`, what moved parameters change of the probes' outputs."""
    return from_linearization(watched(problem).at(leaves, states)).push(moved)


def _roughly(x: Array, batch_ndim: int) -> Scalar:
    return ROUGHLY * jnp.sqrt(jnp.mean(norms(x, batch_ndim) ** 2))


def _probes(problem: FlowProblem) -> Data:
    if problem.test is None:
        return _midpoints(problem.train)
    data = problem.test
    if data.X.shape[0] <= PROBES:
        return data
    return Data(_few(data.X), 0.0, None)


def _few(X: Float[Array, "n d"]) -> Float[Array, "q d"]:
    """Not the first rows, nor in order: data may be sorted by class. Always the same ones."""
    if X.shape[0] <= PROBES:
        return X
    return X[np.random.default_rng(0).choice(X.shape[0], PROBES, replace=False)]


def _midpoints(train: Data) -> Data:
    """Of samples and their successors, brought to the samples' length."""
    X = _few(train.X)
    middle = X + jnp.roll(X, 1, axis=0)
    lengths = jnp.linalg.norm(middle, axis=1, keepdims=True)
    scale = jnp.linalg.norm(X, axis=1, keepdims=True) / jnp.where(lengths > 0, lengths, 1)
    return Data(scale * middle, 0.0, None)
