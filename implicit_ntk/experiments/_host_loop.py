"""Gradient flow driven from the host: where progress is told, Ctrl-C is heard and checkpoints are written.

Between two records the flow pauses where it would otherwise be out of reach for long. Integrators never
shorten a step for a target, so that pauses change no bit of the run, nor does going on from a checkpoint.
"""

import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_ntk.dynamics import (
    AbstractIntegrator,
    FlowProblem,
    FlowState,
    Record,
    assemble,
    measure,
    move,
    reported,
    start,
)
from implicit_ntk.equilibrium import Status
from implicit_ntk.experiments._keeping import Keeper

REACH = 4.0
"""Seconds between two pauses that are aimed at."""

MOST_PAUSES = 64
"""Between two records."""

Tell = Callable[[float], None]
"""Called at every pause with the time that is reached."""


class Way(eqx.Module):
    """How far a run has come: all of a checkpoint. The first `done` rows of the records are filled."""

    state: FlowState
    records: Record
    done: int


def records_along(
    problem: FlowProblem,
    integrator: AbstractIntegrator,
    times: Float[np.ndarray, " T"],
    keeper: Keeper,
    tell: Tell = lambda time: None,
) -> Record:
    """The records at `times`, stacked; from the keeper's checkpoint on, where there is one.

    A `KeyboardInterrupt` leaves a checkpoint of the last pause. Raises as `gradient_flow` where a solve
    fails on the way; a run that does not get to `t = inf` alone has NaN there.
    """
    problem = integrator.check(problem)
    moments = jnp.asarray(times, problem.y.dtype)
    way = _begun(problem, integrator, moments, keeper)
    pauses = 1
    try:
        for index in range(way.done, times.size):
            began = time.perf_counter()
            for target in _targets(times[max(index - 1, 0)], times[index], pauses):
                way = _moved(problem, integrator, way, target)
                keeper.offer(way)
                tell(min(target, times[-1]))
            way = _measured(problem, integrator, way, moments[index])
            pauses = int(np.clip(pauses * (time.perf_counter() - began) / REACH, 1, MOST_PAUSES))
    except KeyboardInterrupt:
        keeper.keep(way)
        raise
    _raise_for_failure(problem, integrator, moments, way)
    return way.records


def _begun(
    problem: FlowProblem, integrator: AbstractIntegrator, moments: Float[Array, " T"], keeper: Keeper
) -> Way:
    state = start(problem, integrator)
    _, form = eqx.filter_eval_shape(measure, problem, integrator, state, moments[0])
    records = jax.tree.map(lambda x: np.zeros((moments.size, *x.shape), x.dtype), _without_start(form))
    way = Way(state, records, 0)
    return keeper.load(way) if keeper.found() else way


def _targets(before: float, until: float, pauses: int) -> Float[np.ndarray, " K"]:
    """Times on the way between two records, and the second of them: doubling where that is infinite."""
    if np.isinf(until):
        return np.append(before * 2.0 ** np.arange(1, pauses), until)
    return np.linspace(before, until, pauses + 1)[1:]


def _moved(problem: FlowProblem, integrator: AbstractIntegrator, way: Way, target: float) -> Way:
    state = move(problem, integrator, way.state, jnp.asarray(target, problem.y.dtype))
    return Way(jax.block_until_ready(state), way.records, way.done)


def _measured(
    problem: FlowProblem, integrator: AbstractIntegrator, way: Way, moment: Float[Array, ""]
) -> Way:
    """A row more. It is written in place: nobody reads it before `done` counts it."""
    state, rec = measure(problem, integrator, way.state, moment)
    for rows, value in zip(jax.tree.leaves(way.records), jax.tree.leaves(_without_start(rec)), strict=True):
        rows[way.done] = value
    return Way(state, way.records, way.done + 1)


def _without_start(rec: Record) -> Record:
    """Without the equilibria from which the next record is solved, which the state holds."""
    return eqx.tree_at(lambda r: r.z_test, rec, None, is_leaf=lambda x: x is None)


def _raise_for_failure(
    problem: FlowProblem, integrator: AbstractIntegrator, moments: Float[Array, " T"], way: Way
) -> None:
    finite = np.isfinite(np.asarray(moments))
    if (way.records.status[finite] > Status.STALLED).any():
        records = jax.tree.map(jnp.asarray, way.records)
        reported(assemble(problem, integrator, moments, way.state, records), problem.method)
