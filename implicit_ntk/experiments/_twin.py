"""The main experiment: gradient flow of the implicit layer beside its linearised twin (GG22, section 4).

For each width and seed: draw a network, form `H(0)`, integrate the flow to the end of training, and compare
`u(t)` and `f_t` on unseen data with `uhat(t) = y - e^{-H(0)t}(y - u(0))` and `fhat_t`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from implicit_ntk.data import TwoClass, two_class
from implicit_ntk.experiments._checkpoint import load_arrays, save_tree
from implicit_ntk.experiments._config import TwinConfig
from implicit_ntk.experiments._folder import claim
from implicit_ntk.experiments._keeping import Checkpoints
from implicit_ntk.experiments._times import times_to_the_end, times_until
from implicit_ntk.experiments._twin_run import TwinRun, initial_spectrum, run_one

EULER_HORIZON = 50.0

Progress = Callable[[float, str], None]
"""Called with the share of the whole work that is done, and what is being done, at every pause."""


@dataclasses.dataclass(frozen=True, eq=False)
class TwinResult:
    """All runs of an experiment, with what made them; the last of the times may be `inf`."""

    config: TwinConfig
    times: Float[np.ndarray, " T"]
    data: TwoClass
    runs: tuple[TwinRun, ...]

    def of_width(self, width: int) -> list[TwinRun]:
        """The runs of one width, by seed."""
        return [run for run in self.runs if run.width == width]

    def sup_deviation(self, width: int) -> Float[np.ndarray, " seeds"]:
        """`sup_t ||u - uhat|| / ||y - u(0)||` of each seed."""
        return np.array([np.nanmax(run.deviation) for run in self.of_width(width)])


def run_twin(
    config: TwinConfig,
    progress: Progress = lambda share, what: None,
    checkpoints: Checkpoints = Checkpoints(),
) -> TwinResult:
    """Run the experiment. float64 needs `jax_enable_x64`, which the command sets and a script must.

    `checkpoints` says where the run is kept on its way; what an earlier one left there it goes on with, which
    makes the result of an uninterrupted run, bit for bit.

    Raises `ValueError` for bad settings and for checkpoints of others, `FileNotFoundError` for missing data,
    `ConvergenceError` where a solve fails; a `KeyboardInterrupt` leaves a checkpoint.
    """
    if jax.dtypes.canonicalize_dtype(config.precision) != np.dtype(config.precision):
        raise ValueError('precision="float64" needs jax.config.update("jax_enable_x64", True) first')
    if checkpoints.folder is not None:
        claim(config, checkpoints.folder)
    data = two_class(
        config.dataset,
        config.classes,
        config.n_train,
        config.n_test,
        config.data_dir,
        key=jax.random.key(config.seed),
        dtype=np.dtype(config.precision),
    )
    times = _record_times(config, data, checkpoints.path("times"))

    def run(share: float, cost: float, width: int, seed: int) -> TwinRun:
        what = f"width {width}, seed {seed + 1} of {config.seeds}"
        return run_one(
            config, data, times, width, seed, lambda done: progress(share + cost * done, what), checkpoints
        )

    return TwinResult(config, times, data, tuple(run(*item) for item in _schedule(config)))


def _record_times(config: TwinConfig, data: TwoClass, kept: Path | None) -> Float[np.ndarray, " T"]:
    """Of all runs: to the end of training as long as the narrowest network takes, whose modes are slowest.

    They are kept, so that a run that goes on elsewhere, where `H(0)` is rounded otherwise, goes on with them.
    """
    if not config.to_the_end:
        return times_until(EULER_HORIZON if config.horizon is None else config.horizon, config.records)
    if kept is not None and kept.exists():
        return load_arrays(kept)["times"]
    times = times_to_the_end(*initial_spectrum(config, data, min(config.widths), 0), config.records)
    if kept is not None:
        save_tree(kept, {"times": times})
    return times


def _schedule(config: TwinConfig) -> Iterator[tuple[float, float, int, int]]:
    """(share of the work before, share of the work, width, seed), work counted as m (m + 500)."""
    pairs = [(width, seed) for width in sorted(config.widths) for seed in range(config.seeds)]
    costs = np.array([width * (width + 500.0) for width, _ in pairs])
    costs /= costs.sum()
    for (width, seed), cost, before in zip(pairs, costs, np.cumsum(costs) - costs, strict=True):
        yield float(before), float(cost), width, seed
