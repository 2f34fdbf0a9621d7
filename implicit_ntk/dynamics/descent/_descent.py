"""Gradient descent with any optimiser of optax, recorded at requested steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Integer, Key

from implicit_ntk._checks import AnyArray, check_batch, check_positive
from implicit_ntk.dynamics._problem import Data
from implicit_ntk.dynamics._record import Record, distances, outputs_at, share_wrong, void_after_failure
from implicit_ntk.dynamics._trajectory import Trajectory
from implicit_ntk.dynamics.descent._loss import AbstractLoss, SquareLoss, check_loss
from implicit_ntk.dynamics.descent._step import Batches, DescentProblem, DescentState, step
from implicit_ntk.equilibrium import (
    ConvergenceError,
    Method,
    Status,
    failure_index,
    failure_messages,
    has_tracer,
)
from implicit_ntk.jacobian import check_request, prepared
from implicit_ntk.networks import AbstractNetwork, with_leaves

if TYPE_CHECKING:
    import optax

RECORDS = 101
"""Evenly spread over the run, where none are asked for."""


def gradient_descent(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n *out"] | Integer[AnyArray, " n"],
    optimizer: "optax.GradientTransformation",
    steps: int = 1000,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
    loss: AbstractLoss = SquareLoss(),
    X_test: Float[AnyArray, "q d"] | None = None,
    y_test: Float[AnyArray, "q *out"] | Integer[AnyArray, " q"] | None = None,
    records: Sequence[int] | Int[AnyArray, " T"] | None = None,
    method: Method | None = None,
) -> Trajectory:
    """Train a network by `steps` updates of an optimiser of optax, with its schedule, from as it is.

    The optimiser sees the trained leaves as a dictionary by name, and as gradient `J^T dL/du`, of the loss
    summed over the samples: `optax.sgd(eta)` is `theta <- theta - eta J^T (u - y)` under the square loss.
    Such plain steps are stable below `2 / lambda_max`, see `largest_step`; of other optimisers no such bound
    is known, and a step that is too long is told by a loss that grows, or by a run that fails. The gradient
    of a minibatch is scaled by n / batch_size, so that it estimates that of the sum. Every sample's solves
    start from its last states. An optimiser that searches along a line (`optax.lbfgs()`) or watches the loss
    gets it; what it evaluates on the way is not counted.

    **Arguments:** `X` (n, d); `y` (n,) or (n, k), or the labels that the `loss` takes; `optimizer`, such as
    `optax.sgd(0.01)` (keep it: another object is another compilation); `batch_size`, None for all samples
    at once, otherwise minibatches of an order that is drawn every epoch from `key`, a remainder being left
    out; `X_test`, `y_test` to watch; `records`, increasing step numbers to record at, 0 the network as it
    is, None for about 100 evenly spread; the last step is recorded in any case.

    **Returns:** a `Trajectory` whose `times` are step numbers. Its metrics are those of `gradient_flow`
    but `integrator_error`; losses are those of `loss`. An evaluation is of a batch, be it small.

    **Raises:** `ValueError` or `TypeError` for bad input; `ConvergenceError` where a solve fails on the way,
    or the parameters cease to be finite (`on_failure="report"` returns the run up to there).
    """
    X, method, _ = check_request(net, X, method)
    _check_optimizer(optimizer)
    check_loss(loss)
    check_positive(steps, "steps")
    batches = _check_batches(batch_size, key, X.shape[0])
    numbers = _check_records(records, steps)
    targets = loss.targets(y, X.shape[0], net.out_shape, X.dtype)
    X_test, targets_test = _check_unseen(net, X_test, y_test, loss)
    test = None if X_test is None else Data.of(net, X_test, method)
    train = Data.of(net, X, method)
    method = prepared(net, X, method)
    problem = DescentProblem(net, train, targets, test, targets_test, loss, batches, method)
    return _reported(_run(problem, optimizer, jnp.asarray(numbers, jnp.int32)), method)


@eqx.filter_jit
def _run(
    problem: DescentProblem, optimizer: "optax.GradientTransformation", records: Int[Array, " T"]
) -> Trajectory:
    def body(carry: tuple, number: Int[Array, ""]) -> tuple[tuple, Record]:
        state, z_test = carry
        state = _advance(problem, optimizer, state, number)
        rec = _record(problem, state, z_test)
        return (state, rec.z_test), eqx.tree_at(lambda r: r.z_test, rec, None, is_leaf=lambda x: x is None)

    with problem.method.products():
        z_test = None
        if problem.test is not None:
            z_test = problem.net.initial_state(problem.test.injected(problem.net))
        start = DescentState.initial(problem, optimizer), z_test
        (state, _), recorded = lax.scan(body, start, records)
    return Trajectory(
        times=records.astype(problem.y.dtype),
        u=recorded.u,
        f=recorded.f,
        loss=recorded.loss,
        metrics=recorded.metrics,
        net=with_leaves(problem.net, state.leaves),
        steps=state.steps,
        forward_evaluations=state.forward_evaluations,
        adjoint_evaluations=state.adjoint_evaluations,
        status=jnp.max(recorded.status),
    )


def _advance(
    problem: DescentProblem,
    optimizer: "optax.GradientTransformation",
    state: DescentState,
    number: Int[Array, ""],
) -> DescentState:
    """All steps up to that number, or to the first that fails."""

    def short(state: DescentState) -> Array:
        return (state.steps < number) & (state.status <= Status.STALLED)

    return lax.while_loop(short, lambda state: step(problem, optimizer, state), state)


def _record(problem: DescentProblem, state: DescentState, z_test: Array | None) -> Record:
    """Solve where the run stands and measure; NaN after a failure."""
    net, value = with_leaves(problem.net, state.leaves), problem.loss.value
    u, eq = outputs_at(net, problem.train, state.z, problem.method)
    metrics = {
        "train_error": share_wrong(u, problem.y),
        "contraction": net.contraction(),
        "residual": jnp.max(eq.residual),
        "steps": state.steps,
        "forward_evaluations": state.forward_evaluations,
        "adjoint_evaluations": state.adjoint_evaluations,
    }
    metrics |= distances(problem.initial_leaves, state.leaves)
    status, f, loss = jnp.maximum(state.status, jnp.max(eq.status)), None, value(u, problem.y)
    status = jnp.where(jnp.isfinite(loss), status, jnp.maximum(status, Status.NONFINITE)).astype(jnp.int32)
    if problem.test is not None:
        f, eq_test = outputs_at(net, problem.test, z_test, problem.method)
        status, z_test = jnp.maximum(status, jnp.max(eq_test.status)), eq_test.z
        if problem.y_test is not None:
            metrics["test_loss"] = value(f, problem.y_test)
            metrics["test_error"] = share_wrong(f, problem.y_test)
    return void_after_failure(Record(u, f, loss, metrics, status, z_test))


def _reported(traj: Trajectory, method: Method) -> Trajectory:
    """Raise for a failed run under the policy `raise`; the two others have it in `status` and as NaN."""
    if method.on_failure != "raise":
        return traj
    messages = failure_messages("solve along the descent")
    if has_tracer(traj):
        failed = traj.status > Status.STALLED
        return eqx.branched_error_if(traj, failed, failure_index(traj.status), messages)
    if traj.status > Status.STALLED:
        sentence = messages[int(failure_index(traj.status))]
        raise ConvergenceError(
            f"after step {int(traj.steps)}: {sentence}; or take shorter steps (largest_step); "
            "on_failure='report' returns the run up to there"
        )
    return traj


def _check_optimizer(optimizer: object) -> None:
    # Imported late: whoever has made an optimiser has paid for the import, others need not.
    import optax

    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be one of optax such as optax.sgd(0.01), got {optimizer!r}")


def _check_batches(size: int | None, key: Key[Array, ""] | None, n: int) -> Batches | None:
    if size is None:
        if key is not None:
            raise ValueError("key is for the order of minibatches; pass batch_size with it, or no key")
        return None
    check_positive(size, "batch_size")
    if size > n:
        raise ValueError(f"batch_size={size} is more than the {n} samples; None takes all at once")
    if key is None:
        raise ValueError(
            "batch_size needs a key for the order of the minibatches; pass key=jax.random.key(0)"
        )
    return Batches(key, int(size))


def _check_records(records: Sequence[int] | AnyArray | None, steps: int) -> Int[np.ndarray, " T"]:
    if records is None:
        return np.unique(np.linspace(0, steps, RECORDS).round().astype(int))
    numbers = np.asarray(records)
    whole = numbers.ndim == 1 and numbers.size > 0 and np.issubdtype(numbers.dtype, np.integer)
    if not whole or numbers[0] < 0 or numbers[-1] > steps or not (np.diff(numbers) > 0).all():
        raise ValueError(f"records must be increasing whole step numbers from 0 to steps={steps}")
    return np.union1d(numbers, steps)


def _check_unseen(
    net: AbstractNetwork, X_test: AnyArray | None, y_test: AnyArray | None, loss: AbstractLoss
) -> tuple[Array | None, Array | None]:
    if X_test is None:
        if y_test is not None:
            raise ValueError("y_test needs X_test; pass both, or X_test alone")
        return None, None
    X_test = check_batch(X_test, net.in_size, jax.tree.leaves(net), "X_test")
    if y_test is None:
        return X_test, None
    return X_test, loss.targets(y_test, X_test.shape[0], net.out_shape, X_test.dtype, "y_test")
