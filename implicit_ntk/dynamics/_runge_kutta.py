"""Runge-Kutta methods of fixed steps: references of a known order for the other integrators.

Heun's and the classical method of order four have stages that depend on the one before alone,

    k_i = J^T r at theta - dt a_i k_{i-1},        theta <- theta - dt sum_i b_i k_i

so that a step is a scan over its stages and holds one slope at a time. Every stage is solved to the
method's own tolerance, from the stage before.
"""

import dataclasses
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from implicit_ntk._checks import Number, check_positive, check_positive_number
from implicit_ntk._tracing import is_traced
from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.equilibrium import Status

Scalar = Float[Array, ""]
Count = Int[Array, ""]


class Stages(eqx.Module):
    """The coefficients `a_i`, `b_i` of the stages, and how far the negative real axis is stable."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    stable: float


class RungeKuttaState(eqx.Module):
    """All that the flow remembers between two steps, `states` being those of the last stage.

    `amplification` is what the steps so far made of each mode of the linearised dynamics, of which the
    flow makes `e^{-lam t}`; the evaluations are those that the stages took, and the solves at t = 0.
    """

    leaves: Leaves
    states: States
    amplification: Float[Array, " N"]
    steps: Count
    forward_evaluations: Count
    adjoint_evaluations: Count
    status: Count

    def solved(self, states: States) -> "RungeKuttaState":
        """With the states of a further stage, and what their solves took."""
        return dataclasses.replace(
            self,
            states=states,
            forward_evaluations=self.forward_evaluations + jnp.max(states.equilibrium.steps),
            adjoint_evaluations=self.adjoint_evaluations + jnp.max(states.adjoint.steps),
            status=jnp.maximum(self.status, states.status),
        )


class AbstractRungeKutta(AbstractIntegrator):
    """Constant steps `dt` by the `stages` of a subclass; of s stages, the order is s.

    Between two steps the method itself is the dense output, by a step as long as what is left: of full
    order, for as many solves.
    """

    dt: eqx.AbstractVar[Number]
    krylov: eqx.AbstractVar[int | None]
    stages: eqx.AbstractClassVar[Stages]

    def __check_init__(self) -> None:
        check_positive_number(self.dt, "dt")
        if self.krylov is not None:
            check_positive(self.krylov, "krylov")

    @property
    def krylov_size(self) -> int | None:
        """As asked for."""
        return self.krylov

    def check(self, problem: FlowProblem) -> FlowProblem:
        """Raise `ValueError` where `dt lambda_max(H(0))` is not stable, naming the largest step that is."""
        scaled = self.dt * problem.eigenvalues[-1]
        unstable, name = scaled >= self.stages.stable, type(self).__name__
        if is_traced(unstable):
            bad = unstable | (jnp.asarray(self.dt) <= 0)
            rule = f"{name} needs 0 < dt < {self.stages.stable:.4g}/lambda_max(H)"
            return eqx.error_if(problem, bad, f"dt is unstable: {rule}")
        if unstable:
            limit = self.stages.stable
            largest = limit / float(problem.eigenvalues[-1])
            raise ValueError(
                f"dt={float(self.dt):g} is unstable: {name} needs dt < {limit:.4g}/lambda_max(H) = "
                f"{largest:.4g}; pass dt={largest / 4:.2g}"
            )
        return problem

    def init(self, problem: FlowProblem) -> RungeKuttaState:
        """The state at t = 0, from the solves that posed the problem."""
        start, none = problem.start, jnp.zeros((), jnp.int32)
        unmoved = RungeKuttaState(
            leaves=problem.initial_leaves,
            states=start,
            amplification=jnp.ones_like(problem.eigenvalues),
            steps=none,
            forward_evaluations=none,
            adjoint_evaluations=none,
            status=none,
        )
        return unmoved.solved(start)

    def advance(self, problem: FlowProblem, state: RungeKuttaState, until: Scalar) -> RungeKuttaState:
        """Take all whole steps that end at or before `until`; a record never changes the steps."""
        latest = until * (1 + 8 * float(jnp.finfo(until.dtype).eps))

        def fits(state: RungeKuttaState) -> Array:
            end = self._time(state.steps + 1, until)
            return (end <= latest) & (state.status <= Status.STALLED)

        dt = jnp.asarray(self.dt, until.dtype)
        return lax.while_loop(fits, lambda state: self._step(problem, state, dt), state)

    def leaves_at(self, problem: FlowProblem, state: RungeKuttaState, time: Scalar) -> Leaves:
        """A step of what is left to `time`: NaN where a solve of it fails; none after a failure."""
        part = self._step(problem, state, time - self._time(state.steps, time))
        failed = state.status > Status.STALLED

        def chosen(old: Array, new: Array) -> Array:
            return jnp.where(failed, old, jnp.where(part.status > Status.STALLED, jnp.nan, new))

        return jax.tree.map(chosen, state.leaves, part.leaves)

    def error_at(self, problem: FlowProblem, state: RungeKuttaState, time: Scalar) -> Scalar:
        """The error of the same steps on the linearised dynamics, where both are known."""
        part = time - self._time(state.steps, time)
        numerical = state.amplification * self._amplified(part * problem.eigenvalues)
        exact = jnp.exp(-jnp.maximum(problem.eigenvalues, 0) * time)
        modes = problem.eigenvectors.T @ jnp.ravel(problem.initial_residual)
        return jnp.sqrt(jnp.sum(((numerical - exact) * modes) ** 2))

    def _time(self, steps: Count, like: Scalar) -> Scalar:
        """A product, not a sum: a million float32 steps end at the right time."""
        return steps.astype(like.dtype) * jnp.asarray(self.dt, like.dtype)

    def _amplified(self, x: Float[Array, " N"]) -> Float[Array, " N"]:
        """`sum_k (-x)^k / k!` up to the order, by Horner's rule: what a step makes of a mode."""
        value = jnp.ones_like(x)
        for k in range(len(self.stages.b), 0, -1):
            value = 1 - x / k * value
        return value

    def _step(self, problem: FlowProblem, state: RungeKuttaState, dt: Scalar) -> RungeKuttaState:
        def stage(carry: tuple, ab: tuple[Scalar, Scalar]) -> tuple[tuple, None]:
            slope, total, now = carry
            leaves = _downhill(state.leaves, slope, dt * ab[0])
            now = now.solved(_solved(problem, leaves, now.states))
            slope = problem.gradient(leaves, now.states)
            return (slope, _downhill(total, slope, dt * ab[1]), now), None

        still = jax.tree.map(jnp.zeros_like, state.leaves)
        coefficients = jnp.asarray(self.stages.a, dt.dtype), jnp.asarray(self.stages.b, dt.dtype)
        (_, leaves, now), _ = lax.scan(stage, (still, state.leaves, state), coefficients)
        amplification = state.amplification * self._amplified(dt * problem.eigenvalues)
        return dataclasses.replace(now, leaves=leaves, amplification=amplification, steps=state.steps + 1)


class Heun(AbstractRungeKutta):
    """Heun's method, of order 2, with steps of `dt`: two solves a step, stable below `2 / lambda_max(H)`.

    A reference for the other integrators. An array for `dt` costs no retrace when it changes; `krylov` as for
    `Euler`.

    **Raises:** `TypeError` for what is not one number, `ValueError` for one that is not positive and finite.
    """

    stages: ClassVar[Stages] = Stages((0.0, 1.0), (1 / 2, 1 / 2), 2.0)

    dt: Number
    krylov: int | None = eqx.field(static=True, default=None)


class RK4(AbstractRungeKutta):
    """The classical Runge-Kutta method of order 4: four solves a step, stable below `2.785 / lambda_max(H)`.

    A reference for the other integrators. An array for `dt` costs no retrace when it changes; `krylov` as for
    `Euler`.

    **Raises:** `TypeError` for what is not one number, `ValueError` for one that is not positive and finite.
    """

    # The real root of x^3 - 4 x^2 + 12 x - 24, where the amplification is one again.
    stages: ClassVar[Stages] = Stages(
        (0.0, 1 / 2, 1 / 2, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 2.785293563405282
    )

    dt: Number
    krylov: int | None = eqx.field(static=True, default=None)


def _solved(problem: FlowProblem, leaves: Leaves, near: States) -> States:
    """At the method's own tolerance, from states nearby."""
    exact = jnp.zeros((), problem.train.X.dtype)
    return problem.solve(leaves, near.equilibrium.z, near.adjoint.z, exact, exact)


def _downhill(leaves: Leaves, slope: Leaves, length: Scalar) -> Leaves:
    return jax.tree.map(lambda leaf, g: leaf - length * g, leaves, slope)
