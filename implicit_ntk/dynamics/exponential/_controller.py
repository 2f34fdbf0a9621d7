"""The steps of exponential integrators: tried, judged, taken, written down.

A try of a step makes, in products of (n, m) with (m, m), the work of

- a product with `J_0^T`, to the end of the linearised flow,
- the solves there, equilibria and adjoint states, from the motion so far continued,
- the same for the probes, which are few,
- the Gram `J_0 J_1^T` (2 n/m products), and one product each with `J_0^T` and `J_1^T`, to the end,
- the solves there, from those before;

a step, besides, one Gram, and a decomposition where the last modes will not do. Each solve makes two or
three evaluations of the cell: what it leaves undone is in proportion to the states' motion
(`exponential/_position.py`).
"""

import abc
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from implicit_ntk.dynamics._integrator import AbstractIntegrator, require_resolved
from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.dynamics.exponential import _limits as limits, _probes as probes
from implicit_ntk.dynamics.exponential._modes import Modes, Scalar
from implicit_ntk.dynamics.exponential._position import (
    Pace,
    Position,
    Waypoint,
    continued,
    difference,
    position,
    unsolved_share,
)
from implicit_ntk.dynamics.exponential._splitting import AbstractSplitting
from implicit_ntk.dynamics.exponential._state import (
    Books,
    ExponentialState,
    Trial,
    Work,
    rms,
    zeros,
)
from implicit_ntk.dynamics.exponential._step import AbstractStep, jacobian_of, linear_leaves
from implicit_ntk.equilibrium import Status
from implicit_ntk.jacobian import AbstractJacobian

FIRST_WAY, FIRST_TIME = 0.1, 10.0
"""Of the first step tried: a share of the way to the end, and a time in units of `1/lambda_max`, at most."""

SAFETY = 0.8
"""Of the way at which the tolerance would just be met."""

MAX_TRIES = 30
"""Of one step."""

UPHILL = 4.0
"""The excess of a step in which the loss grows."""

OUTWORN = 0.25
"""Modes are made anew where more of the tolerance than this goes on account of their age."""

T = TypeVar("T")


class AbstractExponential(AbstractIntegrator):
    """Adaptive steps that are exact for the flow linearised at their start."""

    rtol: eqx.AbstractVar[float | int | Scalar]
    order: eqx.AbstractVar[int]
    max_steps: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def splitting(self) -> AbstractSplitting:
        """Where the modes of the steps come from."""

    def check(self, problem: FlowProblem) -> FlowProblem:
        """Raise `ValueError` where `rtol` is less than the solves resolve. Every step is stable."""
        return require_resolved(problem, self.rtol, limits.least_rtol(problem))

    def init(self, problem: FlowProblem) -> ExponentialState:
        """The state at t = 0, a step of length zero behind it."""
        zero, count = jnp.zeros((), problem.train.X.dtype), jnp.zeros((), jnp.int32)
        leaves, states = problem.initial_leaves, problem.start
        end = Position(leaves, states, problem.initial_residual)
        modes = self.splitting.first(problem, end)
        J = jacobian_of(problem, leaves, states)
        form = eqx.filter_eval_shape(self.splitting.step, J, J, end, modes, end, zero)
        step = eqx.tree_at(
            lambda s: (s.leaves, s.states, s.modes, s.ahead, s.ahead_states),
            zeros(form),
            (leaves, states, modes, leaves, states),
        )
        forward, adjoint = jnp.max(states.equilibrium.steps), jnp.max(states.adjoint.steps)
        watched = probes.states_of(problem, leaves, None)
        books = Books(zero, count, count, count, forward, adjoint, jnp.maximum(states.status, watched.status))
        way = jnp.minimum(
            FIRST_WAY * modes.displacement(modes.end), modes.displacement(FIRST_TIME / modes.fastest)
        )
        return ExponentialState(zero, step, end, way, Pace.expected(end), watched, books)

    def advance(self, problem: FlowProblem, state: ExponentialState, until: Scalar) -> ExponentialState:
        """Take steps until one covers `until`, or the residual falls no more: the end of all times.

        To be there at `t = inf` the residual must have vanished.
        """

        def short(state: ExponentialState) -> Array:
            reached = (state.time + state.step.h >= until) | limits.settled(problem, state)
            return ~reached & (state.status <= Status.STALLED)

        state = lax.while_loop(short, lambda state: self._next(problem, state), state)
        unknown = jnp.isinf(until) & ~limits.vanished(problem, state.end) & (state.status <= Status.STALLED)
        status = jnp.where(unknown, jnp.int32(Status.NOT_FOLLOWED), state.status)
        return eqx.tree_at(lambda s: s.books.status, state, status)

    def leaves_at(self, problem: FlowProblem, state: ExponentialState, time: Scalar) -> Leaves:
        """Dense output, of the order of the steps; a failed run stands still."""
        step, end = state.step, state.end
        inside = (time < state.time + step.h) & (state.status <= Status.STALLED)
        since = jnp.where(inside, time - state.time, 0)
        return lax.cond(inside, lambda: self._leaves_at(problem, step, since), lambda: end.leaves)

    def error_at(self, problem: FlowProblem, state: ExponentialState, time: Scalar) -> Scalar:
        """The sum of the estimates of all steps so far, and what time may have made of unresolved modes."""
        return state.books.error * problem.y.size**0.5 + limits.unresolved(problem, time)

    def _leaves_at(self, problem: FlowProblem, step: AbstractStep, since: Scalar) -> Leaves:
        if self.order == 2:
            return step.leaves_at(problem, since)
        J = jacobian_of(problem, step.leaves, step.states)
        return linear_leaves(J, step.leaves, step.modes, since)

    def _next(self, problem: FlowProblem, state: ExponentialState) -> ExponentialState:
        """The next step: shorter until its error is within the tolerance."""
        start = state.end
        J = jacobian_of(problem, start.leaves, start.states)

        def attempt(last: Trial) -> Trial:
            return self._attempt(problem, start, J, self._modes(problem, J, start, last), last)

        untried = self._untried(state)
        trial = lax.while_loop(lambda t: (t.excess > 1) & (t.work.tries < MAX_TRIES), attempt, untried)
        return ExponentialState(
            time=state.time + state.step.h,
            step=trial.step,
            end=_where(trial.excess > 1, start, trial.end),
            way=trial.way * jnp.clip(SAFETY / jnp.sqrt(trial.excess), 0.2, 6.0),
            pace=trial.pace,
            probes=trial.probes,
            books=self._books(state.books, trial),
        )

    def _untried(self, state: ExponentialState) -> Trial:
        """What the first try of a step follows: the last step, taken backwards."""
        behind = Waypoint(state.step.leaves, state.step.states.equilibrium.z)
        zero, inf = jnp.zeros_like(state.way), jnp.full_like(state.way, jnp.inf)
        return Trial(
            step=state.step,
            end=state.end,
            error=zero,
            excess=inf,
            way=state.way,
            blame=zero,
            pace=state.pace,
            known=behind,
            probes=state.probes,
            status=state.books.status,
            work=Work(*(jnp.zeros((), jnp.int32),) * 4),
        )

    def _modes(self, problem: FlowProblem, J: AbstractJacobian, start: Position, last: Trial) -> Modes:
        """The last try's where they are this step's, and not what made it fail."""
        first, outworn, kept = last.work.tries == 0, _outworn(last), last.step.modes
        tolerated = jnp.where(outworn, 0, OUTWORN * self._tolerance(problem))
        return lax.cond(
            first | outworn,
            lambda: self.splitting.modes(J, start.residual, kept, _way(last), tolerated),
            lambda: kept,
        )

    def _attempt(
        self, problem: FlowProblem, start: Position, J: AbstractJacobian, modes: Modes, last: Trial
    ) -> Trial:
        h = modes.time_to(_way(last))
        way = modes.displacement(h)
        slack = way * unsolved_share(jnp.asarray(self.rtol, way.dtype))
        leaves = linear_leaves(J, start.leaves, modes, h)
        near = continued(start.waypoint, last.known, leaves)
        first = position(problem, leaves, near, start.states.adjoint.z, last.pace, slack)
        J1 = jacobian_of(problem, first.leaves, first.states)
        step = self.splitting.step(J, J1, start, modes, first, h)
        leaves, pace = step.displaced(J, J1, h), Pace.between(start, first, way)
        near = continued(start.waypoint, first.waypoint, leaves)
        second = position(problem, leaves, near, first.states.adjoint.z, pace, slack)
        watched = probes.states_of(problem, first.leaves, last.probes)
        error = _error(problem, step, first, second, watched)
        end = second if self.order == 2 else first
        # The failure of the first solves is the cause of the others.
        later = jnp.maximum(second.status, watched.status)
        status = jnp.where(first.status > Status.STALLED, first.status, jnp.maximum(first.status, later))
        excess = self._excess(problem, step, end, error)
        sound = (status <= Status.STALLED) & jnp.isfinite(excess)
        # What a failed solve leaves would spoil those of the next try.
        pace, known, watched = _where(
            sound, (pace, first.waypoint, watched), (last.pace, last.known, last.probes)
        )
        return Trial(
            step=step,
            end=end,
            error=error,
            excess=jnp.where(sound, excess, jnp.inf),
            way=way,
            blame=jnp.minimum(step.defect / jnp.where(error > 0, error, 1), 1),
            pace=pace,
            known=known,
            probes=watched,
            status=status,
            work=last.work + _work(step, last, first.states, second.states),
        )

    def _excess(self, problem: FlowProblem, step: AbstractStep, end: Position, error: Scalar) -> Scalar:
        """The estimated error over the tolerance; more than one, too, where the residual grows.

        Below the tolerance any way down will do: where a run slides along a kink of relu, steps that follow
        it are as short as the residual is small, without end.
        """
        up = rms(end.residual) > limits.size(step.modes, end.residual.size) + limits.floor(problem)
        return jnp.maximum(error / self._tolerance(problem), jnp.where(up, UPHILL, 0))

    def _tolerance(self, problem: FlowProblem) -> Scalar:
        floor = limits.floor(problem)
        return jnp.maximum(jnp.asarray(self.rtol, floor.dtype) * rms(problem.initial_residual), floor)

    def _books(self, books: Books, trial: Trial) -> Books:
        taken, work = trial.excess <= 1, trial.work
        steps = books.steps + taken
        lost = ~taken | (steps > self.max_steps)
        status = jnp.where(lost & (trial.status <= Status.STALLED), Status.NOT_FOLLOWED, trial.status)
        return Books(
            error=books.error + trial.error,
            steps=steps,
            rejected=books.rejected + work.tries - taken,
            decompositions=books.decompositions + work.decompositions,
            forward_evaluations=books.forward_evaluations + work.forward,
            adjoint_evaluations=books.adjoint_evaluations + work.adjoint,
            status=jnp.maximum(books.status, status.astype(jnp.int32)),
        )


def _where(condition: Bool[Array, ""], this: T, other: T) -> T:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), this, other)


def _way(last: Trial) -> Scalar:
    """How far to go: as planned, or less far than the last try, by what its modes are not to blame for."""
    excess = last.excess * jnp.where(_outworn(last), 1 - last.blame, 1)
    share = jnp.clip(SAFETY / jnp.sqrt(excess), 0.1, jnp.where(_outworn(last), 1.0, 0.9))
    return last.way * jnp.where(last.work.tries == 0, 1, share)


def _outworn(trial: Trial) -> Bool[Array, ""]:
    """Do its modes cost the step too much of its tolerance?"""
    return jnp.isfinite(trial.excess) & (trial.excess * trial.blame > OUTWORN)


def _error(
    problem: FlowProblem, step: AbstractStep, first: Position, second: Position, watched: States
) -> Scalar:
    """The estimated error of first order, the larger of those on the data and unseen."""
    moved = difference(second.leaves, first.leaves)
    unseen = probes.change(problem, first.leaves, watched, moved)
    corrected = jnp.maximum(rms(second.residual - first.residual), rms(unseen))
    return corrected + step.defect + step.unresolved


def _work(step: AbstractStep, last: Trial, *solved: States) -> Work:
    new = (step.modes.age == 0) & ((last.work.tries == 0) | (last.step.modes.age > 0))
    forward, adjoint = (
        jnp.max(solves[0].steps) + jnp.max(solves[1].steps)
        for solves in zip(*((s.equilibrium, s.adjoint) for s in solved), strict=True)
    )
    return Work(jnp.int32(1), new.astype(jnp.int32), forward, adjoint)
