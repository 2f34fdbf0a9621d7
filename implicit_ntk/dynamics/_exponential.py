"""Exponential integrator: steps as long as the kernel stays what it is, to the end of training.

Euler's step is bound by `2/lambda_max`, the time to be covered by `1/lambda_min`. A step of this
integrator solves the dynamics linearised at its start exactly, however stiff, and corrects for the drift of
the Jacobian (`_exponential_step`). So it is limited by how far the parameters move: its error grows like
the square of `||theta_lin(h) - theta_0||`, in which the steps are measured. In the lazy regime they grow
until one of them reaches `t = infinity`.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicit_ntk._checks import check_positive, check_positive_number
from implicit_ntk._tracing import is_traced
from implicit_ntk.dynamics._exponential_position import Position, position
from implicit_ntk.dynamics._exponential_step import Modes, Step, linear_leaves
from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.equilibrium import Status, default_rtol

FIRST_WAY = 0.03
"""The first step tried, as a share of the way to the end of the linearised flow."""

MAX_TRIES = 30
"""Of one step, each at most nine tenths as long as the last."""

UPHILL = 4.0
"""The excess of a step in which the loss grows."""

ABOVE_SOLVES = 10
"""What the solves resolve, in units of their own relative tolerance."""

Scalar = Float[Array, ""]
Count = Int[Array, ""]


class Books(eqx.Module):
    """What the steps so far took; `error` adds up their estimates, root mean squares over outputs."""

    error: Scalar
    steps: Count
    rejected: Count
    forward_evaluations: Count
    adjoint_evaluations: Count
    status: Count


class ExponentialState(eqx.Module):
    """All that the flow remembers: what a checkpoint would hold.

    The step that covers `[time, time + h]`, the position at its `end`, and how far the next one is to go.
    """

    time: Scalar
    step: Step
    end: Position
    way: Scalar
    books: Books

    @property
    def states(self) -> States:
        """From which the solves of a record start."""
        return self.end.states

    @property
    def steps(self) -> Count:
        """Accepted steps."""
        return self.books.steps

    @property
    def forward_evaluations(self) -> Count:
        """Of the steps, rejected ones included."""
        return self.books.forward_evaluations

    @property
    def adjoint_evaluations(self) -> Count:
        """Of the steps, rejected ones included."""
        return self.books.adjoint_evaluations

    @property
    def status(self) -> Count:
        """The worst status of the run."""
        return self.books.status


class Trial(eqx.Module):
    """A step as tried, its estimated error, that over what is allowed, and how far it went."""

    step: Step
    end: Position
    error: Scalar
    excess: Scalar
    way: Scalar
    status: Count
    tries: Count
    forward: Count
    adjoint: Count


class Exponential(AbstractIntegrator):
    """Adaptive exponential steps, to any time, `t = inf` included.

    The estimated error of a step, the larger of those on the training data and on unseen data, is kept
    below `rtol` of `||u(0) - y||` (root mean squares). Unseen data are `X_test`, or where there are none
    midpoints of training samples: errors made while learning stay where the training outputs do not
    see them, and are errors of `f_inf`.

    Where units of a relu cell slide along their kinks, as those of narrow networks do, about `1/rtol` steps
    are needed to follow them. A residual below the tolerance is no longer followed but led to zero.

    **Arguments:**

    - `rtol`: the tolerance of a step, or what the solves resolve where that is more. It bounds the error of
      first order; the solution that is carried on is corrected, its error mostly well below. An array costs
      no retrace when it changes.
    - `order`: 2, or 1 to carry on the linearised flow of each step.
    - `max_steps`: of the whole run; one that needs more fails.

    **Raises:** `TypeError`, `ValueError` for values out of range.
    """

    reaches_infinity: ClassVar[bool] = True

    rtol: float | int | Scalar = 1e-3
    order: int = eqx.field(static=True, default=2)
    max_steps: int = 10_000

    def __check_init__(self) -> None:
        check_positive_number(self.rtol, "rtol")
        check_positive(self.max_steps, "max_steps")
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order!r}")

    def check(self, problem: FlowProblem) -> FlowProblem:
        """Raise `ValueError` where `rtol` is less than the solves resolve. Every step is stable."""
        least = ABOVE_SOLVES * _solved_to(problem)
        below = jnp.asarray(self.rtol, least.dtype) < least
        if is_traced(below):
            return eqx.error_if(problem, below, "rtol is below what the solves resolve; raise it")
        if below:
            raise ValueError(
                f"rtol={float(self.rtol):g} is below what the solves resolve; pass {float(least):.1g} or or "
                "more, or solve to a smaller rtol"
            )
        return problem

    def init(self, problem: FlowProblem) -> ExponentialState:
        """The state at t = 0, a step of length zero behind it."""
        zero, count = jnp.zeros((), problem.train.X.dtype), jnp.zeros((), jnp.int32)
        start = problem.start
        end = position(problem, problem.initial_leaves, start, None)
        modes = Modes.of_spectrum(problem.eigenvalues, problem.eigenvectors, end.residual)
        step = _zeros(eqx.filter_eval_shape(Step.between, problem, end, modes, end, zero))
        forward, adjoint = jnp.max(start.equilibrium.steps), jnp.max(start.adjoint.steps)
        books = Books(zero, count, count, forward, adjoint, end.status)
        return ExponentialState(zero, step, end, FIRST_WAY * modes.displacement(modes.longest), books)

    def advance(self, problem: FlowProblem, state: ExponentialState, until: Scalar) -> ExponentialState:
        """Take steps until one covers `until`, or the residual falls no more: the end of all times.

        To be there at `t = inf` the residual must have vanished.
        """

        def short(state: ExponentialState) -> Array:
            reached = (state.time + state.step.h >= until) | _settled(problem, state)
            return ~reached & (state.status <= Status.STALLED)

        state = lax.while_loop(short, lambda state: self._next(problem, state), state)
        unknown = jnp.isinf(until) & ~_vanished(problem, state.end) & (state.status <= Status.STALLED)
        status = jnp.where(unknown, jnp.int32(Status.NOT_FOLLOWED), state.status)
        return eqx.tree_at(lambda s: s.books.status, state, status)

    def leaves_at(self, problem: FlowProblem, state: ExponentialState, time: Scalar) -> Leaves:
        """Dense output, of the order of the steps; a failed run stands still."""
        step, end = state.step, state.end
        inside = (time < state.time + step.h) & (state.status <= Status.STALLED)
        since = jnp.where(inside, time - state.time, 0)
        return lax.cond(inside, lambda: self._leaves_at(problem, step, since), lambda: end.leaves)

    def error_at(self, problem: FlowProblem, state: ExponentialState, time: Scalar) -> Scalar:
        """The sum of the estimates of all steps so far."""
        return state.books.error * problem.y.size**0.5

    def _leaves_at(self, problem: FlowProblem, step: Step, since: Scalar) -> Leaves:
        if self.order == 2:
            return step.leaves_at(problem, since)
        return linear_leaves(problem, step.leaves, step.states, step.modes, since)

    def _next(self, problem: FlowProblem, state: ExponentialState) -> ExponentialState:
        """The next step: shorter until its error is within the tolerance."""
        start = state.end
        modes = Modes.at(problem, start)

        def attempt(last: Trial) -> Trial:
            shorter = last.way * jnp.clip(0.9 / jnp.sqrt(last.excess), 0.1, 0.9)
            trial = self._attempt(problem, start, modes, jnp.where(last.tries == 0, last.way, shorter))
            return _counted(trial, last)

        form = eqx.filter_eval_shape(self._attempt, problem, start, modes, state.way)
        untried = eqx.tree_at(lambda t: (t.way, t.excess), _zeros(form), (state.way, jnp.inf * state.way**0))
        trial = lax.while_loop(lambda t: (t.excess > 1) & (t.tries < MAX_TRIES), attempt, untried)
        way = trial.way * jnp.clip(0.9 / jnp.sqrt(trial.excess), 0.2, 6.0)
        books = self._books(state.books, trial)
        return ExponentialState(state.time + state.step.h, trial.step, trial.end, way, books)

    def _attempt(self, problem: FlowProblem, start: Position, modes: Modes, way: Scalar) -> Trial:
        h = modes.time_to(way)
        leaves = linear_leaves(problem, start.leaves, start.states, modes, h)
        first = position(problem, leaves, start.states, start.z_unseen)
        step = Step.between(problem, start, modes, first, h)
        second = position(problem, step.leaves_at(problem, h), first.states, first.z_unseen)
        error, excess = self._errors(problem, step, first, second)
        status = jnp.maximum(first.status, second.status)
        return Trial(
            step=step,
            end=second if self.order == 2 else first,
            error=error,
            excess=jnp.where((status <= Status.STALLED) & jnp.isfinite(excess), excess, jnp.inf),
            way=modes.displacement(h),
            status=status,
            tries=jnp.int32(1),
            forward=jnp.max(first.states.equilibrium.steps) + jnp.max(second.states.equilibrium.steps),
            adjoint=jnp.max(first.states.adjoint.steps) + jnp.max(second.states.adjoint.steps),
        )

    def _errors(
        self, problem: FlowProblem, step: Step, first: Position, second: Position
    ) -> tuple[Scalar, Scalar]:
        """The estimated error, and that over the tolerance: more than one, too, where the residual grows.

        Below the tolerance any way down will do: where a run slides along a kink of relu, steps that follow
        it are as short as the residual is small, without end.
        """
        error = jnp.maximum(_rms(second.residual - first.residual), _rms(second.f - first.f))
        floor = _floor(problem)
        tolerance = jnp.maximum(jnp.asarray(self.rtol, floor.dtype) * _rms(problem.initial_residual), floor)
        end = second if self.order == 2 else first
        up = _rms(end.residual) > _rms(step.modes.coefficients) + floor
        return error, jnp.maximum(error / tolerance, jnp.where(up, UPHILL, 0))

    def _books(self, books: Books, trial: Trial) -> Books:
        steps = books.steps + 1
        lost = (trial.excess > 1) | (steps > self.max_steps)
        status = jnp.where(lost & (trial.status <= Status.STALLED), Status.NOT_FOLLOWED, trial.status)
        return Books(
            error=books.error + trial.error,
            steps=steps,
            rejected=books.rejected + trial.tries - 1,
            forward_evaluations=books.forward_evaluations + trial.forward,
            adjoint_evaluations=books.adjoint_evaluations + trial.adjoint,
            status=jnp.maximum(books.status, status.astype(jnp.int32)),
        )


def _settled(problem: FlowProblem, state: ExponentialState) -> Bool[Array, ""]:
    """Does the residual fall no more? It has vanished, or lies in modes that are not resolved.

    The latter where a longest step did not halve it.
    """
    modes = state.step.modes
    stuck = _rms(state.end.residual) > _rms(modes.coefficients) / 2
    stuck = stuck & (state.step.h >= modes.longest) & ~modes.resolved
    return _vanished(problem, state.end) | stuck


def _vanished(problem: FlowProblem, end: Position) -> Bool[Array, ""]:
    return _rms(end.residual) <= _floor(problem)


def _floor(problem: FlowProblem) -> Scalar:
    """A residual that the solves hardly resolve."""
    return ABOVE_SOLVES * _solved_to(problem) * (_rms(problem.y) + _rms(problem.initial_residual))


def _solved_to(problem: FlowProblem) -> Scalar:
    """The relative tolerance of the forward solves; none is trusted beyond the default of its dtype."""
    rtol, dtype = problem.method.solver.rtol, problem.y.dtype
    return jnp.maximum(jnp.asarray(0.0 if rtol is None else rtol, dtype), default_rtol(dtype))


def _counted(trial: Trial, before: Trial) -> Trial:
    """A trial with the work of those before it."""
    counts = [getattr(trial, name) + getattr(before, name) for name in ("tries", "forward", "adjoint")]
    return eqx.tree_at(lambda t: (t.tries, t.forward, t.adjoint), trial, counts)


def _rms(x: Float[Array, "..."]) -> Scalar:
    return jnp.sqrt(jnp.mean(x**2))


def _zeros(form: PyTree) -> PyTree:
    """Arrays of a form, of zeros: what a loop starts from that overwrites them."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)
