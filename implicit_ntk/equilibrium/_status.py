"""What became of a solve: one status per problem, each with its cause and its remedy."""

import enum

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Status(enum.IntEnum):
    """Outcome of an iterative solve, per problem; everything above `STALLED` is a failure."""

    CONVERGED = 0
    STALLED = 1
    MAX_STEPS = 2
    NONFINITE = 3
    DIVERGED = 4
    BREAKDOWN = 5
    NOT_FOLLOWED = 6
    """No solve ends so: an integrator that cannot go on tells it by this."""


RUNNING = -1
"""The status of a problem that is still being iterated; no finished solve reports it."""

FORWARD, ADJOINT = "forward solve", "adjoint (linear) solve"
"""What messages call the two kinds of solves."""

_CAUSE_AND_REMEDY = {
    Status.MAX_STEPS: (
        "reached max_steps before its tolerance; raise max_steps, loosen rtol, or make the map more "
        "contractive (a smaller gamma0, damping < 1)"
    ),
    Status.NONFINITE: (
        "met an infinity or a NaN; the iteration diverges (gamma0 too large?) or an input is not finite"
    ),
    Status.DIVERGED: (
        "diverged: its residual grew, or did not fall any more; the map does not contract at the solution"
    ),
    Status.BREAKDOWN: (
        "broke down: I - J is singular or close to it, or the Krylov space holds no solution; use LU() or "
        "a larger restart, or move away from the edge (a smaller gamma0)"
    ),
    Status.NOT_FOLLOWED: (
        "cannot go on: its integrator needs more than max_steps, or ever shorter steps, or at t = inf the "
        "residual does not fall (lambda_min is not resolved); raise max_steps or rtol, or ask for less time"
    ),
}

_INSTEAD = {
    FORWARD: "; use Newton() or Anderson(), for monotone cells PeacemanRachford()",
    ADJOINT: "; use GMRES() or LU()",
}
"""What to take where no contraction can be had."""


class ConvergenceError(RuntimeError):
    """A solve failed and the policy is `on_failure="raise"`; the message names cause and remedy."""


def succeeded(status: Int[Array, "..."]) -> Bool[Array, "..."]:
    """True where a problem converged, or stalled at the rounding of its dtype."""
    return (status == Status.CONVERGED) | (status == Status.STALLED)


def failure_messages(what: str) -> list[str]:
    """One sentence for each failure status, in the order of `failure_index`; `what` names the solve."""
    instead = _INSTEAD[ADJOINT if what.startswith(ADJOINT) else FORWARD]
    return [
        f"the {what} {sentence}{instead if status == Status.DIVERGED else ''}"
        for status, sentence in _CAUSE_AND_REMEDY.items()
    ]


def failure_index(status: Int[Array, "..."]) -> Int[Array, ""]:
    """Which of `failure_messages` speaks of the worst status of a batch."""
    return jnp.clip(jnp.max(status) - Status.MAX_STEPS, 0, len(_CAUSE_AND_REMEDY) - 1)
