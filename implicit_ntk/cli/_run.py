"""`implicit-ntk run`: the main experiment, from flags to a directory of results."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.table import Table

from implicit_ntk.cli._destination import ResumableDestination
from implicit_ntk.cli._resumable import resumable_run
from implicit_ntk.experiments import (
    Checkpoints,
    TwinConfig,
    TwinResult,
    checkpoints_beside,
    findings,
    format_known,
    run_twin,
    table,
    write_twin,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """Train the implicit layer of a network by gradient flow and set the run beside its linearised twin."""

    config: Annotated[TwinConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TwinConfig)
    destination: ResumableDestination = dataclasses.field(default_factory=ResumableDestination)
    checkpoint_every: float = 30.0
    """Seconds between two checkpoints; 0 for one at every pause."""

    def execute(self) -> int:
        """Run, write, print the table."""
        jax.config.update("jax_enable_x64", self.config.precision == "float64")
        console, began = Console(), time.perf_counter()
        folder, finished = self.destination.folder_of(self.config, self.config.dataset)
        if finished:
            console.print(f"Finished before: {folder / 'summary.md'}", highlight=False, soft_wrap=True)
            return 0
        result = self._run(folder, console)
        console.print(_table(result))
        for sentence in findings(result):
            console.print(sentence.replace("**", ""), highlight=False, soft_wrap=True)
        console.print(
            f"\n{time.perf_counter() - began:.0f} s. Figure: {folder / 'figures' / 'twin.png'}; numbers: "
            f"{folder / 'summary.md'}, {folder / 'metrics.csv'}",
            highlight=False,
            soft_wrap=True,
        )
        return 0

    def _run(self, folder: Path, console: Console) -> TwinResult:
        """The run, written to its folder."""
        with resumable_run(self.config, folder, self.destination, console) as (results, progress):
            checkpoints = Checkpoints(checkpoints_beside(results), self.checkpoint_every)
            result = run_twin(self.config, progress, checkpoints)
            progress(1.0, "drawing")
            write_twin(result, results, _draw)
        return result


def _draw(result: TwinResult, folder: Path) -> None:
    from implicit_ntk.plotting import (  # matplotlib only where it is drawn with
        save_figure,
        twin_figure,
    )

    save_figure(twin_figure(result), folder, "twin")


def _table(result: TwinResult) -> Table:
    config = result.config
    first, second = config.classes
    title = f"{config.dataset} {first}/{second}, n = {config.n_train}, t = {result.times[-1]:g}"
    caption = (
        f"deviation: sup |u - uhat| / |y - u(0)|; at inf: rms of f - fhat on unseen data; medians over "
        rf"{config.seeds} seeds, \[least, most]"
    )
    view = Table(title=title, caption=caption)
    for column in ("m", "deviation", "unseen", "at inf", "loss/n", "test err.", "lambda_min", "lambda_max"):
        view.add_column(column, justify="right")
    for row in table(result):
        label = "" if row.resolved else " (not resolved)"
        view.add_row(
            str(row.width),
            f"{row.deviation:.4f} [{row.deviation_least:.4f}, {row.deviation_most:.4f}]".replace("[", r"\["),
            f"{row.unseen_deviation:.4f}",
            format_known(row.limit_deviation),
            f"{row.train_loss:.1e}",
            f"{row.test_error:.3f}",
            f"{row.lambda_min:.1e}{label}",
            f"{row.lambda_max:.3g}",
        )
    return view
