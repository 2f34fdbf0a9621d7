"""Krylov methods for `x = apply(x) + rhs`: one independent Krylov space for each problem of a batch.

`apply` acts on the whole batch, in one product, while every problem has coefficients, a stopping test
and a status of its own. The loops here are ours because those of lineax 0.1 solve one problem: under
`vmap` its GMRES runs whole cycles, two at least, where a problem may need three products; its BiCGStab
takes a negative coefficient for a breakdown in float32 and returns NaN for a zero right-hand side; both
test each component rather than the norm that a status here speaks of. The tests compare with lineax.

A *cycle* builds a Krylov space from the residual and improves the solution; what it has achieved is
measured on the true residual, from which the next one starts.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicit_ntk._checks import check_positive
from implicit_ntk.equilibrium._affine import LinearizedAffine
from implicit_ntk.equilibrium._driver import Equilibrium
from implicit_ntk.equilibrium._flat import combine, components, dot, length, put
from implicit_ntk.equilibrium._linear import AbstractLinearSolver
from implicit_ntk.equilibrium._rule import LinearMap
from implicit_ntk.equilibrium._solver import check_tolerances
from implicit_ntk.equilibrium._status import RUNNING, Status
from implicit_ntk.equilibrium._stopping import at_floor
from implicit_ntk.equilibrium._system import System

PROGRESS = 0.999
"""A cycle that leaves more of the residual than this has got nowhere."""


class Cycle(eqx.Module):
    """A solution being improved: its residual by recursion, the products spent, and who goes on."""

    x: Float[Array, "*batch dim"]
    r: Float[Array, "*batch dim"]
    steps: Int[Array, "*batch"]
    active: Bool[Array, "*batch"]


class Solve(eqx.Module):
    """Where a solve stands between cycles; `r` is the true residual of `x`."""

    x: Float[Array, "*batch dim"]
    r: Float[Array, "*batch dim"]
    residual: Float[Array, "*batch"]
    steps: Int[Array, "*batch"]
    status: Int[Array, "*batch"]


class AbstractKrylov(AbstractLinearSolver):
    """A Krylov method with restarts, in units of each right-hand side."""

    rtol: eqx.AbstractVar[ArrayLike | None]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def cycle(self, system: System, start: Cycle, threshold: Float[Array, "*batch"]) -> Cycle:
        """Improve the active problems until each is below its threshold or gets no further."""

    def solve(
        self,
        apply: LinearMap,
        rhs: PyTree[Array],
        batch_ndim: int,
        guess: PyTree[Array] | None = None,
        at: LinearizedAffine | None = None,
    ) -> Equilibrium:
        """Cycles, from `guess` or from zero, until every problem has a status."""
        system = System.of(apply, rhs, batch_ndim)
        threshold = system.threshold(self.rtol, self.atol)
        x, r, steps = system.start(guess)
        first = Solve(x, r, system.norm(r), steps, jnp.full(steps.shape, RUNNING, jnp.int32))
        first = self._judged(system, threshold, first, jnp.full_like(first.residual, jnp.inf))

        def body(solve: Solve) -> Solve:
            active = solve.status == RUNNING
            found = self.cycle(system, Cycle(solve.x, solve.r, solve.steps, active), threshold)
            r = system.residual(found.x)
            size = system.norm(r)
            better = active & ((size < solve.residual) | ~jnp.isfinite(size))
            new = Solve(
                jnp.where(better[..., None], found.x, solve.x),
                jnp.where(better[..., None], r, solve.r),
                jnp.where(better, size, solve.residual),
                jnp.where(active, found.steps + 1, solve.steps),
                solve.status,
            )
            return self._judged(system, threshold, new, solve.residual)

        solve = lax.while_loop(lambda solve: jnp.any(solve.status == RUNNING), body, first)
        unknown = jnp.full_like(solve.residual, jnp.inf)
        return system.equilibrium(solve.x, solve.residual, unknown, solve.steps, solve.status)

    def _judged(
        self, system: System, threshold: Float[Array, "*batch"], solve: Solve, before: Float[Array, "*batch"]
    ) -> Solve:
        """The status of each problem after a cycle, given the residual before it."""
        residual = solve.residual
        status = jnp.where(residual > PROGRESS * before, Status.BREAKDOWN, RUNNING)
        status = jnp.where(solve.steps >= self.max_steps, Status.MAX_STEPS, status)
        stalled = (residual > 0.5 * before) & at_floor(residual, system.scale, system.norm(solve.x))
        status = jnp.where(stalled, Status.STALLED, status)
        status = jnp.where(residual <= threshold, Status.CONVERGED, status)
        finite = jnp.isfinite(residual) & jnp.isfinite(system.scale)
        status = jnp.where(finite, status, Status.NONFINITE).astype(jnp.int32)
        status = jnp.where(solve.status == RUNNING, status, solve.status)
        return eqx.tree_at(lambda solve: solve.status, solve, status)


class GMRES(AbstractKrylov):
    """The least residual over a growing Krylov space, begun again after `restart` products.

    Needs no contraction, only that `I - J` is regular: where Neumann diverges, this converges in `dim`
    products at most (without restarts). Memory: `2 restart` vectors a problem.

    Computed as GCR (Eisenstat, Elman and Schultz 1983, <https://doi.org/10.1137/0720023>), which
    minimises over the same spaces and has the residual at hand after every product; where a step
    stagnates, which would break GCR down, the space is extended by the last product, as in GMRES.

    **Arguments:** `rtol`, `atol` relative to each right-hand side as in `Neumann`; `max_steps` products
    with `J`; `restart`.
    """

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000
    restart: int = 20

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        check_positive(self.restart, "restart")

    def cycle(self, system: System, start: Cycle, threshold: Float[Array, "*batch"]) -> Cycle:
        """Up to `restart` products, each orthogonalised against those before."""
        restart = min(self.restart, start.r.shape[-1])
        *batch, dim = start.r.shape
        space = jnp.zeros((*batch, restart, dim), start.r.dtype)

        def body(carry: tuple) -> tuple:
            slot, state, p, P, Q = carry
            q = system.matrix(p)
            p, q, regular = _orthogonalised(p, q, P, Q)
            alpha, before = dot(q, state.r), length(state.r)
            moves = state.active & regular & jnp.isfinite(alpha)
            alpha = jnp.where(moves, alpha, 0)[..., None]
            x, r = state.x + alpha * jnp.where(moves[..., None], p, 0), state.r
            r = r - alpha * jnp.where(moves[..., None], q, 0)
            steps = jnp.where(state.active, state.steps + 1, state.steps)
            active = moves & (length(r) > threshold) & (steps < self.max_steps)
            stagnates = jnp.abs(alpha[..., 0]) < 1e-2 * before
            p_next = _unit(jnp.where(stagnates[..., None], q, r))
            return slot + 1, Cycle(x, r, steps, active), p_next, put(P, slot, p), put(Q, slot, q)

        def goes_on(carry: tuple) -> Array:
            return (carry[0] < restart) & jnp.any(carry[1].active)

        return lax.while_loop(goes_on, body, (jnp.int32(0), start, _unit(start.r), space, space))[1]


class BiCGStab(AbstractKrylov):
    """BiCGStab (van der Vorst 1992, <https://doi.org/10.1137/0913035>): short recurrences.

    Seven vectors a problem whatever the number of steps, two products an iteration; the residual is not
    monotone, so that GMRES is the safer choice where its memory is no matter. After a breakdown it
    begins again from the best solution.

    **Arguments:** as `GMRES`, without `restart`.
    """

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)

    def cycle(self, system: System, start: Cycle, threshold: Float[Array, "*batch"]) -> Cycle:
        """Until convergence or breakdown; the best solution on the way."""
        shadow = start.r

        def body(carry: tuple) -> tuple:
            state, best, p, rho = carry
            v = system.matrix(p)
            alpha, fine = _ratio(rho, dot(shadow, v), length(shadow) * length(v))
            s = state.r - alpha[..., None] * v
            t = system.matrix(s)
            omega, moving = _ratio(dot(t, s), dot(t, t), 0.0)
            x = state.x + alpha[..., None] * p + omega[..., None] * s
            r = s - omega[..., None] * t
            moves = state.active & fine & jnp.all(jnp.isfinite(r), axis=-1)
            x, r = jnp.where(moves[..., None], x, state.x), jnp.where(moves[..., None], r, state.r)
            rho_next = dot(shadow, r)
            beta, alive = _ratio(rho_next * alpha, rho * omega, 0.0)
            # A shadow that is orthogonal to the residual knows nothing of it.
            alive &= moving & (jnp.abs(rho_next) > _eps(r) * length(shadow) * length(r))
            p = r + beta[..., None] * (p - omega[..., None] * v)
            steps = jnp.where(state.active, state.steps + 2, state.steps)
            active = moves & alive & (length(r) > threshold) & (steps < self.max_steps)
            better = (length(r) < length(best.r))[..., None]
            best = Cycle(jnp.where(better, x, best.x), jnp.where(better, r, best.r), steps, active)
            return Cycle(x, r, steps, active), best, p, rho_next

        first = (start, start, shadow, dot(shadow, shadow))
        return lax.while_loop(lambda carry: jnp.any(carry[0].active), body, first)[1]


def _orthogonalised(p: Array, q: Array, P: Array, Q: Array) -> tuple[Array, Array, Array]:
    """`q` made orthogonal to the rows of `Q`, of length one, `p` with it; and whether anything was left.

    Twice: once leaves an error of the size of what was taken away.
    """
    size = length(q)
    first = components(Q, q)
    q = q - combine(first, Q)
    second = components(Q, q)
    q = q - combine(second, Q)
    left = length(q)
    regular = left > 10 * _eps(q) * size
    left = jnp.where(regular, left, jnp.ones_like(left))[..., None]
    return (p - combine(first + second, P)) / left, q / left, regular


def _unit(a: Array) -> Array:
    size = length(a)
    return a / jnp.where(size > 0, size, jnp.ones_like(size))[..., None]


def _ratio(a: Array, b: Array, scale: Array | float) -> tuple[Array, Array]:
    """`a / b`, zero where `b` is zero or lost in the rounding of `scale`; and where it is not."""
    fine = jnp.abs(b) > _eps(b) * scale
    return jnp.where(fine, a / jnp.where(fine, b, jnp.ones_like(b)), 0), fine


def _eps(a: Array) -> float:
    return float(jnp.finfo(a.dtype).eps)
