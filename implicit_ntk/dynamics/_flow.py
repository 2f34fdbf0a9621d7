"""Gradient flow of a network, recorded at requested times."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray, check_batch, check_targets, check_times
from implicit_ntk._hosts import held_rows
from implicit_ntk._tracing import is_traced
from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics._krylov_basis import require_bases
from implicit_ntk.dynamics._problem import Data, FlowProblem
from implicit_ntk.dynamics._record import Record, record
from implicit_ntk.dynamics._trajectory import Trajectory
from implicit_ntk.equilibrium import (
    ADJOINT,
    FORWARD,
    ConvergenceError,
    Equilibrium,
    Method,
    Policy,
    Status,
    checked,
    failure_index,
    failure_messages,
    has_tracer,
)
from implicit_ntk.jacobian import check_request, require_gram
from implicit_ntk.kernel import require_decomposition, resolution_of
from implicit_ntk.networks import AbstractNetwork


class FlowState(eqx.Module):
    """Where a run stands between two requested times: all that is needed to go on."""

    integrator: PyTree
    z_test: PyTree[Array] | None


def gradient_flow(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n *out"],
    times: Float[AnyArray, " T"] | Sequence[float],
    integrator: AbstractIntegrator,
    X_test: Float[AnyArray, "q d"] | None = None,
    y_test: Float[AnyArray, "q *out"] | None = None,
    method: Method | None = None,
) -> Trajectory:
    """Integrate `dtheta/dt = -J^T (u - y)` from the network as it is, to the last of `times`.

    The predictions obey `du/dt = -H(t)(u - y)` (GG22, Lemma 4.1). Steps are the integrator's own;
    what is recorded at the requested times is solved for there, to the method's tolerance.

    **Arguments:** `X` (n, d), `y` (n,) or (n, k) targets; `times` (T,), increasing, from 0 on, the last
    perhaps `inf` with `Exponential()`; `integrator`, `Exponential(rtol)`, `Euler(dt)` or another, for many
    samples `KrylovExponential(rtol)`; `X_test` (q, d) and `y_test` (q,) or (q, k) to watch; `method`, None
    for the network's default.

    **Returns:** a `Trajectory`. Its metrics: `train_error`, `test_error` (share of wrong signs, a zero
    half wrong; of k > 1 outputs the share of rows whose largest output is not that of the targets, the
    first of equal ones counting as the largest), `test_loss` (`||f - y_test||^2 / 2`), `contraction`
    (`gamma ||A(t)||`), `distance_A` and so on (`||A(t) - A(0)||_F`), `residual` (the largest of the
    recorded solve), `integrator_error` (the integrator's estimate of `||u_numerical - u||`: of
    `Euler` that of the same steps on the linearised dynamics, of `Exponential` the sum over its steps of the
    estimates of first order, where unseen data count if theirs is larger: several times that of order 2),
    and the running counts `steps`, `forward_evaluations`, `adjoint_evaluations`.

    **Raises:** `ValueError` or `TypeError` for bad input, for a step that is unstable, and for `inf` where
    `lambda_min` is not resolved; `ConvergenceError` where a solve fails on the way, or the integrator
    cannot go on, with the time it got to (`on_failure="report"` returns the run up to there); `MemoryError`
    where `H(0)` and its eigenvectors, or Krylov spaces, are past the limit.
    """
    problem, times = posed_for(net, X, y, times, integrator, X_test, y_test, method)
    traj = _run(problem, integrator, jnp.asarray(times, problem.train.X.dtype))
    return reported(traj, problem.method)


def posed_for(
    net: AbstractNetwork,
    X: AnyArray,
    y: AnyArray,
    times: AnyArray | Sequence[float],
    integrator: AbstractIntegrator,
    X_test: AnyArray | None,
    y_test: AnyArray | None,
    method: Method | None,
) -> tuple[FlowProblem, Float[np.ndarray, " T"]]:
    """The problem and the times of a run that this integrator can make; raises as `gradient_flow`."""
    if not isinstance(integrator, AbstractIntegrator):
        raise TypeError(f"integrator must be an integrator such as Euler(dt=0.01), got {integrator!r}")
    times = check_times(times, endless=integrator.reaches_infinity)
    problem = integrator.check(pose(net, X, y, X_test, y_test, method, integrator.krylov_size))
    return _check_limit(problem) if np.isinf(times[-1]) else problem, times


def _check_limit(problem: FlowProblem) -> FlowProblem:
    """Raise `ValueError` where it is not known whether the slowest mode is ever learnt."""
    if not problem.whole and problem.eigenvalues.size < problem.y.size:
        raise ValueError(
            f"times ends in inf, but of {problem.y.size} eigenvalues {problem.eigenvalues.size} are known, "
            "lambda_min not among them: ask for a finite time, or take Exponential(), which decomposes H"
        )
    unknown = problem.eigenvalues[0] <= resolution_of(problem.eigenvalues)
    message = (
        "times ends in inf, but lambda_min is not resolved: compute in float64, or ask for a finite time"
    )
    if is_traced(unknown):
        return eqx.error_if(problem, unknown, message)
    if unknown:
        raise ValueError(message)
    return problem


def pose(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n *out"],
    X_test: Float[AnyArray, "q d"] | None = None,
    y_test: Float[AnyArray, "q *out"] | None = None,
    method: Method | None = None,
    krylov_size: int | None = None,
) -> FlowProblem:
    """The problem that `gradient_flow` solves, for those who drive it from a loop of their own.

    `krylov_size` is the integrator's: None to form and decompose `H(0)`, else how many products with it
    are made instead.

    `problem = integrator.check(problem)`, `state = start(problem, integrator)`, then `state, rec =
    segment(problem, integrator, state, time)` for each time, and of the records, stacked, `assemble` and
    `reported` make what `gradient_flow` returns. Raises as it does.
    """
    return _posed(net, X, y, X_test, y_test, method, krylov_size)


@eqx.filter_jit
def start(problem: FlowProblem, integrator: AbstractIntegrator) -> FlowState:
    """The state at t = 0."""
    with problem.method.products():
        z_test = None
        if problem.test is not None:
            z_test = problem.net.initial_state(problem.test.injected(problem.net))
        return FlowState(integrator.init(problem), z_test)


@eqx.filter_jit
def segment(
    problem: FlowProblem, integrator: AbstractIntegrator, state: FlowState, time: Float[Array, ""]
) -> tuple[FlowState, Record]:
    """Go on to `time` and measure there."""
    return measure(problem, integrator, move(problem, integrator, state, time), time)


@eqx.filter_jit
def move(
    problem: FlowProblem, integrator: AbstractIntegrator, state: FlowState, time: Float[Array, ""]
) -> FlowState:
    """Go on to `time`; to stop on the way there, between records, changes no step."""
    with problem.method.products():
        return FlowState(integrator.advance(problem, state.integrator, time), state.z_test)


@eqx.filter_jit
def measure(
    problem: FlowProblem, integrator: AbstractIntegrator, state: FlowState, time: Float[Array, ""]
) -> tuple[FlowState, Record]:
    """What is recorded at the `time` to which the state has moved."""
    with problem.method.products():
        rec = record(problem, integrator, state.integrator, time, state.z_test)
        return FlowState(state.integrator, rec.z_test), rec


@eqx.filter_jit
def assemble(
    problem: FlowProblem,
    integrator: AbstractIntegrator,
    times: Float[Array, " T"],
    state: FlowState,
    records: Record,
) -> Trajectory:
    """A trajectory from the last state and the records, stacked along time."""
    last = state.integrator
    with problem.method.products():
        net = problem.network(integrator.leaves_at(problem, last, times[-1]))
    return Trajectory(
        times=times,
        u=records.u,
        f=records.f,
        loss=records.loss,
        metrics=records.metrics,
        net=net,
        steps=last.steps,
        forward_evaluations=last.forward_evaluations,
        adjoint_evaluations=last.adjoint_evaluations,
        status=jnp.max(records.status),
    )


@eqx.filter_jit
def _run(problem: FlowProblem, integrator: AbstractIntegrator, times: Float[Array, " T"]) -> Trajectory:
    def body(state: FlowState, time: Float[Array, ""]) -> tuple[FlowState, Record]:
        state, rec = segment(problem, integrator, state, time)
        return state, eqx.tree_at(lambda r: r.z_test, rec, None, is_leaf=lambda x: x is None)

    with problem.method.products():
        state, records = lax.scan(body, start(problem, integrator), times)
        return assemble(problem, integrator, times, state, records)


def _posed(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n *out"],
    X_test: Float[AnyArray, "q d"] | None,
    y_test: Float[AnyArray, "q *out"] | None,
    method: Method | None,
    krylov_size: int | None,
) -> FlowProblem:
    X, method, _ = check_request(net, X, method)
    out = net.out_shape
    if krylov_size is None:
        require_decomposition(X.shape[0] * math.prod(out), X.dtype)
        require_gram(len(net.trained) * math.prod(out) ** 2, held_rows(X), X.shape[0], X.dtype)
    else:
        require_bases(krylov_size, X.shape[0] * math.prod(out), X.dtype)
    y = check_targets(y, (X.shape[0], *out)).astype(X.dtype)
    if X_test is None and y_test is not None:
        raise ValueError("y_test needs X_test; pass both, or X_test alone")
    if X_test is not None:
        X_test = check_batch(X_test, net.in_size, jax.tree.leaves(net), "X_test")
    targets = None
    if X_test is not None and y_test is not None:
        targets = check_targets(y_test, (X_test.shape[0], *out), "y_test").astype(X.dtype)
    train = Data.of(net, X, method)
    test = None if X_test is None else Data.of(net, X_test, method)

    def run(policy: Policy) -> FlowProblem:
        return _pose(net, train, y, test, targets, method, policy, krylov_size)

    def solves(problem: FlowProblem) -> dict[str, Equilibrium]:
        return {FORWARD: problem.start.equilibrium, ADJOINT: problem.start.adjoint}

    return checked(run, solves, method.on_failure, (net, train, y, test, targets))


@eqx.filter_jit
def _pose(
    net: AbstractNetwork,
    train: Data,
    y: Array,
    test: Data | None,
    y_test: Array | None,
    method: Method,
    policy: Policy,
    krylov_size: int | None,
) -> FlowProblem:
    with method.products():
        return FlowProblem.pose(net, train, y, test, y_test, method, policy, krylov_size)


def reported(traj: Trajectory, method: Method) -> Trajectory:
    """Raise for a failed run under the policy `raise`; the two others have it in `status` and as NaN."""
    if method.on_failure != "raise":
        return traj
    if has_tracer(traj):
        messages = failure_messages("solve along the flow")
        failed = traj.status > Status.STALLED
        return eqx.branched_error_if(traj, failed, failure_index(traj.status), messages)
    if traj.status > Status.STALLED:
        first = int(np.argmax(~np.isfinite(np.asarray(traj.loss))))
        until = _reached(traj.times, first)
        sentence = failure_messages("solve along the flow")[int(failure_index(traj.status))]
        raise ConvergenceError(f"{until}: {sentence}; on_failure='report' returns the run up to there")
    return traj


def _reached(times: Float[Array, " T"], first: int) -> str:
    """How far a run got whose first record that failed is known."""
    if first:
        return f"after t={float(times[first - 1]):g}"
    return f"before t={float(times[0]):g}" if times[0] > 0 else "at the start"
