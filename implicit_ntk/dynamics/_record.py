"""What is measured at a requested time."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics._problem import Data, FlowProblem, Leaves
from implicit_ntk.equilibrium import Equilibrium, Method, Status
from implicit_ntk.networks import AbstractNetwork, solve_injected


class Record(eqx.Module):
    """The run at one time; `z_test` starts the next record's solve."""

    u: Float[Array, "n *out"]
    f: Float[Array, "q *out"] | None
    loss: Float[Array, ""]
    metrics: dict[str, Array]
    status: Int[Array, ""]
    z_test: PyTree[Array] | None


def record(
    problem: FlowProblem,
    integrator: AbstractIntegrator,
    state: PyTree,
    time: Float[Array, ""],
    z_test: PyTree[Array] | None,
) -> Record:
    """Solve at dense output, to the method's own tolerance, and measure. NaN after a failure."""
    leaves = integrator.leaves_at(problem, state, time)
    net = problem.network(leaves)
    u, eq = outputs_at(net, problem.train, state.states.equilibrium.z, problem.method)
    metrics = {
        "train_error": share_wrong(u, problem.y),
        "contraction": net.contraction(),
        "residual": jnp.max(eq.residual),
        "integrator_error": integrator.error_at(problem, state, time),
        "steps": state.steps,
        "forward_evaluations": state.forward_evaluations,
        "adjoint_evaluations": state.adjoint_evaluations,
    }
    metrics |= distances(problem.initial_leaves, leaves)
    status, f = jnp.maximum(state.status, jnp.max(eq.status)), None
    if problem.test is not None:
        f, eq_test = outputs_at(net, problem.test, z_test, problem.method)
        status, z_test = jnp.maximum(status, jnp.max(eq_test.status)), eq_test.z
        metrics |= _test_metrics(f, problem.y_test)
    return void_after_failure(Record(u, f, _loss(u, problem.y), metrics, status, z_test))


def outputs_at(
    net: AbstractNetwork, data: Data, z0: PyTree[Array] | None, method: Method
) -> tuple[Float[Array, "n *out"], Equilibrium]:
    """The outputs of a network on its data, with the solve that they were read off."""
    phi = data.injected(net)
    eq = solve_injected(net, phi, z0, method, "report")
    return net.readout(eq.z, phi) - data.baseline, eq


def distances(start: Leaves, now: Leaves) -> dict[str, Array]:
    """`||A(t) - A(0)||_F`, and so on for each trained leaf."""
    return {f"distance_{name}": jnp.linalg.norm(jnp.ravel(now[name] - start[name])) for name in start}


def _test_metrics(f: Float[Array, "q *out"], y: Float[Array, "q *out"] | None) -> dict[str, Array]:
    return {} if y is None else {"test_loss": _loss(f, y), "test_error": share_wrong(f, y)}


def _loss(u: Float[Array, "n *out"], y: Float[Array, "n *out"]) -> Float[Array, ""]:
    return jnp.sum((u - y) ** 2) / 2


def share_wrong(u: Float[Array, "n *out"], y: Float[Array, "n *out"]) -> Float[Array, ""]:
    """The share of signs that are wrong, an output of exactly zero being half wrong.

    With several outputs the share of rows whose largest output is another than that of the targets; of
    equal ones the first counts as the largest.
    """
    if u.ndim == 2 and u.shape[1] > 1:
        return jnp.mean(jnp.argmax(u, axis=1) != jnp.argmax(y, axis=1), dtype=u.dtype)
    return jnp.mean((u * y < 0) + (u * y == 0) / 2)


def void_after_failure(rec: Record) -> Record:
    """NaN for all that a failed solve would have told."""
    failed = rec.status > Status.STALLED

    def void(x: Array) -> Array:
        return jnp.where(failed, jnp.nan, x) if jnp.issubdtype(x.dtype, jnp.floating) else x

    values = (rec.u, rec.f, rec.loss, rec.metrics)
    return eqx.tree_at(
        lambda r: (r.u, r.f, r.loss, r.metrics), rec, jax.tree.map(void, values), is_leaf=lambda x: x is None
    )
