"""One width and one seed of the main experiment."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from implicit_ntk.data import TwoClass
from implicit_ntk.dynamics import (
    AbstractIntegrator,
    Euler,
    Exponential,
    FlowProblem,
    LinearizedFlow,
    pose,
)
from implicit_ntk.equilibrium import Method, Picard
from implicit_ntk.experiments._checkpoint import load_arrays, save_tree
from implicit_ntk.experiments._config import STEP_RTOL, TwinConfig
from implicit_ntk.experiments._host_loop import records_along
from implicit_ntk.experiments._keeping import Checkpoints, Keeper
from implicit_ntk.kernel import ntk, resolution_of
from implicit_ntk.networks import AbstractNetwork, Centred, ReluImplicit

RAMP = 0.02

TYPICAL_FAST_TIME = 0.2
"""About 1/lambda_max of the data sets here; only the estimate of the time left hangs on it."""


@dataclasses.dataclass(frozen=True, eq=False)
class TwinRun:
    """One width and one seed; times run along the first axis.

    At `t = inf` all is NaN, and counts are those of the time before, of a run that does not reach it:
    one whose `lambda_min` is not resolved, or whose residual does not vanish.
    """

    width: int
    seed: int
    y: Float[np.ndarray, " n"]
    y_test: Float[np.ndarray, " q"]
    u: Float[np.ndarray, "T n"]
    uhat: Float[np.ndarray, "T n"]
    f: Float[np.ndarray, "T q"]
    fhat: Float[np.ndarray, "T q"]
    eigenvalues: Float[np.ndarray, " n"]
    resolution: float
    metrics: dict[str, Shaped[np.ndarray, " T"]]

    @property
    def deviation(self) -> Float[np.ndarray, " T"]:
        """`||u(t) - uhat(t)|| / ||y - u(0)||`."""
        return np.linalg.norm(self.u - self.uhat, axis=1) / np.linalg.norm(self.y - self.u[0])

    @property
    def unseen_deviation(self) -> Float[np.ndarray, " T"]:
        """`||f_t - fhat_t|| / ||y_test - f_0||` on unseen data."""
        return np.linalg.norm(self.f - self.fhat, axis=1) / np.linalg.norm(self.y_test - self.f[0])

    @property
    def integrator_error(self) -> Float[np.ndarray, " T"]:
        """The integrator's estimate of its own error, in the units of `deviation`."""
        return self.metrics["integrator_error"] / np.linalg.norm(self.y - self.u[0])

    @property
    def resolved(self) -> bool:
        """Is the smallest eigenvalue of `H(0)` above what dtype and solver resolve?"""
        return bool(self.eigenvalues[0] > self.resolution)

    @property
    def last(self) -> int:
        """The index of the last time that is reached."""
        return int(np.flatnonzero(np.isfinite(self.metrics["loss"]))[-1])


def run_one(
    config: TwinConfig,
    data: TwoClass,
    times: Float[np.ndarray, " T"],
    width: int,
    seed: int,
    progress: Callable[[float], None],
    checkpoints: Checkpoints,
) -> TwinRun:
    """The run, from where its checkpoints left it; `progress` is told the share of it that is done."""
    finished = checkpoints.path(f"m{width}-seed{seed}")
    if finished is not None and finished.exists():
        return _loaded(load_arrays(finished))
    keeper = checkpoints.keeper(f"m{width}-seed{seed}-under-way")
    run = _run(config, data, times, width, seed, progress, keeper)
    if finished is not None:
        save_tree(finished, dataclasses.asdict(run))
        keeper.forget()
    return run


def initial_spectrum(
    config: TwinConfig, data: TwoClass, width: int, seed: int
) -> tuple[Float[np.ndarray, " n"], float]:
    """The eigenvalues of `H(0)`, ascending, and what of them is resolved."""
    return _spectrum(_posed(config, data, width, seed))


def _run(
    config: TwinConfig,
    data: TwoClass,
    times: Float[np.ndarray, " T"],
    width: int,
    seed: int,
    progress: Callable[[float], None],
    keeper: Keeper,
) -> TwinRun:
    problem = _posed(config, data, width, seed)
    eigenvalues, resolution = _spectrum(problem)
    known = times if eigenvalues[0] > resolution else times[np.isfinite(times)]
    share = _share_of_steps(config, float(eigenvalues[-1]), known)
    records = records_along(
        problem, _integrator(config, problem), known, keeper, lambda time: progress(share(time))
    )
    u, f = records.u, records.f
    assert f is not None
    lin = LinearizedFlow(problem.eigenvalues, problem.eigenvectors, jnp.asarray(u[0]), problem.y)
    k0 = ntk(problem.net, data.X_test, data.X, problem.method)
    twin = {"uhat": lin(known), "fhat": lin.at(known, k0, jnp.asarray(f[0]))}
    rows = {"u": u, "f": f, **twin, "metrics": {"loss": records.loss} | records.metrics}
    return TwinRun(
        width=width,
        seed=seed,
        y=data.y,
        y_test=data.y_test,
        eigenvalues=eigenvalues,
        resolution=resolution,
        **jax.tree.map(lambda x: _filled_up(np.asarray(x), times.size), rows),
    )


def _filled_up(rows: Shaped[np.ndarray, "K ..."], size: int) -> Shaped[np.ndarray, "T ..."]:
    """A row more where infinity is not reached: NaN, or the count of the last one."""
    if len(rows) == size:
        return rows
    last = np.full_like(rows[-1:], np.nan) if np.issubdtype(rows.dtype, np.floating) else rows[-1:]
    return np.concatenate([rows, last])


def _loaded(stored: dict[str, np.ndarray]) -> TwinRun:
    """A run as `save_tree` wrote it."""
    metrics = {name.partition("/")[2]: value for name, value in stored.items() if "/" in name}
    arrays = {name: value for name, value in stored.items() if "/" not in name and value.ndim}
    width, seed = int(stored["width"]), int(stored["seed"])
    return TwinRun(width=width, seed=seed, resolution=float(stored["resolution"]), metrics=metrics, **arrays)


def _posed(config: TwinConfig, data: TwoClass, width: int, seed: int) -> FlowProblem:
    """`H(0)` is decomposed whatever the integrator: the twin is made of all its modes."""
    net = _network(config, data.X.shape[1], width, seed)
    method = Method(solver=Picard(rtol=config.rtol))
    return pose(net, data.X, data.y, data.X_test, data.y_test, method)


def _spectrum(problem: FlowProblem) -> tuple[Float[np.ndarray, " n"], float]:
    return np.asarray(problem.eigenvalues), float(resolution_of(problem.eigenvalues))


def _network(config: TwinConfig, in_size: int, width: int, seed: int) -> AbstractNetwork:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), width), seed)
    net = ReluImplicit.init(
        key,
        in_size,
        width,
        config.gamma0,
        injection_activation=config.injection_activation,
        activation=config.activation,
        dtype=config.precision,
    )
    return Centred(net) if config.centred else net


def _integrator(config: TwinConfig, problem: FlowProblem) -> AbstractIntegrator:
    def array(value: float | Array) -> Float[Array, ""]:
        return jnp.asarray(value, problem.y.dtype)

    if config.integrator == "exponential":
        return Exponential(array(STEP_RTOL if config.step_rtol is None else config.step_rtol))
    ramp = RAMP if config.ramp is None else config.ramp
    return Euler(array(1 / problem.eigenvalues[-1] if config.dt is None else config.dt), ramp=ramp or None)


def _share_of_steps(
    config: TwinConfig, lambda_max: float, times: Float[np.ndarray, " T"]
) -> Callable[[float], float]:
    """From a time to the share of a run's steps that lead there, about."""
    if config.integrator == "exponential":
        return lambda time: float(np.searchsorted(times, time, "right")) / times.size
    dt = 1 / lambda_max if config.dt is None else config.dt
    ramp = RAMP if config.ramp is None else config.ramp
    return lambda time: _euler_steps(dt, ramp, time) / _euler_steps(dt, ramp, float(times[-1]))


def _euler_steps(dt: float, ramp: float, time: float) -> float:
    """About how many steps lead to a time: logarithmically many while the ramp lasts."""
    if not ramp:
        return time / dt
    ramp_ends = dt / ramp
    return np.log1p(min(time, ramp_ends) / TYPICAL_FAST_TIME) / ramp + max(time - ramp_ends, 0) / dt
