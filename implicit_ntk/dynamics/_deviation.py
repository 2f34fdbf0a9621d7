"""How a run comes to stray from its linearised twin: the network bends, and its kernel drifts.

With `v = theta - theta_0` the way that the parameters went, on the data and anywhere else,

    u - uhat = [u - (u_0 + J_0 v)] + [u_0 + J_0 v - uhat].

The first is the curvature of the network: what the outputs do beyond their tangent. The second is the
drift of the kernel: the way `v` was taken downhill at Jacobians that had changed, for residuals that had.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray
from implicit_ntk.dynamics._flow import FlowState, assemble, posed_for, reported, segment, start
from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics._linearized import LinearizedFlow, linearized_flow
from implicit_ntk.dynamics._problem import Data, FlowProblem, Leaves
from implicit_ntk.dynamics._trajectory import Trajectory
from implicit_ntk.equilibrium import Method
from implicit_ntk.jacobian import AbstractJacobian, jacobian
from implicit_ntk.networks import AbstractNetwork


class Split(eqx.Module):
    """`u - uhat` on some data, a row a time: `curvature`, `drift`, and their sum, the `total`."""

    curvature: Float[Array, "T n *out"]
    drift: Float[Array, "T n *out"]

    @property
    def total(self) -> Float[Array, "T n *out"]:
        """`u - uhat`."""
        return self.curvature + self.drift


class Deviation(eqx.Module):
    """What `deviation` found: the splits on the training data and on unseen data, the run and its twin."""

    train: Split
    test: Split | None
    trajectory: Trajectory
    twin: LinearizedFlow

    @property
    def times(self) -> Float[Array, " T"]:
        """The requested times."""
        return self.trajectory.times


def deviation(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n *out"],
    times: Float[AnyArray, " T"] | Sequence[float],
    integrator: AbstractIntegrator,
    X_test: Float[AnyArray, "q d"] | None = None,
    method: Method | None = None,
) -> Deviation:
    """Split `u(t) - uhat(t)` into the curvature of the network and the drift of its kernel, along a run.

    `curvature = u - (u_0 + J_0 v)` and `drift = u_0 + J_0 v - uhat`, `v = theta(t) - theta_0`; both vanish
    for a network that is linear in what it trains, and in the limit of infinite width.

    **Arguments:** as `gradient_flow`.

    **Returns:** a `Deviation`: `train.curvature`, `train.drift`, `train.total` (T, n, *out), the same of
    `test` (T, q, *out) where there are unseen data; the `trajectory` and the `twin`.

    **Raises:** as `gradient_flow` and `ntk`.
    """
    problem, requested = posed_for(net, X, y, times, integrator, X_test, None, method)
    times = jnp.asarray(requested, problem.y.dtype)
    centre = Centre.of(net, problem.train, method)
    twin = linearized_flow(centre.J.gram(), centre.outputs, problem.y)
    centres, expected = [centre], [twin(times)]
    if problem.test is not None:
        unseen = Centre.of(net, problem.test, method)
        centres.append(unseen)
        expected.append(twin.at(times, unseen.J.gram(centre.J), unseen.outputs))
    traj, tangents = _run(problem, integrator, times, tuple(centres))
    traj = reported(traj, problem.method)
    train = Split(traj.u - tangents[0], tangents[0] - expected[0])
    test = None if traj.f is None else Split(traj.f - tangents[1], tangents[1] - expected[1])
    return Deviation(train, test, traj, twin)


class Centre(eqx.Module):
    """A network's outputs and its Jacobian on some data, where the run starts."""

    J: AbstractJacobian
    outputs: Float[Array, "n *out"]

    @classmethod
    def of(cls, net: AbstractNetwork, data: Data, method: Method | None) -> "Centre":
        """Solved for; raises as `jacobian`."""
        J = jacobian(net, data.X, method=method)
        return cls(J, J.linearization.outputs - data.baseline)

    def tangent(self, way: Leaves) -> Float[Array, "n *out"]:
        """`u_0 + J_0 v`."""
        return self.outputs + self.J.push(way)


@eqx.filter_jit
def _run(
    problem: FlowProblem,
    integrator: AbstractIntegrator,
    times: Float[Array, " T"],
    centres: tuple[Centre, ...],
) -> tuple[Trajectory, tuple[Array, ...]]:
    """The run, and the tangents along it."""

    def body(state: FlowState, time: Float[Array, ""]) -> tuple[FlowState, tuple]:
        state, rec = segment(problem, integrator, state, time)
        leaves = integrator.leaves_at(problem, state.integrator, time)
        way = {name: leaves[name] - start for name, start in problem.initial_leaves.items()}
        rec = eqx.tree_at(lambda r: r.z_test, rec, None, is_leaf=lambda x: x is None)
        return state, (rec, tuple(centre.tangent(way) for centre in centres))

    with problem.method.products():
        state, (records, tangents) = lax.scan(body, start(problem, integrator), times)
        return assemble(problem, integrator, times, state, records), tangents
