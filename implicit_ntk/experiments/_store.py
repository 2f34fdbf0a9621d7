"""What the experiments leave in a run's directory."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from implicit_ntk.experiments._folder import run_folder
from implicit_ntk.experiments._residuals import ResidualsResult
from implicit_ntk.experiments._summary import summary_markdown
from implicit_ntk.experiments._twin import TwinResult


def store(
    result: TwinResult, folder: Path, draw: Callable[[TwinResult, Path], None], overwrite: bool = False
) -> Path:
    """Write `config.json`, `environment.json`, `metrics.csv`, `arrays.npz`, `figures/`, `summary.md`.

    `draw(result, folder)` makes the figures. Raises `FileExistsError` where `folder` exists, unless
    `overwrite`.
    """
    with run_folder(result.config, folder, overwrite) as partial:
        write_twin(result, partial, draw)
    return folder


def write_twin(result: TwinResult, folder: Path, draw: Callable[[TwinResult, Path], None]) -> None:
    """Write the numbers, the words and the figures to a folder that is there."""
    _write_metrics(folder / "metrics.csv", result)
    np.savez_compressed(folder / "arrays.npz", allow_pickle=False, **_arrays(result))
    (folder / "summary.md").write_text(summary_markdown(result), encoding="utf-8")
    draw(result, folder / "figures")


def store_residuals(
    result: ResidualsResult,
    folder: Path,
    draw: Callable[[ResidualsResult, Path], None],
    overwrite: bool = False,
) -> Path:
    """Write `config.json`, `environment.json`, `residuals.csv` and `figures/`; as `store` otherwise."""
    with run_folder(result.config, folder, overwrite) as partial:
        _write_residuals(partial / "residuals.csv", result)
        draw(result, partial / "figures")
    return folder


def _write_metrics(path: Path, result: TwinResult) -> None:
    """One row a width, seed and time."""
    names = list(result.runs[0].metrics)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["width", "seed", "time", "deviation", *names])
        for run in result.runs:
            columns = [result.times, run.deviation, *(run.metrics[name] for name in names)]
            for row in zip(*columns, strict=True):
                writer.writerow([run.width, run.seed, *row])


def _write_residuals(path: Path, result: ResidualsResult) -> None:
    """One row a solver, scale, iteration and image."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["solver", "weight_scale", "iteration", "image", "relative_residual"])
        for solver, by_scale in result.relative.items():
            for scale, values in by_scale.items():
                for (step, image), value in np.ndenumerate(values):
                    writer.writerow([solver, scale, step + 1, image, value])


def _arrays(result: TwinResult) -> dict[str, np.ndarray]:
    """`u`, `uhat`, `f`, `fhat` (run, time, sample), `eigenvalues` (run, n), `width` and `seed` (run,)."""
    stacked = {
        name: np.stack([getattr(run, name) for run in result.runs])
        for name in ("u", "uhat", "f", "fhat", "eigenvalues", "width", "seed", "resolution")
    }
    data = {name: getattr(result.data, name) for name in ("y", "y_test", "perturbed")}
    return {"times": result.times, **stacked, **data}
