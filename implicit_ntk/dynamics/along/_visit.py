"""A run visited at nodes of a quadrature: what is integrated along a run is driven from here."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk._checks import AnyArray
from implicit_ntk.dynamics._flow import posed_for
from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.dynamics.along._quadrature import FIRST, nodes_of, panels
from implicit_ntk.equilibrium import (
    ConvergenceError,
    ImplicitAdjoint,
    Method,
    Status,
    failure_index,
    failure_messages,
    has_tracer,
)
from implicit_ntk.jacobian import (
    AbstractJacobian,
    Linearization,
    from_linearization,
    implicit_adjoint,
    linearize,
    require_concrete,
)
from implicit_ntk.kernel import resolution_of
from implicit_ntk.networks import AbstractNetwork

LONGEST = 100
"""Towards `t = inf` nodes go no further than so many times of the slowest mode at t = 0."""

Scalar = Float[Array, ""]
Found = TypeVar("Found")


class Visit(eqx.Module):
    """A run at one time, all that is asked of it solved for; its residual and `f` are NaN after a failure.

    `integral` is the part that this time has in `int r ds`; in `int r^T K r ds` it is
    `share r^T K integral`.
    """

    train: Linearization
    residual: Float[Array, "n *out"]
    unseen: Linearization | None
    f: Float[Array, "q *out"] | None
    integral: Float[Array, "n *out"]
    share: Scalar
    status: Int[Array, ""]

    @property
    def J(self) -> AbstractJacobian:
        """The Jacobian on the training data."""
        return from_linearization(self.train)

    @property
    def J_unseen(self) -> AbstractJacobian | None:
        """The Jacobian on unseen data."""
        return None if self.unseen is None else from_linearization(self.unseen)

    @property
    def failed(self) -> Array:
        """Has a solve, or the integrator, failed by now?"""
        return self.status > Status.STALLED

    def known(self, found: Found) -> Found:
        """What was found by now, NaN after a failure."""
        return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), found) if self.failed else found


class Stop(NamedTuple):
    """A visit, and whether its time was asked for; the others are nodes."""

    visit: Visit
    requested: bool


class Run:
    """A run on its way: the one thing here that changes."""

    def __init__(self, problem: FlowProblem, integrator: AbstractIntegrator):
        self.problem = problem
        self.integrator = integrator
        self.state, self.visit = _begin(problem, integrator)
        self._time = 0.0

    def to(self, time: float, weight: float = 0.0) -> Visit:
        """Go on to a time and visit it; raises `ConvergenceError` for a failure under the policy `raise`."""
        dtype = self.problem.train.X.dtype
        at = jnp.asarray(time, dtype), jnp.asarray(weight, dtype)
        self.state, self.visit = _visit(self.problem, self.integrator, self.state, self.visit, *at)
        if self.problem.method.on_failure == "raise" and self.visit.failed:
            sentence = failure_messages("solve along the flow")[int(failure_index(self.visit.status))]
            raise ConvergenceError(
                f"after t={self._time:g}: {sentence}; on_failure='report' returns the run up to there"
            )
        self._time = time
        return self.visit

    def is_over(self, time: float) -> bool:
        """Has the residual all but vanished, or been given time enough to?"""
        rest, start = (
            float(jnp.linalg.norm(r)) for r in (self.visit.residual, self.problem.initial_residual)
        )
        small = float(jnp.finfo(self.problem.train.X.dtype).eps) ** 0.5
        return rest <= small * start or time * float(self.problem.eigenvalues[0]) > LONGEST


def posed_run(
    what: str,
    net: AbstractNetwork,
    X: AnyArray,
    y: AnyArray,
    times: AnyArray | Sequence[float],
    integrator: AbstractIntegrator,
    X_test: AnyArray | None,
    method: Method | None,
) -> tuple[Run, Float[np.ndarray, " T"]]:
    """A run at t = 0, and the times as they are; raises as `gradient_flow`, `TypeError` when traced."""
    require_concrete(what, has_tracer((net, X, y, X_test, integrator, method)))
    problem, times = posed_for(net, X, y, times, integrator, X_test, None, method)
    return Run(_in_both_modes(problem), integrator), times


def _in_both_modes(problem: FlowProblem) -> FlowProblem:
    """With solves that have a derivative in time: a dense output may be made of solves."""
    adjoint = ImplicitAdjoint(implicit_adjoint(problem.method).linear_solver)
    return dataclasses.replace(problem, method=dataclasses.replace(problem.method, adjoint=adjoint))


def journey(run: Run, times: Float[np.ndarray, " T"], density: int) -> Iterator[Stop]:
    """The nodes of the way to the last of `times`, in order, and a stop at each of the times.

    Towards `t = inf` nodes go on until the residual has all but vanished; what is left of the integrals is
    closed with the kernel there, `int r ds = H^{-1} r`. After a failure there are no more nodes.

    **Raises:** `ConvergenceError` where the run fails under the policy `raise`.
    """
    since = 0.0
    for time in map(float, times):
        yield from (Stop(visit, False) for visit in _nodes(run, since, time, density))
        yield Stop(run.to(time), True)
        since = time


def _nodes(run: Run, since: float, until: float, density: int) -> Iterator[Visit]:
    fastest, reached = float(run.problem.eigenvalues[-1]), since
    first = FIRST / fastest if fastest > 0 else math.inf
    for low, high in panels(since, until, first):
        if run.visit.failed or (math.isinf(until) and run.is_over(reached)):
            break
        for node in nodes_of(low, high, first, density):
            yield run.to(*node)
        reached = high
    if math.isinf(until) and not run.visit.failed:
        yield _closed(run.problem, run.to(reached))


@eqx.filter_jit
def _begin(problem: FlowProblem, integrator: AbstractIntegrator) -> tuple[PyTree, Visit]:
    """At t = 0, from the solves that posed the problem."""
    with problem.method.products():
        unseen = _linearized_unseen(problem, problem.initial_leaves, None)
        visit = _visited(problem, problem.initial_leaves, problem.start, unseen, jnp.int32(0))
        return integrator.init(problem), visit


@eqx.filter_jit
def _visit(
    problem: FlowProblem,
    integrator: AbstractIntegrator,
    state: PyTree,
    near: Visit,
    time: Scalar,
    weight: Scalar,
) -> tuple[PyTree, Visit]:
    """Advance, and solve at dense output to the method's own tolerance, from the last visit's states."""
    with problem.method.products():
        state = integrator.advance(problem, state, time)
        leaves, velocity = _leaves_and_velocity(problem, integrator, state, time)
        zero = jnp.zeros_like(time)
        states = problem.solve(leaves, near.train.equilibrium.z, near.train.adjoint.z, zero, zero)
        unseen = _linearized_unseen(problem, leaves, near.unseen)
        visit = _visited(problem, leaves, states, unseen, jnp.maximum(state.status, near.status))
        integral = weight * _without_noise(problem, visit, velocity, time)
        return state, eqx.tree_at(lambda v: v.integral, visit, integral)


def _leaves_and_velocity(
    problem: FlowProblem, integrator: AbstractIntegrator, state: PyTree, time: Scalar
) -> tuple[Leaves, Leaves]:
    """Dense output and its derivative."""
    one = jnp.ones_like(time)
    return jax.jvp(lambda t: integrator.leaves_at(problem, state, t), (time,), (one,))


def _without_noise(
    problem: FlowProblem, visit: Visit, velocity: Leaves, time: Scalar
) -> Float[Array, "n *out"]:
    """The residual, of modes faster than `1/t` as the velocity of the run says it.

    Along the flow `du/dt = J theta' = -H r`, and any c with `(H + 1/t) c = r/t - J theta'` is r. An error
    of r in a fast mode, which a long step keeps and which the flow would have forgotten, has there
    the weight `1/(lam t)`; in the integral over t it would otherwise count `lam t` times.
    """
    least = resolution_of(problem.eigenvalues)
    rate = jnp.maximum(1 / time, jnp.where(least > 0, least, 1))
    with jax.default_matmul_precision("highest"):
        known = rate * visit.residual - visit.J.push(velocity)
        return _solved(visit, rate, known)


@eqx.filter_jit
def _closed(problem: FlowProblem, visit: Visit) -> Visit:
    """The visit with what is left of the integrals from there on, the kernel frozen.

    `int r ds = H^{-1} r`, and `int r^T K r ds = r^T K H^{-1} r / 2`, which is right for `K = H`.
    """
    integral = _solved(visit, resolution_of(problem.eigenvalues), visit.residual)
    return eqx.tree_at(lambda v: (v.integral, v.share), visit, (integral, visit.share / 2))


def _solved(visit: Visit, shift: Scalar, rhs: Float[Array, "n *out"]) -> Float[Array, "n *out"]:
    """`(H + shift)^{-1} rhs`."""
    with jax.default_matmul_precision("highest"):
        H = visit.J.gram().reshape(rhs.size, rhs.size)
        shifted = H + shift * jnp.eye(rhs.size, dtype=rhs.dtype)
        return jax.scipy.linalg.solve(shifted, jnp.ravel(rhs), assume_a="pos").reshape(rhs.shape)


def _linearized_unseen(
    problem: FlowProblem, leaves: Leaves, near: Linearization | None
) -> Linearization | None:
    if problem.test is None:
        return None
    test, net = problem.test, problem.network(leaves)
    guess = (None, None) if near is None else (near.equilibrium.z, near.adjoint.z)
    return linearize(net, test.X, problem.method, "report", *guess, test.phi)


def _visited(
    problem: FlowProblem, leaves: Leaves, states: States, unseen: Linearization | None, status: Array
) -> Visit:
    residual, f = problem.residual(leaves, states), None
    status = jnp.maximum(status, states.status)
    if unseen is not None and problem.test is not None:
        status = jnp.maximum(status, States(unseen.equilibrium, unseen.adjoint).status)
        f = _void(unseen.outputs - problem.test.baseline, status)
    residual = _void(residual, status)
    nothing, whole = jnp.zeros_like(residual), jnp.ones((), residual.dtype)
    return Visit(problem.at(leaves, states), residual, unseen, f, nothing, whole, status.astype(jnp.int32))


def _void(x: Array, status: Array) -> Array:
    """The array, NaN after a failure."""
    return jnp.where(status > Status.STALLED, jnp.nan, x)
