"""The main experiment: gradient flow of the implicit layer beside its linearised twin (GG22, section 4).

For each width and seed: draw a network, form `H(0)`, integrate the flow by Euler, and compare `u(t)` and
`f_t` on unseen data with `uhat(t) = y - e^{-H(0)t}(y - u(0))` and `fhat_t`.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from implicit_ntk.data import TwoClass, two_class
from implicit_ntk.dynamics import (
    Euler,
    FlowProblem,
    LinearizedFlow,
    Trajectory,
    assemble,
    pose,
    reported,
    segment,
    start,
)
from implicit_ntk.equilibrium import Method, Picard
from implicit_ntk.experiments._config import TwinConfig
from implicit_ntk.kernel import ntk, resolution_of
from implicit_ntk.networks import AbstractNetwork, Centred, ReluImplicit

TYPICAL_FAST_TIME = 0.2
"""About 1/lambda_max of the data sets here; only the estimate of the time left hangs on it."""

Progress = Callable[[float, str], None]
"""Called with the share of the whole work that is done, and what is being done."""


@dataclasses.dataclass(frozen=True, eq=False)
class TwinRun:
    """One width and one seed; times run along the first axis."""

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
    def integrator_error(self) -> Float[np.ndarray, " T"]:
        """Euler's own error on the linearised dynamics, in the units of `deviation`."""
        return self.metrics["integrator_error"] / np.linalg.norm(self.y - self.u[0])

    @property
    def resolved(self) -> bool:
        """Is the smallest eigenvalue of `H(0)` above what dtype and solver resolve?"""
        return bool(self.eigenvalues[0] > self.resolution)


@dataclasses.dataclass(frozen=True, eq=False)
class TwinResult:
    """All runs of an experiment, with what made them."""

    config: TwinConfig
    times: Float[np.ndarray, " T"]
    data: TwoClass
    runs: tuple[TwinRun, ...]

    def of_width(self, width: int) -> list[TwinRun]:
        """The runs of one width, by seed."""
        return [run for run in self.runs if run.width == width]

    def sup_deviation(self, width: int) -> Float[np.ndarray, " seeds"]:
        """`sup_t ||u - uhat|| / ||y - u(0)||` of each seed."""
        return np.array([run.deviation.max() for run in self.of_width(width)])


def run_twin(config: TwinConfig, progress: Progress = lambda share, what: None) -> TwinResult:
    """Run the experiment. float64 needs `jax_enable_x64`, which the command sets and a script must.

    Raises `ValueError` for bad settings, `FileNotFoundError` for missing data, `ConvergenceError` where a
    solve fails.
    """
    if jax.dtypes.canonicalize_dtype(config.precision) != np.dtype(config.precision):
        raise ValueError('precision="float64" needs jax.config.update("jax_enable_x64", True) first')
    data = two_class(
        config.dataset,
        config.classes,
        config.n_train,
        config.n_test,
        config.data_dir,
        key=jax.random.key(config.seed),
        dtype=np.dtype(config.precision),
    )
    times = record_times(config)

    def run(share: float, cost: float, width: int, seed: int) -> TwinRun:
        what = f"width {width}, seed {seed + 1} of {config.seeds}"
        return _run_one(config, data, times, width, seed, lambda done: progress(share + cost * done, what))

    return TwinResult(config, times, data, tuple(run(*item) for item in _schedule(config)))


def record_times(config: TwinConfig) -> Float[np.ndarray, " T"]:
    """Zero, then geometric up to the horizon."""
    later = np.geomspace(config.horizon / 1000, config.horizon, config.records - 1)
    return np.concatenate([[0.0], later])


def _schedule(config: TwinConfig) -> Iterator[tuple[float, float, int, int]]:
    """(share of the work before, share of the work, width, seed), work counted as m (m + 500)."""
    pairs = [(width, seed) for width in sorted(config.widths) for seed in range(config.seeds)]
    costs = np.array([width * (width + 500.0) for width, _ in pairs])
    costs /= costs.sum()
    for (width, seed), cost, before in zip(pairs, costs, np.cumsum(costs) - costs, strict=True):
        yield float(before), float(cost), width, seed


def _run_one(
    config: TwinConfig,
    data: TwoClass,
    times: Float[np.ndarray, " T"],
    width: int,
    seed: int,
    progress: Callable[[float], None],
) -> TwinRun:
    net = _network(config, data.X.shape[1], width, seed)
    method = Method(solver=Picard(rtol=config.rtol))
    problem = pose(net, data.X, data.y, data.X_test, data.y_test, method)
    traj = _flow(config, problem, times, progress)
    u0, f0 = traj.u[0], net(data.X_test, method)
    lin = LinearizedFlow(problem.eigenvalues, problem.eigenvectors, u0, problem.y)
    fhat = lin.at(traj.times, ntk(net, data.X_test, data.X, method), f0)
    return TwinRun(
        width=width,
        seed=seed,
        y=data.y,
        y_test=data.y_test,
        u=np.asarray(traj.u),
        uhat=np.asarray(lin(traj.times)),
        f=np.asarray(traj.f),
        fhat=np.asarray(fhat),
        eigenvalues=np.asarray(problem.eigenvalues),
        resolution=float(resolution_of(problem.eigenvalues)),
        metrics={"loss": np.asarray(traj.loss)} | {k: np.asarray(v) for k, v in traj.metrics.items()},
    )


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


def _flow(
    config: TwinConfig,
    problem: FlowProblem,
    times: Float[np.ndarray, " T"],
    progress: Callable[[float], None],
) -> Trajectory:
    """The host's loop over the times, where progress is told and Ctrl-C is heard."""
    dt = 1 / problem.eigenvalues[-1] if config.dt is None else jnp.asarray(config.dt, problem.train.X.dtype)
    integrator = Euler(dt, ramp=config.ramp or None)
    problem = integrator.check(problem)
    state, records = start(problem, integrator), []
    moments = jnp.asarray(times, problem.train.X.dtype)
    for moment, time in zip(moments, times, strict=True):
        state, rec = segment(problem, integrator, state, moment)
        records.append(jax.block_until_ready(rec))
        progress(_steps(config, float(dt), time) / _steps(config, float(dt), config.horizon))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *records)
    return reported(assemble(problem, integrator, moments, state, stacked), problem.method)


def _steps(config: TwinConfig, dt: float, time: float) -> float:
    """About how many steps lead to a time: logarithmically many while the ramp lasts."""
    if not config.ramp:
        return time / dt
    ramp_ends = dt / config.ramp
    return np.log1p(min(time, ramp_ends) / TYPICAL_FAST_TIME) / config.ramp + max(time - ramp_ends, 0) / dt
