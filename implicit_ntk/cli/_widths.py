"""`implicit-ntk widths`: kernels of finite networks over widths and seeds, beside their limits."""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.table import Table

from implicit_ntk.cli._destination import Destination
from implicit_ntk.cli._progress import progress_bar
from implicit_ntk.experiments import (
    WidthsConfig,
    WidthsResult,
    limit_columns,
    limit_rows,
    run_widths,
    store_widths,
)


@dataclasses.dataclass(frozen=True)
class Widths:
    """Kernels of finite networks over widths and seeds, beside their limits of infinite width."""

    config: Annotated[WidthsConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=WidthsConfig)
    destination: Destination = dataclasses.field(default_factory=Destination)

    def execute(self) -> int:
        """Run, write, print the table."""
        jax.config.update("jax_enable_x64", self.config.precision == "float64")
        folder = self.destination.folder("widths")
        console = Console()
        with progress_bar(console) as bar:
            task = bar.add_task("compiling", total=1.0)
            result = run_widths(
                self.config, lambda done, what: bar.update(task, completed=done, description=what)
            )
            bar.update(task, completed=1.0, description="drawing")
            store_widths(result, folder, _draw, self.destination.overwrite)
        if result.architectures:
            console.print(_table(result))
        figure, summary = folder / "figures" / "widths.png", folder / "summary.md"
        console.print(f"Figure: {figure}; all tables: {summary}", highlight=False, soft_wrap=True)
        return 0


def _draw(result: WidthsResult, folder: Path) -> None:
    from implicit_ntk.plotting import save_figure, widths_figure  # matplotlib only where it is drawn with

    save_figure(widths_figure(result), folder, "widths")


def _table(result: WidthsResult) -> Table:
    view = Table(title=f"finite networks and their limits, gamma0 = {result.config.gamma0:g}")
    for column in limit_columns(result):
        view.add_column(column, justify="right")
    for row in limit_rows(result):
        view.add_row(*row)
    return view
