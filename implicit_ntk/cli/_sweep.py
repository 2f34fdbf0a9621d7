"""`implicit-ntk sweep`: the end of training over widths, scales and seeds, and its exponents."""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.table import Table

from implicit_ntk.cli._destination import ResumableDestination
from implicit_ntk.cli._resumable import resumable_run
from implicit_ntk.experiments import (
    SweepConfig,
    SweepResult,
    checkpoints_beside,
    exponent_columns,
    exponent_rows,
    mean_columns,
    mean_rows,
    run_sweep,
    sweep_cells,
    sweep_findings,
    sweep_laws,
    write_sweep,
)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Gradient flow to the end of training over widths, scales gamma0 and seeds; exponents in the width."""

    config: Annotated[SweepConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=SweepConfig)
    destination: ResumableDestination = dataclasses.field(default_factory=ResumableDestination)

    def execute(self) -> int:
        """Run, write, print the tables."""
        jax.config.update("jax_enable_x64", self.config.precision == "float64")
        console = Console()
        folder, finished = self.destination.folder_of(self.config, "sweep")
        if finished:
            console.print(f"Finished before: {folder / 'summary.md'}", highlight=False, soft_wrap=True)
            return 0
        result = self._run(folder, console)
        title = "means over seeds, ± half of the 95% interval"
        console.print(_table(title, mean_columns(), mean_rows(sweep_cells(result))))
        console.print(_table("powers of m", exponent_columns(), exponent_rows(sweep_laws(result))))
        for sentence in sweep_findings(result):
            console.print(sentence.replace("**", ""), highlight=False, markup=False, soft_wrap=True)
        console.print(
            f"\nFigure: {folder / 'figures' / 'sweep.png'}; every run: {folder / 'sweep.csv'}; tables: "
            f"{folder / 'summary.md'}",
            highlight=False,
            soft_wrap=True,
        )
        return 0

    def _run(self, folder: Path, console: Console) -> SweepResult:
        """The sweep, written to its folder; every finished run is kept on the way."""
        with resumable_run(self.config, folder, self.destination, console) as (results, progress):
            result = run_sweep(self.config, progress, checkpoints_beside(results))
            progress(1.0, "drawing")
            write_sweep(result, results, _draw)
        return result


def _draw(result: SweepResult, folder: Path) -> None:
    from implicit_ntk.plotting import save_figure, sweep_figure  # matplotlib only where it is drawn with

    save_figure(sweep_figure(result), folder, "sweep")


def _table(title: str, head: list[str], rows: list[list[str]]) -> Table:
    view = Table(title=title)
    for column in head:
        view.add_column(column, justify="right")
    for row in rows:
        view.add_row(*(cell.replace("[", r"\[") for cell in row))
    return view
