"""Train one network to the end and measure it: pure, so that seeds can be run together."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, Shaped

from implicit_ntk.dynamics import (
    AbstractIntegrator,
    Exponential,
    FlowProblem,
    FlowState,
    LinearizedFlow,
    Record,
    Trajectory,
    assemble,
    pose,
    segment,
    start,
)
from implicit_ntk.equilibrium import Method, Picard, Status
from implicit_ntk.experiments.sweep._config import SweepConfig
from implicit_ntk.kernel import kernel_drift, ntk, resolution_of, spectrum
from implicit_ntk.networks import AbstractNetwork, Centred, ReluImplicit, operator_norm, trained_leaves

FIRST, LAST = 1.0, 20.0
"""Recorded times reach from `FIRST / lambda_max` to `LAST / lambda_min`: `e^-20` of any mode is left."""


class Samples(eqx.Module):
    """What all runs of a sweep are trained and tested on."""

    X: Float[Array, "n d"]
    y: Float[Array, " n"]
    X_test: Float[Array, "q d"]
    y_test: Float[Array, " q"]


@eqx.filter_jit
def measure(
    config: SweepConfig,
    samples: Samples,
    width: int,
    gamma0: Float[Array, ""],
    keys: Key[Array, " runs"],
    tolerances: Float[Array, " runs"],
) -> dict[str, Shaped[Array, " runs"]]:
    """The fields of a `SweepRow` but its width, scale and seed; NaN where a run failed.

    One program for a width and a number of runs, whatever the scale and the tolerances. Runs of one program
    go on until the last of them is done.
    """

    def one(key: Key[Array, ""], tolerance: Float[Array, ""]) -> dict[str, Array]:
        net = _network(config, samples.X.shape[1], width, gamma0, key)
        return _measured(config, samples, net, tolerance)

    if len(keys) == 1:  # a leading axis of one would cost every branch of the integrator
        return jax.tree.map(lambda x: x[None], one(keys[0], tolerances[0]))
    return jax.vmap(one)(keys, tolerances)


def key_of(config: SweepConfig, width: int, seed: int) -> Key[Array, ""]:
    """The key that the main experiment, too, draws this width and seed from."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), width), seed)


def _network(
    config: SweepConfig, in_size: int, width: int, gamma0: Float[Array, ""], key: Key[Array, ""]
) -> AbstractNetwork:
    net = ReluImplicit.init(
        key,
        in_size,
        width,
        gamma0,
        injection_activation=config.injection_activation,
        activation=config.activation,
        dtype=config.precision,
    )
    return Centred(net) if config.centred else net


def _measured(
    config: SweepConfig, samples: Samples, net: AbstractNetwork, tolerance: Float[Array, ""]
) -> dict[str, Array]:
    method = Method(solver=Picard(rtol=config.rtol), on_failure="report")
    problem = pose(net, samples.X, samples.y, samples.X_test, samples.y_test, method)
    times = _times(problem, config.records)
    traj = _flow(problem, Exponential(tolerance, max_steps=config.max_steps), times)
    with method.products():
        found = _beside_the_twin(problem, traj, samples, method) | _of_the_network(problem, traj, method)
    found |= _of_the_run(problem, traj)
    solved = traj.status <= Status.STALLED
    return _void(found, solved) | {"solved": solved}


def _times(problem: FlowProblem, records: int) -> Float[Array, " T"]:
    """0, geometric over the times of all modes, and infinity, or long after where that is not known."""
    lam = problem.eigenvalues
    noise = resolution_of(lam)
    first, last = FIRST / lam[-1], LAST / jnp.maximum(lam[0], noise)
    shares = jnp.arange(records - 2, dtype=lam.dtype) / (records - 3)
    end = jnp.where(lam[0] > noise, jnp.inf, 2 * last)
    return jnp.concatenate([jnp.zeros(1, lam.dtype), first * (last / first) ** shares, end[None]])


def _flow(problem: FlowProblem, integrator: AbstractIntegrator, times: Float[Array, " T"]) -> Trajectory:
    problem = integrator.check(problem)

    def body(state: FlowState, time: Float[Array, ""]) -> tuple[FlowState, Record]:
        state, rec = segment(problem, integrator, state, time)
        metrics = {name: rec.metrics[name] for name in ("test_error", "distance_A", "integrator_error")}
        # Norms of A at every time would cost more than the steps do: what is not returned is not computed.
        return state, eqx.tree_at(lambda r: (r.z_test, r.metrics), rec, (None, metrics))

    state, records = lax.scan(body, start(problem, integrator), times)
    return assemble(problem, integrator, times, state, records)


def _beside_the_twin(
    problem: FlowProblem, traj: Trajectory, samples: Samples, method: Method
) -> dict[str, Array]:
    twin = LinearizedFlow(problem.eigenvalues, problem.eigenvectors, traj.u[0], problem.y)
    k0 = ntk(problem.net, samples.X_test, samples.X, method)
    u = jnp.linalg.norm(traj.u - twin(traj.times), axis=1)
    assert traj.f is not None
    f = jnp.sqrt(jnp.mean((traj.f - twin.at(traj.times, k0, traj.f[0])) ** 2, axis=1))
    return {"deviation": jnp.max(u), "unseen_deviation": jnp.max(f), "limit_deviation": f[-1]}


def _of_the_network(problem: FlowProblem, traj: Trajectory, method: Method) -> dict[str, Array]:
    H, Q = ntk(traj.net, problem.train.X, method=method), problem.eigenvectors
    drift, end = kernel_drift(H, (Q * problem.eigenvalues[None]) @ Q.T), spectrum(H)
    moved = trained_leaves(traj.net)["A"] - problem.initial_leaves["A"]
    return {
        "drift_operator": drift.operator,
        "drift_frobenius": drift.frobenius,
        "distance": jnp.max(traj.metrics["distance_A"]),
        "distance_operator": operator_norm(moved),
        "lambda_min": problem.eigenvalues[0],
        "lambda_max": problem.eigenvalues[-1],
        "contraction": problem.net.contraction(),
        "lambda_min_end": end.lambda_min,
        "lambda_max_end": end.lambda_max,
        "contraction_end": traj.net.contraction(),
    }


def _of_the_run(problem: FlowProblem, traj: Trajectory) -> dict[str, Array]:
    return {
        "loss": traj.loss[-1],
        "test_error": traj.metrics["test_error"][-1],
        "integrator_error": traj.metrics["integrator_error"][-1],
        "end": traj.times[-1],
        "resolved": jnp.isinf(traj.times[-1]),
        "steps": traj.steps,
        "forward_evaluations": traj.forward_evaluations,
        "adjoint_evaluations": traj.adjoint_evaluations,
    }


def _void(found: dict[str, Array], solved: Array) -> dict[str, Array]:
    """Numbers of a run that stopped on the way are numbers of something else."""

    def known(x: Array) -> Array:
        return jnp.where(solved, x, jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return {name: known(x) for name, x in found.items()}
