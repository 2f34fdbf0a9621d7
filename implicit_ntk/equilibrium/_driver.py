"""The one loop. It evaluates the map, tests each problem on its own residual, and keeps the books.

A problem that is done is frozen: its state, its step count and its status cannot depend on the
other problems of its batch.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk.equilibrium._batch import is_zero, magnitudes, multiply, norms, real_dtype, select, subtract
from implicit_ntk.equilibrium._solver import AbstractSolver, Map, Measure
from implicit_ntk.equilibrium._status import RUNNING, Status, succeeded
from implicit_ntk.equilibrium._stopping import BLOW_UP, STALL_PATIENCE, Tolerance, at_floor, at_rounding


class Equilibrium(eqx.Module):
    """A solved batch: `z` and, per problem, how well and how it was solved.

    - `z`: the state, with the structure of the initial guess.
    - `residual`: `||f(z) - z||` at this very `z`.
    - `error`: estimate of `||z - z*||`, the residual over one minus the observed rate; infinite where
      no rate was observed (a guess accepted at its first evaluation) or where it was not below one.
    - `steps`: evaluations of `f`.
    - `status`: a `Status`; `CONVERGED` and `STALLED` (at rounding) are successes.
    """

    z: PyTree[Array]
    residual: Float[Array, "..."]
    error: Float[Array, "..."]
    steps: Int[Array, "..."]
    status: Int[Array, "..."]

    @property
    def succeeded(self) -> Array:
        """True where the problem was solved."""
        return succeeded(self.status)


class Loop(eqx.Module):
    """Where the iteration stands; from `residual` on one number per problem.

    `unit` is a power of two near the size of each problem's state, in which norms are taken; `best` is
    the state of the least residual, where the solver keeps it.
    """

    z: PyTree[Array]
    unit: Array
    best: PyTree[Array] | None
    solver: PyTree
    count: Int[Array, ""]
    residual: Array
    least: Array
    since_least: Array
    rate: Array
    steps: Array
    status: Array


class Iteration(eqx.Module):
    """The fixed-point problem `z = f(z)` with its solver and its stopping test.

    `scale` is what the relative tolerance refers to: `||f(z)||` where it is None.
    """

    f: Map
    solver: AbstractSolver
    tolerance: Tolerance
    scale: Float[Array, "..."] | None = None

    def init(self, z: PyTree[Array]) -> Loop:
        """Before the first evaluation. A scale of zero is solved by zero, in zero steps."""
        size = norms(z, self.f.batch_ndim)
        unknown = jnp.full(size.shape, jnp.inf, real_dtype(z))
        zeros = jnp.zeros(size.shape, jnp.int32)
        status = jnp.full(size.shape, RUNNING, jnp.int32)
        residual = unknown
        if self.scale is not None:
            trivial = self.scale == 0
            z = select(trivial, jax.tree.map(jnp.zeros_like, z), z)
            status = jnp.where(trivial, jnp.int32(Status.CONVERGED), status)
            residual = jnp.where(trivial, jnp.zeros_like(residual), residual)
        unit = self._unit(z, size)
        solver = self.solver.init(self.f, z)
        best, rate = (z if self.solver.keeps_best else None), jnp.full_like(unknown, jnp.nan)
        return Loop(z, unit, best, solver, jnp.int32(0), residual, unknown, zeros, rate, zeros, status)

    def running(self, loop: Loop) -> Array:
        """Is any problem unsolved, and any step left?"""
        return jnp.any(loop.status == RUNNING)

    def step(self, loop: Loop) -> Loop:
        """Evaluate `f` once and move the problems that are still running."""
        fz, measure, solver = self.solver.evaluate(
            self.f, loop.z, loop.solver, lambda fz, off=0.0: self._measure(loop, fz, off)
        )
        new = self._books(loop, measure)
        running = new.status == RUNNING
        guess, moved = self.solver.step(self.f, loop.z, fz, solver)
        best = None if loop.best is None else select(measure.residual < loop.least, loop.z, loop.best)
        return eqx.tree_at(
            lambda loop: (loop.z, loop.best, loop.solver),
            new,
            (select(running, guess, loop.z), best, self.solver.freeze(running, moved, solver)),
            is_leaf=lambda leaf: leaf is None,
        )

    def result(self, loop: Loop) -> Equilibrium:
        """The state with its books closed; that of the least residual where a solver keeps it and fails."""
        z, residual = loop.z, loop.residual
        if loop.best is not None:
            better = ~succeeded(loop.status) & jnp.isfinite(loop.least)
            z, residual = select(better, loop.best, z), jnp.where(better, loop.least, residual)
        rate = jnp.where(loop.rate < 1, loop.rate, jnp.ones_like(loop.rate))
        error = jnp.where(residual == 0, residual, self.solver.error(residual, rate, loop.solver))
        return Equilibrium(z, residual, error, loop.steps, loop.status)

    def _unit(self, z: PyTree[Array], size: Array) -> Array:
        """From the guess, or from where it leads if that is zero; a linear equation comes in units."""
        if self.scale is not None:
            return jnp.ones_like(size)
        z, ndim = lax.stop_gradient(z), self.f.batch_ndim
        largest = magnitudes(z, ndim)
        nothing = is_zero(z, ndim)
        return lax.cond(
            jnp.any(nothing),
            lambda: jnp.where(nothing, magnitudes(lax.stop_gradient(self.f(z)), ndim), largest),
            lambda: largest,
        )

    def _measure(self, loop: Loop, fz: PyTree[Array], off: Array | float) -> Measure:
        """The stopping test of this iteration; `fz` may be off by so much, which the residual allows for."""
        z, fz = lax.stop_gradient((loop.z, fz))
        ndim, unit = self.f.batch_ndim, loop.unit
        residual = unit * norms(multiply(1 / unit, subtract(fz, z)), ndim) + off
        scale = unit * norms(multiply(1 / unit, fz), ndim) if self.scale is None else self.scale
        return Measure(residual, scale, residual <= self.tolerance.threshold(scale))

    def _at_floor(self, loop: Loop, since_least: Array, residual: Array, scale: Array) -> Array:
        """Is the residual as small as rounding lets it be? Asked of problems that have ceased to improve."""
        if self.scale is None:
            return at_rounding(residual, scale)
        waiting = jnp.any(since_least >= STALL_PATIENCE)
        z = lax.stop_gradient(loop.z)
        size = lax.cond(waiting, lambda: norms(z, self.f.batch_ndim), lambda: jnp.zeros_like(scale))
        return at_floor(residual, scale, size)

    def _books(self, loop: Loop, measure: Measure) -> Loop:
        """Residual, rate, steps and status after an evaluation; frozen problems keep theirs."""
        residual, scale, solved = measure
        running = loop.status == RUNNING
        improved = residual < loop.least
        since_least = jnp.where(improved, 0, loop.since_least + 1)
        stalled = (since_least >= STALL_PATIENCE) & self._at_floor(loop, since_least, residual, scale)
        rate = _smoothed_rate(loop, residual, scale)
        last = loop.count + 1 >= self.solver.max_steps
        status = jnp.where(last, jnp.int32(Status.MAX_STEPS), jnp.int32(RUNNING))
        flat = ((rate >= 1) & ~improved) | (since_least >= STALL_PATIENCE)
        bound = min(BLOW_UP, float(jnp.finfo(residual.dtype).max) ** 0.5)
        blown_up = False if self.scale is None else residual > bound * jnp.maximum(scale, loop.least)
        status = jnp.where((last & flat) | blown_up, jnp.int32(Status.DIVERGED), status)
        status = jnp.where(stalled, jnp.int32(Status.STALLED), status)
        status = jnp.where(solved, jnp.int32(Status.CONVERGED), status)
        # An infinite scale would make any residual small.
        finite = jnp.isfinite(residual) & jnp.isfinite(scale)
        status = jnp.where(finite, status, jnp.int32(Status.NONFINITE))

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(running, new, old)

        return Loop(
            loop.z,
            loop.unit,
            loop.best,
            loop.solver,
            loop.count + 1,
            keep(residual, loop.residual),
            keep(jnp.where(improved, residual, loop.least), loop.least),
            keep(since_least, loop.since_least),
            keep(rate, loop.rate),
            keep(loop.steps + 1, loop.steps),
            keep(status, loop.status),
        )


def iterate(iteration: Iteration, z0: PyTree[Array]) -> Equilibrium:
    """Run until every problem is done. Forward values only: a `while_loop` has no reverse mode."""
    # JAX hashes the functions it is given, which a module that holds traced arrays does not allow.
    running, step = (lambda loop: iteration.running(loop)), (lambda loop: iteration.step(loop))
    return iteration.result(lax.while_loop(running, step, iteration.init(z0)))


def unroll(iteration: Iteration, z0: PyTree[Array], depth: int) -> Equilibrium:
    """The same iteration as a `scan` of `depth` evaluations, differentiable in every mode."""
    iteration = eqx.tree_at(lambda iteration: iteration.solver.max_steps, iteration, depth)
    loop, _ = lax.scan(lambda loop, _: (iteration.step(loop), None), iteration.init(z0), length=depth)
    return iteration.result(loop)


def residuals(f: Map, solver: AbstractSolver, z0: PyTree[Array], steps: int) -> Float[Array, "steps ..."]:
    """`||f(z) - z|| / ||f(z)||` of each problem at each of `steps` iterates; only rounding stops it."""
    iteration = Iteration(f, solver, Tolerance(0.0, 0.0))

    def step(loop: Loop, _: None) -> tuple[Loop, Array]:
        fz = f(loop.z)
        residual, scale = norms(subtract(fz, loop.z), f.batch_ndim), norms(fz, f.batch_ndim)
        return iteration.step(loop), residual / jnp.where(residual == 0, 1, scale)

    return lax.scan(step, iteration.init(z0), length=steps)[1]


def _smoothed_rate(loop: Loop, residual: Array, scale: Array) -> Array:
    """Geometric mean of the falls of the residual, the last ones weighing most.

    A residual within rounding falls no more and would spoil the rate that was seen before.
    """
    ratio = residual / loop.residual
    blended = jnp.where(jnp.isnan(loop.rate), ratio, jnp.sqrt(loop.rate * ratio))
    observed = jnp.isfinite(loop.residual) & ~at_rounding(residual, scale)
    return jnp.where(observed, blended, loop.rate)
