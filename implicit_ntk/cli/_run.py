"""`implicit-ntk run`: the main experiment, from flags to a directory of results."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.table import Table

from implicit_ntk.cli._destination import Destination
from implicit_ntk.cli._progress import progress_bar
from implicit_ntk.experiments import TwinConfig, TwinResult, findings, run_twin, store, table


@dataclasses.dataclass(frozen=True)
class Run:
    """Train the implicit layer of a network by gradient flow and set the run beside its linearised twin."""

    config: Annotated[TwinConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=TwinConfig)
    destination: Destination = dataclasses.field(default_factory=Destination)

    def execute(self) -> int:
        """Run, write, print the table."""
        jax.config.update("jax_enable_x64", self.config.precision == "float64")
        console, began = Console(), time.perf_counter()
        folder = self.destination.folder(self.config.dataset)
        with progress_bar(console) as bar:
            task = bar.add_task("compiling", total=1.0)
            result = run_twin(
                self.config, lambda done, what: bar.update(task, completed=done, description=what)
            )
            bar.update(task, completed=1.0, description="drawing")
            store(result, folder, _draw, self.destination.overwrite)
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


def _draw(result: TwinResult, folder: Path) -> None:
    from implicit_ntk.plotting import (  # matplotlib only where it is drawn with
        save_figure,
        twin_figure,
    )

    save_figure(twin_figure(result), folder, "twin")


def _table(result: TwinResult) -> Table:
    config = result.config
    first, second = config.classes
    title = f"{config.dataset} {first}/{second}, n = {config.n_train}, t = {config.horizon:g}"
    caption = f"deviation: sup |u - uhat| / |y - u(0)|; medians over {config.seeds} seeds, [least, most]"
    view = Table(title=title, caption=caption)
    for column in ("m", "deviation", "unseen", "loss/n", "test err.", "lambda_min", "lambda_max"):
        view.add_column(column, justify="right")
    for row in table(result):
        label = "" if row.resolved else " (not resolved)"
        view.add_row(
            str(row.width),
            f"{row.deviation:.4f} [{row.deviation_least:.4f}, {row.deviation_most:.4f}]".replace("[", r"\["),
            f"{row.unseen_deviation:.4f}",
            f"{row.train_loss:.1e}",
            f"{row.test_error:.3f}",
            f"{row.lambda_min:.1e}{label}",
            f"{row.lambda_max:.3g}",
        )
    return view
