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


RUNNING = -1
"""The status of a problem that is still being iterated; no finished solve reports it."""

_CAUSE_AND_REMEDY = {
    Status.MAX_STEPS: (
        "reached max_steps before its tolerance; raise max_steps, loosen rtol, or make the map more "
        "contractive (a smaller gamma0, damping < 1)"
    ),
    Status.NONFINITE: (
        "met an infinity or a NaN; the iteration diverges (gamma0 too large?) or an input is not finite"
    ),
}


class ConvergenceError(RuntimeError):
    """A solve failed and the policy is `on_failure="raise"`; the message names cause and remedy."""


def succeeded(status: Int[Array, "..."]) -> Bool[Array, "..."]:
    """True where a problem converged, or stalled at the rounding of its dtype."""
    return (status == Status.CONVERGED) | (status == Status.STALLED)


def failure_messages(what: str) -> list[str]:
    """One sentence for each failure status, in the order of `failure_index`; `what` names the solve."""
    return [f"the {what} {sentence}" for sentence in _CAUSE_AND_REMEDY.values()]


def failure_index(status: Int[Array, "..."]) -> Int[Array, ""]:
    """Which of `failure_messages` speaks of the worst status of a batch."""
    return jnp.clip(jnp.max(status) - Status.MAX_STEPS, 0, len(_CAUSE_AND_REMEDY) - 1)
