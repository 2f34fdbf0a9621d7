"""The figure of a sweep: each quantity against the width, its fitted power and that of a proven bound."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from implicit_ntk.experiments import QUANTITIES, SweepCell, SweepLaw, SweepResult, sweep_cells, sweep_laws
from implicit_ntk.plotting._style import log_axis, panel_letter, style

COLUMNS = 4
GUIDE: dict[str, Any] = {"color": "0.4", "linewidth": 0.9, "linestyle": (0, (4.0, 2.0))}
BESIDE = 1.035
"""Factor in width by which points are drawn apart."""
LINE = 0.13
"""Height of a line of text, as a share of a panel."""


def sweep_figure(result: SweepResult) -> Figure:
    """A panel a quantity: seeds, their geometric means with 95% intervals, fitted powers, the proven one."""
    cells, laws = sweep_cells(result), sweep_laws(result)
    with style():
        rows = -(-(len(QUANTITIES) + 1) // COLUMNS)
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(7.4, 2.35 * rows), layout="constrained")
        for letter, name, ax in zip("abcdefgh", QUANTITIES, axes.flat, strict=False):
            _panel(ax, result, name, cells, [law for law in laws if law.name == name])
            panel_letter(ax, letter, f"${QUANTITIES[name].symbol}$")
        for ax in axes.flat[len(QUANTITIES) :]:
            ax.axis("off")
        _legend(axes.flat[len(QUANTITIES)], laws, sorted(result.config.gamma0))
        return figure


def _panel(ax: Axes, result: SweepResult, name: str, cells: list[SweepCell], laws: list[SweepLaw]) -> None:
    ax.set_xscale("log")
    for index, (law, (colour, marker)) in enumerate(zip(laws, _looks(len(laws)), strict=True)):
        at_scale = [cell for cell in cells if cell.gamma0 == law.gamma0]
        for cell in at_scale:
            values = result.of_cell(cell.width, cell.gamma0, name)
            beside = cell.width * BESIDE ** np.linspace(1.5, 2.5, values.size)  # of the error bar
            ax.plot(beside, values, ".", color=colour, alpha=0.4, markersize=3.5, markeredgewidth=0)
        means, _, low, high = np.array([cell.geometric[name] for cell in at_scale]).T
        widths = np.array([cell.width for cell in at_scale]) * BESIDE ** -(index % 2)
        reach = (means - low, high - means)
        ax.errorbar(widths, means, reach, fmt=marker, color=colour, markersize=3.5, elinewidth=0.9)
        if law.all is not None:
            ax.plot(widths, law.all.at(widths), color=colour, linewidth=1.0)
    _axes(ax, sorted(result.config.widths), len(laws))
    _exponents(ax, laws)
    _guide(ax, name, laws)


def _axes(ax: Axes, widths: list[int], lines: int) -> None:
    """Room above for the exponents; a panel in which little changes spans a factor of four all the same."""
    low, high = np.log(ax.dataLim.intervaly if ax.dataLim.minposy < np.inf else (1.0, 1.0))
    room = max(0.0, np.log(4) - (high - low)) / 2
    ax.set_yscale("log")
    above = min(0.06 + LINE * lines, 0.6)  # a share of the axis
    head = above / (1 - above) * (high - low + 2 * room)
    ax.set_ylim(np.exp(low - room - 0.15), np.exp(high + room + head))
    log_axis(ax)
    ax.xaxis.set_major_locator(FixedLocator(widths[:: 1 + len(widths) // 6]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.tick_params(axis="x", labelsize=7)
    ax.set_xlabel("width $m$")


def _exponents(ax: Axes, laws: list[SweepLaw]) -> None:
    """The fitted powers, in the colours of their lines."""
    for index, (law, (colour, _)) in enumerate(zip(laws, _looks(len(laws)), strict=True)):
        if law.all is None:
            continue
        found = law.all.estimate
        text = rf"$m^{{{found.value:.2f}\,\pm\,{found.high - found.value:.2f}}}$"
        ax.text(0.98, 0.98 - LINE * index, text, color=colour, transform=ax.transAxes, ha="right", va="top")


def _guide(ax: Axes, name: str, laws: list[SweepLaw]) -> None:
    """The power of the proven bound, through the middle of the first fitted line: its height says nothing."""
    bound = QUANTITIES[name].bound
    law = next((law.all for law in laws if law.all is not None), None)
    if bound is None or law is None:
        return
    ends = np.array([law.widths[0], law.widths[-1]], float)
    ax.plot(ends, law.amplitude * (ends / law.middle) ** bound, **GUIDE)


def _legend(ax: Axes, laws: list[SweepLaw], scales: list[float]) -> None:
    handles = [
        Line2D(
            [], [], color=colour, marker=marker, label=rf"$\gamma_0={scale:g}$", markersize=3.5, linewidth=1.0
        )
        for scale, (colour, marker) in zip(scales, _looks(len(scales)), strict=True)
    ]
    handles.append(Line2D([], [], color="0.3", marker=".", alpha=0.4, linestyle="none", label="one seed"))
    if any(law.all is not None and law.quantity.bound is not None for law in laws):
        handles.append(Line2D([], [], label="slope of GG22's upper bound", **GUIDE))
    ax.legend(handles=handles, loc="center left", frameon=False, title="bars and ±: 95%, over seeds")


def _looks(count: int) -> list[tuple[tuple, str]]:
    """A colour and a marker a scale, distinct in grey as well."""
    positions = np.linspace(0.1, 0.75, count) if count > 1 else [0.35]
    return [(plt.get_cmap("viridis")(x), "os^vDPX"[i % 7]) for i, x in enumerate(positions)]
