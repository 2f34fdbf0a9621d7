"""`implicit-ntk residuals`: how the convolutional network's equilibrium is approached."""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from implicit_ntk.cli._destination import Destination
from implicit_ntk.experiments import ResidualsConfig, ResidualsResult, run_residuals, store_residuals

TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Residuals:
    """Residual against iteration of the convolutional network on real images (N22, figure 4.1)."""

    config: Annotated[ResidualsConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=ResidualsConfig
    )
    destination: Destination = dataclasses.field(default_factory=Destination)

    def execute(self) -> int:
        """Run, write, print the table."""
        jax.config.update("jax_enable_x64", self.config.precision == "float64")
        folder = self.destination.folder(f"residuals-{self.config.dataset}")
        console = Console()
        with console.status("solving"):
            result = run_residuals(self.config)
            store_residuals(result, folder, _draw, self.destination.overwrite)
        console.print(_table(result))
        console.print(f"Figure: {folder / 'figures' / 'residuals.png'}", highlight=False, soft_wrap=True)
        return 0


def _draw(result: ResidualsResult, folder: Path) -> None:
    from implicit_ntk.plotting import residuals_figure, save_figure  # matplotlib only where it is drawn with

    save_figure(residuals_figure(result), folder, "residuals")


def _table(result: ResidualsResult) -> Table:
    view = Table(title=f"ConvImplicit on {result.config.images} images of {result.config.dataset}")
    columns = (
        "filters",
        "solver",
        f"images below {TOLERANCE:g}",
        "median iterations",
        "last residual (median)",
    )
    for column in columns:
        view.add_column(column, justify="right")
    for scale in result.config.weight_scales:
        for name in result.relative:
            steps = result.steps_to(name, scale, TOLERANCE)
            solved, last = np.isfinite(steps), np.median(result.relative[name][scale][-1])
            median = f"{np.median(steps[solved]):.0f}" if solved.any() else "-"
            view.add_row(f"{scale:g}", name, f"{solved.sum()} of {solved.size}", median, f"{last:.1e}")
    return view
