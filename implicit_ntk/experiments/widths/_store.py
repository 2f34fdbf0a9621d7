"""The directory of a run over widths."""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from implicit_ntk.experiments._store import run_folder
from implicit_ntk.experiments.widths._initial import DELTA, Concentration
from implicit_ntk.experiments.widths._monotone import ANGLES, Monotone
from implicit_ntk.experiments.widths._summary import widths_markdown
from implicit_ntk.experiments.widths._widths import WidthsResult

Line = list[Any]


def store_widths(
    result: WidthsResult, folder: Path, draw: Callable[[WidthsResult, Path], None], overwrite: bool = False
) -> Path:
    """Write a table a part as csv, `summary.md` and `figures/`; as `store` otherwise."""
    with run_folder(result.config, folder, overwrite) as partial:
        measured = ["fluctuation", "stderr", "bias", "stderr"]
        head = ["architecture", "gamma0", "width", "draws", "failed", *measured]
        _write(partial / "architectures.csv", head, _architectures(result))
        head = ["architecture", "gamma0", "width", "i", "j", "limit", "mean", "stderr"]
        _write(partial / "entries.csv", head, _entries(result))
        if result.concentration is not None:
            head = ["width", "n", "mean_distance", f"quantile_{1 - DELTA:g}"]
            _write(partial / "concentration.csv", head, _concentration(result.concentration))
        if result.monotone is not None:
            head = ["block", "monotonicity", "width", "degrees", "mean", "stderr"]
            _write(partial / "monotone.csv", head, _monotone(result.monotone))
        (partial / "summary.md").write_text(widths_markdown(result), encoding="utf-8")
        draw(result, partial / "figures")
    return folder


def _write(path: Path, head: list[str], lines: Iterable[Line]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)


def _architectures(result: WidthsResult) -> Iterator[Line]:
    for row in (*result.architectures.values(), *result.edge):
        for m in row.moments:
            yield [row.title, row.gamma0, m.width, m.draws, m.failed, *m.fluctuation, *m.bias]


def _entries(result: WidthsResult) -> Iterator[Line]:
    for row in (*result.architectures.values(), *result.edge):
        for m in row.moments:
            for i, j in zip(*np.triu_indices(len(row.limit)), strict=True):
                yield [row.title, row.gamma0, m.width, i, j, row.limit[i, j], m.mean[i, j], m.stderr[i, j]]


def _concentration(found: Concentration) -> Iterator[Line]:
    for width, distance in zip(found.widths, found.distance, strict=True):
        for n, of in zip(found.samples, distance, strict=True):
            yield [width, n, of.mean(), np.quantile(of, 1 - DELTA)]


def _monotone(monotone: Monotone) -> Iterator[Line]:
    """Of the blocks over their powers of m."""
    for name, mean in monotone.mean.items():
        for (mu, width, angle), value in np.ndenumerate(mean):
            at = (monotone.monotonicities[mu], monotone.widths[width], ANGLES[angle])
            yield [name, *at, value, monotone.stderr[name][mu, width, angle]]
