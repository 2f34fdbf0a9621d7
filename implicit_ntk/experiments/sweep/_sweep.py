"""Widths, scales and seeds: gradient flow to the end of training beside its linearised twin."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from implicit_ntk.data import TwoClass, two_class
from implicit_ntk.experiments._checkpoint import load_arrays, save_tree
from implicit_ntk.experiments._folder import claim
from implicit_ntk.experiments.sweep._config import SweepConfig
from implicit_ntk.experiments.sweep._exponents import Exponent, fit_exponent
from implicit_ntk.experiments.sweep._measure import Samples, key_of, measure
from implicit_ntk.experiments.sweep._rows import TYPES, SweepRow, as_array
from implicit_ntk.experiments.sweep._together import seeds_together

COARSER = 10.0
Numbers = Mapping[str, np.ndarray | np.generic]
"""The fields of a row, computed or as they were kept."""
Progress = Callable[[float, str], None]
"""Called with the share of the whole work that is done, and what is being done."""


@dataclasses.dataclass(frozen=True, eq=False)
class SweepResult:
    """All runs of a sweep, by width, scale and seed, with what made them."""

    config: SweepConfig
    data: TwoClass
    rows: tuple[SweepRow, ...]
    coarse: tuple[SweepRow, ...]
    """Seed 0 of each width and scale again, at `COARSER` times the tolerance."""

    @cached_property
    def array(self) -> Shaped[np.ndarray, " runs"]:
        """The rows as a structured array: `result.array["deviation"]`."""
        return as_array(self.rows)

    def of_cell(self, width: int, gamma0: float, name: str) -> Shaped[np.ndarray, " seeds"]:
        """A field of the runs of one width and scale that were solved."""
        rows = self.array
        return rows[name][(rows["width"] == width) & (rows["gamma0"] == gamma0) & rows["solved"]]

    def change(self, width: int, gamma0: float, name: str) -> float:
        """By what share a field of seed 0 differs at `COARSER` times the tolerance: more than its error."""
        coarse, fine = (
            next(getattr(row, name) for row in rows if (row.width, row.gamma0) == (width, gamma0))
            for rows in (self.coarse, self.rows)
        )
        return abs(coarse / fine - 1)

    def exponent(self, name: str, gamma0: float, widest: int | None = None) -> Exponent | None:
        """How a field goes with the width at one scale, over all widths or over so many of the widest."""
        widths = sorted(self.config.widths)[-widest if widest else 0 :]
        return fit_exponent(widths, [self.of_cell(width, gamma0, name) for width in widths])


def run_sweep(
    config: SweepConfig,
    progress: Progress = lambda share, what: None,
    checkpoints: Path | None = None,
) -> SweepResult:
    """Run every width, scale and seed. float64 needs `jax_enable_x64`, which the command sets.

    **Arguments:** `checkpoints`, a folder where each finished run is kept and from which it is taken again.

    **Raises:** `ValueError` for bad settings and for checkpoints of others, `FileNotFoundError` for missing
    data, `MemoryError` where one run is past the limit. A run that fails raises nothing: its row says so.
    """
    if jax.dtypes.canonicalize_dtype(config.precision) != np.dtype(config.precision):
        raise ValueError('precision="float64" needs jax.config.update("jax_enable_x64", True) first')
    if checkpoints is not None:
        claim(config, checkpoints)
    together = {width: seeds_together(config, width) for width in config.widths}
    data = two_class(
        config.dataset,
        config.classes,
        config.n_train,
        config.n_test,
        config.data_dir,
        key=jax.random.key(config.seed),
        dtype=np.dtype(config.precision),
    )
    samples = Samples(*(jnp.asarray(getattr(data, name)) for name in ("X", "y", "X_test", "y_test")))

    def cell(share: float, cost: float, width: int, gamma0: float) -> list[SweepRow]:
        def tell(done: float) -> None:
            progress(share + cost * done, f"width {width}, gamma0 = {gamma0:g}")

        return _cell(config, samples, width, gamma0, together[width], checkpoints, tell)

    cells = [cell(*item) for item in _schedule(config)]
    fine = tuple(row for rows in cells for row in rows[:-1])
    return SweepResult(config, data, fine, tuple(rows[-1] for rows in cells))


def _schedule(config: SweepConfig) -> Iterator[tuple[float, float, int, float]]:
    """(share of the work before, share of the work, width, scale), work counted as m (m + 1000)."""
    costs = np.array([width * (width + 1000.0) for width, _ in config.cells])
    costs /= costs.sum()
    for (width, gamma0), cost, before in zip(config.cells, costs, np.cumsum(costs) - costs, strict=True):
        yield float(before), float(cost), width, gamma0


class _Run(NamedTuple):
    """One run of a sweep."""

    width: int
    gamma0: float
    seed: int
    step_rtol: float

    def row(self, found: Numbers) -> SweepRow:
        numbers = {name: TYPES[name](value) for name, value in found.items()}
        return SweepRow(**self._asdict(), **numbers)

    def file(self, folder: Path) -> Path:
        return folder / f"m{self.width}-gamma{self.gamma0!r}-seed{self.seed}-rtol{self.step_rtol!r}.npz"


def _cell(
    config: SweepConfig,
    samples: Samples,
    width: int,
    gamma0: float,
    together: int,
    checkpoints: Path | None,
    tell: Callable[[float], None],
) -> list[SweepRow]:
    """The runs of one width and scale, the coarser one last: those that are kept, the others in batches."""
    runs = [_Run(width, gamma0, seed, config.step_rtol) for seed in range(config.seeds)]
    runs.append(_Run(width, gamma0, 0, COARSER * config.step_rtol))
    found = _kept(runs, checkpoints)
    missing = [run for run in runs if run not in found]
    for first in range(0, len(missing), together):
        tell(len(found) / len(runs))
        batch = missing[first : first + together]
        found |= _trained(config, samples, batch, together)
        if checkpoints is not None:
            for run in batch:
                save_tree(run.file(checkpoints), found[run])
    tell(1.0)
    return [run.row(found[run]) for run in runs]


def _kept(runs: list[_Run], checkpoints: Path | None) -> dict[_Run, Numbers]:
    """What earlier sweeps of the same configuration have left."""
    if checkpoints is None:
        return {}
    files = {run: run.file(checkpoints) for run in runs}
    return {run: load_arrays(file) for run, file in files.items() if file.exists()}


def _trained(config: SweepConfig, samples: Samples, batch: list[_Run], together: int) -> dict[_Run, Numbers]:
    """Whole batches, so that there is one program a width: what is too much is not looked at."""
    padded, dtype = [*batch, *batch[-1:] * (together - len(batch))], samples.X.dtype
    keys = jnp.stack([key_of(config, run.width, run.seed) for run in padded])
    scale, tolerances = (jnp.asarray(x, dtype) for x in (batch[0].gamma0, [run.step_rtol for run in padded]))
    found = jax.device_get(measure(config, samples, batch[0].width, scale, keys, tolerances))
    runs: dict[_Run, Numbers] = {}
    for index, run in enumerate(batch):
        runs[run] = {name: of[index] for name, of in found.items()}
    return runs
