"""Small-step Euler for gradient flow: `theta <- theta - dt J^T r`.

Solves start from the last step's motion continued, and are only as accurate as the step deserves: over
a step Euler uses the velocity of its start, late by half a step on average. A solve that leaves the
share s of the step's motion unsolved is late by s of a step more.
"""

import math
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk._checks import check_positive, check_real
from implicit_ntk._tracing import is_traced
from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.equilibrium import Status, norms


class EulerState(eqx.Module):
    """All that the flow remembers: what a checkpoint would hold.

    `motion_z` is the change of the equilibria over the last step, of length `dt`, and `moved_p` the size
    (root mean square over the outputs) of that of the adjoint states; `amplification` is what the steps
    so far made of each eigenmode of the linearised dynamics, of which the flow itself makes `e^{-lam t}`;
    the evaluations are those that the steps took, and the solves at t = 0.
    """

    time: Float[Array, ""]
    time_rounding: Float[Array, ""]
    dt: Float[Array, ""]
    leaves: Leaves
    states: States
    motion_z: PyTree[Array]
    moved_p: Float[Array, ""]
    amplification: Float[Array, " N"]
    steps: Int[Array, ""]
    forward_evaluations: Int[Array, ""]
    adjoint_evaluations: Int[Array, ""]
    status: Int[Array, ""]


class Euler(AbstractIntegrator):
    """Explicit Euler with steps of at most `dt`.

    **Arguments:**

    - `dt`: the largest step; stable below `2 / lambda_max(H)`. An array costs no retrace when it changes.
    - `ramp`: None for constant steps. Otherwise the step at time t is
      `min(dt, ramp (t + 1/lambda_max))`: short while the fast modes last, then longer, so that every mode
      of the linearised dynamics is followed to about `ramp / 2` of its amplitude.
    - `solver_share`: the share of the states' motion over a step that the solves may leave unsolved,
      which changes `u` by less than a tenth of Euler's own error while the bulk of the loss is learnt
      (in its last percent a smooth cell was seen to change by 0.3 of it, and relu runs part by as much
      when their weights differ by 1e-6); zero solves every step to the method's tolerance.
    - `krylov`: None to form `H(0)` and decompose it. Otherwise `lambda_max` and the error estimate are
      those of a Krylov space from so many products with it, 32 say, for data of any size.

    **Raises:** `TypeError` for what is not one number, `ValueError` for values out of range.
    """

    dt: float | int | Float[Array, ""]
    ramp: float | int | None = None
    solver_share: float | int = 0.05
    krylov: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_real(self.dt, "dt")
        check_real(1 if self.ramp is None else self.ramp, "ramp")
        check_real(self.solver_share, "solver_share")
        if not is_traced(self.dt) and not 0 < self.dt < math.inf:
            raise ValueError(f"dt must be positive and finite, got {self.dt}")
        if self.ramp is not None and not 0 < self.ramp <= 1:
            raise ValueError(f"ramp must lie in (0, 1], got {self.ramp}; None is constant steps")
        if not 0 <= self.solver_share <= 0.5:
            raise ValueError(f"solver_share must lie in [0, 0.5], got {self.solver_share}; 0 is exact")
        if self.krylov is not None:
            check_positive(self.krylov, "krylov")

    @property
    def krylov_size(self) -> int | None:
        """As asked for."""
        return self.krylov

    def check(self, problem: FlowProblem) -> FlowProblem:
        """Raise `ValueError` where `dt >= 2/lambda_max(H(0))`, naming the largest stable step."""
        lambda_max = problem.eigenvalues[-1]
        unstable = self.dt * lambda_max >= 2
        if is_traced(unstable):
            bad = unstable | (jnp.asarray(self.dt) <= 0)
            return eqx.error_if(problem, bad, "dt is unstable: Euler needs 0 < dt < 2/lambda_max(H)")
        if unstable:
            stable = 2 / float(lambda_max)
            raise ValueError(
                f"dt={float(self.dt):g} is unstable: Euler needs dt < 2/lambda_max(H) = {stable:.4g}; "
                f"pass dt={stable / 4:.2g}"
            )
        return problem

    def init(self, problem: FlowProblem) -> EulerState:
        """The state at t = 0, from the solves that posed the problem."""
        start, dtype = problem.start, problem.train.X.dtype
        zero, count = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        return EulerState(
            time=zero,
            time_rounding=zero,
            dt=self._step_size(problem, zero),
            leaves=problem.initial_leaves,
            states=start,
            motion_z=jax.tree.map(jnp.zeros_like, start.equilibrium.z),
            moved_p=zero,
            amplification=jnp.ones_like(problem.eigenvalues),
            steps=count,
            forward_evaluations=jnp.max(start.equilibrium.steps),
            adjoint_evaluations=jnp.max(start.adjoint.steps),
            status=start.status,
        )

    def advance(self, problem: FlowProblem, state: EulerState, until: Float[Array, ""]) -> EulerState:
        """Take all whole steps that end at or before `until`; a record never changes the steps."""
        latest = until * (1 + 8 * float(jnp.finfo(until.dtype).eps))

        def fits(state: EulerState) -> Array:
            end = state.time + self._step_size(problem, state.time)
            return (end <= latest) & (state.status <= Status.STALLED)

        return lax.while_loop(fits, lambda state: self._step(problem, state), state)

    def leaves_at(self, problem: FlowProblem, state: EulerState, time: Float[Array, ""]) -> Leaves:
        """The straight line that Euler's method itself draws between its steps; none after a failure."""
        line = _along(state.leaves, problem.gradient(state.leaves, state.states), state.time - time)
        failed = state.status > Status.STALLED
        return jax.tree.map(lambda old, new: jnp.where(failed, old, new), state.leaves, line)

    def error_at(self, problem: FlowProblem, state: EulerState, time: Float[Array, ""]) -> Float[Array, ""]:
        """The error of the same steps on the linearised dynamics, where both are known."""
        euler = state.amplification * (1 - (time - state.time) * problem.eigenvalues)
        exact = jnp.exp(-jnp.maximum(problem.eigenvalues, 0) * time)
        modes = problem.eigenvectors.T @ jnp.ravel(problem.initial_residual)
        return jnp.sqrt(jnp.sum(((euler - exact) * modes) ** 2))

    def _step(self, problem: FlowProblem, state: EulerState) -> EulerState:
        dt = self._step_size(problem, state.time)
        leaves = _along(state.leaves, problem.gradient(state.leaves, state.states), -dt)
        states = self._solve(problem, state, leaves, dt / state.dt)
        time, rounding = _compensated_sum(state.time, state.time_rounding, dt)
        return EulerState(
            time=time,
            time_rounding=rounding,
            dt=dt,
            leaves=leaves,
            states=states,
            motion_z=_difference(states.equilibrium.z, state.states.equilibrium.z),
            moved_p=_mean_size(_difference(states.adjoint.z, state.states.adjoint.z), problem.y.ndim),
            amplification=state.amplification * (1 - dt * problem.eigenvalues),
            steps=state.steps + 1,
            forward_evaluations=state.forward_evaluations + jnp.max(states.equilibrium.steps),
            adjoint_evaluations=state.adjoint_evaluations + jnp.max(states.adjoint.steps),
            status=jnp.maximum(state.status, states.status),
        )

    def _solve(
        self, problem: FlowProblem, state: EulerState, leaves: Leaves, growth: Float[Array, ""]
    ) -> States:
        """The states after a step: the first is at full accuracy, no motion being known.

        Equilibria start from their last motion continued. Adjoint states start from where they were:
        they jump where a unit switches, and a jump is not to be continued.
        """
        share = self.solver_share * growth
        return problem.solve(
            leaves,
            _along(state.states.equilibrium.z, state.motion_z, growth),
            state.states.adjoint.z,
            share * _mean_size(state.motion_z, 1),
            share * state.moved_p,
        )

    def _step_size(self, problem: FlowProblem, time: Float[Array, ""]) -> Float[Array, ""]:
        largest = jnp.asarray(self.dt, time.dtype)
        if self.ramp is None:
            return largest
        return jnp.minimum(largest, self.ramp * (time + 1 / problem.eigenvalues[-1]))


def _mean_size(motion: PyTree[Array], batch_ndim: int) -> Float[Array, ""]:
    """Root mean square over the problems of a batch: the gradient is a sum over all of them."""
    return jnp.sqrt(jnp.mean(norms(motion, batch_ndim) ** 2))


def _along(start: PyTree[Array], direction: PyTree[Array], length: Float[Array, ""]) -> PyTree[Array]:
    return jax.tree.map(lambda a, b: a + length * b, start, direction)


def _difference(left: PyTree[Array], right: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(operator.sub, left, right)


def _compensated_sum(
    total: Float[Array, ""], rounding: Float[Array, ""], term: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Kahan's: a million float32 steps still end at the right time."""
    term = term - rounding
    new = total + term
    return new, (new - total) - term
