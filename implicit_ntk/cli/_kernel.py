"""`implicit-ntk kernel`: from samples and a network to the kernel, its spectrum, a figure and a table."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from implicit_ntk.cli._destination import Destination
from implicit_ntk.cli._progress import progress_bar
from implicit_ntk.experiments import (
    KERNEL_FILE,
    KernelConfig,
    NetworkConfig,
    Progress,
    SamplesConfig,
    kernel_rows,
    matrix_free_rows,
    run_folder,
    run_kernel,
    run_matrix_free,
    write_kernel,
    write_matrix_free,
)

Rows = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Form the tangent kernel of a network on real data or your own, and examine its spectrum.

    Writes kernel.npz, spectrum.csv, summary.md and a figure, and prints the table.
    """

    samples: SamplesConfig = dataclasses.field(default_factory=SamplesConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    precision: Literal["float32", "float64"] = "float32"
    """Of all arrays; that of a network that is loaded."""
    memmap: bool = False
    """For a kernel larger than memory: form it in a file, kernel.npy, and take no eigenvalues."""
    matrix_free: bool = False
    """Never form the kernel: both ends of the spectrum, its density and the determinant, with errors."""
    destination: Destination = dataclasses.field(default_factory=Destination)

    def execute(self) -> int:
        """Run, write, print the table."""
        if self.memmap and self.matrix_free:
            raise ValueError("memmap does not apply with matrix-free, which forms no kernel; leave one out")
        jax.config.update("jax_enable_x64", self.precision == "float64")
        decomposed = not (self.memmap or self.matrix_free)
        config = KernelConfig(self.samples, self.network, self.precision, decomposed).complete()
        folder, console = self.destination.folder(f"kernel-{self.samples.named}"), Console()
        with run_folder(config, folder, self.destination.overwrite) as partial, progress_bar(console) as bar:
            task = bar.add_task("reading", total=1.0)

            def progress(share: float, what: str) -> None:
                if bar.tasks[0].description != what:
                    bar.reset(task, description=what)
                bar.update(task, completed=share)

            rows = (self._without_kernel if self.matrix_free else self._kernel)(config, progress, partial)
        console.print(_table(f"Kernel of {self.network.named} on {self.samples.named}", rows))
        console.print(f"Kernel, figure and numbers: {folder}", highlight=False, soft_wrap=True)
        return 0

    def _kernel(self, config: KernelConfig, progress: Progress, folder: Path) -> Rows:
        def in_file(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
            return np.lib.format.open_memmap(folder / KERNEL_FILE, "w+", dtype, shape)

        result = run_kernel(config, progress, in_file if self.memmap else np.empty)
        progress(0.0, "writing")
        write_kernel(result, folder)
        if result.eigen is not None:
            from implicit_ntk.plotting import kernel_figure, save_figure  # only where it is drawn with

            save_figure(kernel_figure(result), folder / "figures", "kernel")
        return kernel_rows(result)

    def _without_kernel(self, config: KernelConfig, progress: Progress, folder: Path) -> Rows:
        from implicit_ntk.plotting import matrix_free_figure, save_figure

        result = run_matrix_free(config, progress)
        progress(0.0, "writing")
        write_matrix_free(result, folder)
        save_figure(matrix_free_figure(result), folder / "figures", "kernel")
        return matrix_free_rows(result)


def _table(title: str, rows: Rows) -> Table:
    view = Table(show_header=False, title=title)
    view.add_column(style="bold", no_wrap=True)
    view.add_column(overflow="fold")
    for name, value in rows:
        view.add_row(name, value.replace("[", r"\["))
    return view
