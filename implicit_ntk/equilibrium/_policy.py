"""What happens to a problem whose solve failed.

The verdict is a factor of the state, one or NaN, so that every derivative is multiplied by it too: a
check placed on a by-product is dead code under `jit(grad)` and disappears.
"""

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool, Int, PyTree

from implicit_ntk._hosts import on_host
from implicit_ntk._tracing import is_traced
from implicit_ntk.equilibrium._batch import multiply
from implicit_ntk.equilibrium._driver import Equilibrium
from implicit_ntk.equilibrium._status import (
    ADJOINT as ADJOINT,
    FORWARD as FORWARD,
    ConvergenceError,
    Status,
    failure_index,
    failure_messages,
    succeeded,
)

Policy = Literal["raise", "nan", "report"]
POLICIES: tuple[str, ...] = get_args(Policy)

Result = TypeVar("Result")


def guard_forward(eq: Equilibrium, policy: Policy) -> Equilibrium:
    """Apply the policy to a forward solve: `report` hands out the state as it is."""
    return eq if policy == "report" else _guard(eq, policy, FORWARD)


def guard_adjoint(eq: Equilibrium, policy: Policy) -> Equilibrium:
    """Apply the policy to a linear solve: an unconverged number is never handed out."""
    return _guard(eq, policy, ADJOINT)


def raise_if_failed(eq: Equilibrium, what: str = FORWARD) -> None:
    """On the host: raise `ConvergenceError`, counting the failures and naming the worst."""
    status = on_host(eq.status)
    failed = np.atleast_1d(status > Status.STALLED)
    if not failed.any():
        return
    residual, steps = np.atleast_1d(on_host(eq.residual)), np.atleast_1d(on_host(eq.steps))
    worst = np.unravel_index(np.argmax(np.where(failed, np.atleast_1d(status), -1)), failed.shape)
    where = f"problem {', '.join(map(str, worst))}" if status.ndim else "it"
    raise ConvergenceError(
        f"{failed.sum()} of {failed.size} failed: {failure_messages(what)[int(failure_index(eq.status))]} "
        f"({where}: residual {residual[worst]:.2e} after {steps[worst]} steps); on_failure='report' "
        "returns what was found"
    )


def checked(
    run: Callable[[Policy], Result],
    solves: Callable[[Result], dict[str, Equilibrium]],
    policy: Policy,
    inputs: PyTree,
) -> Result:
    """Run a public entry so that failures raise where they can best be told.

    Called on concrete arrays, the statuses are read on the host and `ConvergenceError` names the
    numbers. Inside a transformation (the inputs, or arrays that a user's function captured, are
    tracers) the check is compiled into the computation.
    """
    if policy != "raise" or has_tracer(inputs):
        return run(policy)
    result = run("report")
    if has_tracer(result):
        return run(policy)
    # An equilibrium that was not found spoils its adjoint, and a jitted dictionary comes back sorted.
    for what, eq in sorted(solves(result).items(), key=lambda item: item[0].startswith(ADJOINT)):
        raise_if_failed(eq, what)
    return result


def has_tracer(tree: PyTree) -> bool:
    """Is any leaf being traced?"""
    return any(is_traced(leaf) for leaf in jax.tree.leaves(tree))


def _guard(eq: Equilibrium, policy: Policy, what: str) -> Equilibrium:
    """Raise if any problem failed, under `raise`; the state of one that failed becomes NaN."""
    status = _raise_where_failed(eq.status, what) if policy == "raise" else eq.status
    verdict = jnp.where(succeeded(status), 1.0, jnp.nan)
    return eqx.tree_at(lambda eq: (eq.z, eq.status), eq, (multiply(verdict, eq.z), status))


def _raise_where_failed(status: Int[Array, "..."], what: str) -> Int[Array, "..."]:
    failed = jnp.any(~succeeded(status))
    if set(jax.sharding.get_abstract_mesh().axis_types) != {AxisType.Auto}:
        return eqx.branched_error_if(status, failed, failure_index(status), failure_messages(what))

    def raised(failed: Bool[Array, ""], index: Int[Array, ""]) -> Int[Array, ""]:
        return eqx.branched_error_if(jnp.zeros_like(index), failed, index, failure_messages(what))

    # A mesh is set (`jax.set_mesh`): all its devices raise. Of itself XLA calls the host from one device,
    # and the others would wait for that one forever.
    everywhere = jax.shard_map(raised, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
    return status + everywhere(failed, failure_index(status))
