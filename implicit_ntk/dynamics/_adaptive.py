"""Adaptive Runge-Kutta methods of diffrax on gradient flow: an independent reference.

Their step and their step size control are the library's; ours is what is solved and measured. The
library's loop is not used: it clips its steps to the end of the interval, here a record must not change
them.
"""

from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk._checks import Number, check_positive, check_positive_number
from implicit_ntk.dynamics._integrator import AbstractIntegrator, require_resolved
from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.equilibrium import Status, default_rtol

if TYPE_CHECKING:
    import diffrax

FIRST_STEP = 0.1
"""In units of `1/lambda_max`."""

Scalar = Float[Array, ""]
Count = Int[Array, ""]


class Span(eqx.Module):
    """An accepted step from `start` to `end`, and what the solver makes dense output of."""

    start: Scalar
    end: Scalar
    dense: PyTree[Array]


class Trial(eqx.Module):
    """A step as tried: where it leads, its estimated error, and the solver's memory behind it."""

    span: Span
    moved: Leaves
    error: Leaves
    solver: PyTree[Array]


class AdaptiveState(eqx.Module):
    """All that the flow remembers: what a checkpoint would hold.

    `moved` is the way from the initial leaves at the end of the last accepted step, `next_end` where the
    next one is to end; `error` adds up the steps' estimates.
    """

    span: Span
    moved: Leaves
    next_end: Scalar
    solver: PyTree[Array]
    controller: PyTree[Array]
    states: States
    error: Scalar
    steps: Count
    tries: Count
    forward_evaluations: Count
    adjoint_evaluations: Count
    status: Count


class Adaptive(AbstractIntegrator):
    """An explicit adaptive Runge-Kutta method of diffrax, `Adaptive(diffrax.Dopri8())`.

    A step is accepted where what its error in the parameters can mean for the outputs,
    `sqrt(lambda_max(H(0))) ||error||_2`, is below `rtol ||u(0) - y||`. Such methods are stable for steps of
    a few `1/lambda_max`: they serve as references, not to reach the end of training. A stage whose
    solve fails rejects its step.

    **Arguments:**

    - `solver`: an explicit adaptive solver of diffrax, such as `Tsit5()`, `Dopri5()` or `Dopri8()`.
    - `rtol`: the tolerance of a step. An array costs no retrace when it changes.
    - `max_steps`: of the whole run, rejected ones counted; one that needs more fails.
    - `krylov`: None to form `H(0)` and decompose it. Otherwise `lambda_max` is that of a Krylov space from
      so many products with it, for data of any size.

    A run's `forward_evaluations` and `adjoint_evaluations` are those of the solves at the ends of steps: the
    solver does not tell what its stages took.

    **Raises:** `TypeError` for another solver, implicit ones among them (their Newton matrices have a row a
    parameter; for stiff problems there is `Exponential`); `TypeError`, `ValueError` for numbers out of range;
    a run raises `ValueError` for an `rtol` below what its solves resolve.
    """

    solver: "diffrax.AbstractSolver"
    rtol: Number = 1e-6
    max_steps: int = 100_000
    krylov: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        _check_solver(self.solver)
        check_positive_number(self.rtol, "rtol")
        check_positive(self.max_steps, "max_steps")
        if self.krylov is not None:
            check_positive(self.krylov, "krylov")

    @property
    def krylov_size(self) -> int | None:
        """As asked for."""
        return self.krylov

    def check(self, problem: FlowProblem) -> FlowProblem:
        """Raise `ValueError` where `rtol` is less than the solves resolve. No step is unstable for long."""
        own, dtype = problem.method.solver.rtol, problem.y.dtype
        least = jnp.maximum(jnp.asarray(0.0 if own is None else own, dtype), default_rtol(dtype))
        return require_resolved(problem, self.rtol, least.astype(dtype))

    def init(self, problem: FlowProblem) -> AdaptiveState:
        """The state at t = 0, a step of length zero behind it."""
        zero, count = jnp.zeros((), problem.train.X.dtype), jnp.zeros((), jnp.int32)
        start = problem.start
        moved = jax.tree.map(jnp.zeros_like, problem.initial_leaves)
        first = FIRST_STEP / _fastest(problem)
        terms = self._terms(problem)
        _, controller = self._controller(problem).init(
            terms, zero, first, moved, first, start, self.solver.func, self._order(problem)
        )
        solver = self.solver.init(terms, zero, first, moved, start)
        form = eqx.filter_eval_shape(self._attempt, problem, zero, first, moved, start, solver)
        return AdaptiveState(
            span=Span(zero, zero, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form.span.dense)),
            moved=moved,
            next_end=first,
            solver=jax.tree.map(jnp.asarray, solver),
            controller=jax.tree.map(jnp.asarray, controller),
            states=start,
            error=zero,
            steps=count,
            tries=count,
            forward_evaluations=jnp.max(start.equilibrium.steps),
            adjoint_evaluations=jnp.max(start.adjoint.steps),
            status=start.status,
        )

    def advance(self, problem: FlowProblem, state: AdaptiveState, until: Scalar) -> AdaptiveState:
        """Take steps until one covers `until`; a record never changes them."""

        def short(state: AdaptiveState) -> Array:
            return (state.span.end < until) & (state.status <= Status.STALLED)

        return lax.while_loop(short, lambda state: self._next(problem, state), state)

    def leaves_at(self, problem: FlowProblem, state: AdaptiveState, time: Scalar) -> Leaves:
        """The solver's own interpolation; the end of the last accepted step after a failure."""
        span = state.span
        line = self.solver.interpolation_cls(t0=span.start, t1=span.end, **span.dense)
        inside = (time < span.end) & (state.status <= Status.STALLED)
        moved = lax.cond(inside, lambda: line.evaluate(time), lambda: state.moved)
        return jax.tree.map(jnp.add, problem.initial_leaves, moved)

    def error_at(self, problem: FlowProblem, state: AdaptiveState, time: Scalar) -> Scalar:
        """The sum of the steps' estimates, at their largest in the outputs."""
        return state.error

    def _next(self, problem: FlowProblem, state: AdaptiveState) -> AdaptiveState:
        """The next step tried: accepted, or the state with a shorter one to come."""
        start, end = state.span.end, state.next_end
        trial = self._attempt(problem, start, end, state.moved, state.states, state.solver)
        kept, _, next_end, _, memory, _ = self._controller(problem).adapt_step_size(
            *(start, end, state.moved, trial.moved, state.states, trial.error),
            *(self._order(problem), state.controller),
        )
        taken = _taken(problem, state, trial)
        state = jax.tree.map(lambda new, old: jnp.where(kept, new, old), taken, state)
        return self._counted(state, jnp.asarray(next_end), jax.tree.map(jnp.asarray, memory))

    def _counted(self, state: AdaptiveState, end: Scalar, controller: PyTree[Array]) -> AdaptiveState:
        """With a try more: a failure beyond `max_steps`, or where the steps have become nothing."""
        lost = (state.tries >= self.max_steps) | (end <= state.span.end)
        status = jnp.where(lost, jnp.maximum(state.status, Status.NOT_FOLLOWED), state.status)
        return eqx.tree_at(
            lambda s: (s.next_end, s.controller, s.tries, s.status),
            state,
            (end, controller, state.tries + 1, status.astype(jnp.int32)),
        )

    def _attempt(
        self,
        problem: FlowProblem,
        start: Scalar,
        end: Scalar,
        moved: Leaves,
        states: States,
        solver: PyTree[Array],
    ) -> Trial:
        """A step of the solver's; what it could not evaluate is an infinite error."""
        terms = self._terms(problem)
        moved, error, dense, solver, _ = self.solver.step(terms, start, end, moved, states, solver, False)
        error = jax.tree.map(lambda e: jnp.where(jnp.isnan(e), jnp.inf, e), error)
        return Trial(Span(start, end, dense), moved, error, jax.tree.map(jnp.asarray, solver))

    def _terms(self, problem: FlowProblem) -> "diffrax.ODETerm":
        """`-J^T r` as a function of the way from the start, solved for from the states at a step's start."""
        import diffrax

        def velocity(_: object, moved: Leaves, near: States) -> Leaves:
            states, leaves = _solved(problem, moved, near), _moved(problem, moved)
            sign = jnp.where(states.status > Status.STALLED, jnp.nan, -1)
            return jax.tree.map(lambda g: sign.astype(g.dtype) * g, problem.gradient(leaves, states))

        return diffrax.ODETerm(velocity)

    def _order(self, problem: FlowProblem) -> float:
        """That of the error of a step."""
        order = self.solver.error_order(self._terms(problem))
        return 1.0 if order is None else float(order)

    def _controller(self, problem: FlowProblem) -> "diffrax.PIDController":
        """Of steps whose error is at most `rtol` of the initial residual."""
        import diffrax

        allowed = jnp.asarray(self.rtol, problem.y.dtype) * jnp.linalg.norm(
            jnp.ravel(problem.initial_residual)
        )
        least = float(jnp.finfo(allowed.dtype).tiny) ** 0.5  # nothing to learn: any step will do
        return diffrax.PIDController(
            rtol=0.0, atol=1.0, norm=lambda error: _size(problem, error) / jnp.maximum(allowed, least)
        )


def _taken(problem: FlowProblem, state: AdaptiveState, trial: Trial) -> AdaptiveState:
    """The state behind an accepted step, its end solved for."""
    states = _solved(problem, trial.moved, state.states)
    return AdaptiveState(
        span=trial.span,
        moved=trial.moved,
        next_end=state.next_end,
        solver=trial.solver,
        controller=state.controller,
        states=states,
        error=state.error + _size(problem, trial.error),
        steps=state.steps + 1,
        tries=state.tries,
        forward_evaluations=state.forward_evaluations + jnp.max(states.equilibrium.steps),
        adjoint_evaluations=state.adjoint_evaluations + jnp.max(states.adjoint.steps),
        status=jnp.maximum(state.status, states.status),
    )


def _check_solver(solver: object) -> None:
    # Imported late: whoever has made a solver has paid for the import, others need not.
    import diffrax

    explicit = not isinstance(solver, diffrax.AbstractImplicitSolver | diffrax.AbstractWrappedSolver)
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver) or not explicit:
        raise TypeError(
            f"solver must be an explicit adaptive solver such as diffrax.Dopri8(), got {solver!r}; for stiff "
            "problems take Exponential()"
        )


def _size(problem: FlowProblem, error: Leaves) -> Scalar:
    """`sqrt(lambda_max) ||error||_2`: at most what an error of the parameters means for the outputs."""
    squares = [jnp.sum(e**2) for e in error.values()]
    return jnp.sqrt(_fastest(problem) * sum(squares, jnp.zeros((), problem.y.dtype)))


def _fastest(problem: FlowProblem) -> Scalar:
    """`lambda_max`, or one where the kernel is zero: then nothing moves, at any pace."""
    largest = problem.eigenvalues[-1]
    return jnp.where(largest > 0, largest, 1)


def _moved(problem: FlowProblem, moved: Leaves) -> Leaves:
    return jax.tree.map(jnp.add, problem.initial_leaves, moved)


def _solved(problem: FlowProblem, moved: Leaves, near: States) -> States:
    exact = jnp.zeros((), problem.train.X.dtype)
    return problem.solve(_moved(problem, moved), near.equilibrium.z, near.adjoint.z, exact, exact)
