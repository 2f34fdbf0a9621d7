"""The tables of a sweep as files."""

import csv
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from implicit_ntk.experiments.sweep._exponents import Exponent
from implicit_ntk.experiments.sweep._rows import TYPES
from implicit_ntk.experiments.sweep._summary import SweepLaw, sweep_laws, sweep_markdown
from implicit_ntk.experiments.sweep._sweep import SweepResult


def write_sweep(result: SweepResult, folder: Path, draw: Callable[[SweepResult, Path], None]) -> None:
    """Write `sweep.csv` (a run a row), `exponents.csv`, `summary.md` and `figures/` to a run's folder.

    The coarser runs stand at the end of `sweep.csv`, with their tolerance.
    """
    rows = (dataclasses.astuple(row) for row in (*result.rows, *result.coarse))
    _write(folder / "sweep.csv", list(TYPES), rows)
    head = ["quantity", "gamma0", "widths", "exponent", "stderr", "low", "high", "p_value", "upper_bound"]
    _write(folder / "exponents.csv", head, _exponents(sweep_laws(result)))
    (folder / "summary.md").write_text(sweep_markdown(result), encoding="utf-8")
    draw(result, folder / "figures")


def _write(path: Path, head: list[str], lines: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)


def _exponents(laws: list[SweepLaw]) -> Iterable[list[Any]]:
    for law in laws:
        for found in filter(None, (law.all, law.widest)):
            yield [law.name, law.gamma0, *_numbers(found), law.quantity.bound]


def _numbers(found: Exponent) -> list[Any]:
    return [" ".join(map(str, found.widths)), *found.estimate, found.p_value]
