"""A run's directory: everything, or nothing of that name."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from implicit_ntk.experiments._environment import environment
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
        _write_metrics(partial / "metrics.csv", result)
        np.savez_compressed(partial / "arrays.npz", allow_pickle=False, **_arrays(result))
        (partial / "summary.md").write_text(summary_markdown(result), encoding="utf-8")
        draw(result, partial / "figures")
    return folder


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


@contextmanager
def run_folder(config: Any, folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder beside `folder` to write a run to, with what every run leaves; renamed when complete.

    Nothing is left of it where what is done in it fails or is stopped. Raises as `check_free`.
    """
    check_free(folder, overwrite)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "figures").mkdir(parents=True)
        _write_json(partial / "config.json", dataclasses.asdict(config))
        _write_json(partial / "environment.json", environment())
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise `FileExistsError` where a run of that name stands and may not be replaced."""
    if folder.exists() and not overwrite:
        raise FileExistsError(f"name: {folder} exists; pass another --name, or --overwrite")


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


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
