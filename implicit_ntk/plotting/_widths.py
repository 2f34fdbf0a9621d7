"""The figure of the widths: how kernels come close to their limits, and where monotone ones go."""

from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from implicit_ntk.experiments import Architecture, Monotone, WidthsResult
from implicit_ntk.plotting._style import log_axis, panel_letter, style

MARKERS = "os^vDPX"
BLOCKS = {"U": ("o", r"$K_U$"), "u": ("s", r"$K_u/m$"), "B": ("^", r"$K_B/m$"), "A": ("D", r"$K_A/m$")}
RESOLVED = 2.0
"""Standard errors from which on a bias is drawn filled."""


def widths_figure(result: WidthsResult) -> Figure:
    """Fluctuation, bias and z scores where the limit is known; the blocks of monotone networks.

    Error bars are one standard error. A panel whose part was left out is empty.
    """
    rows = list(result.architectures.values())
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(6.8, 5.8), layout="constrained")
        _fluctuations(axes[0, 0], rows)
        _biases(axes[0, 1], rows)
        _scores(axes[1, 0], rows, result.config.widths[-1])
        if result.monotone is not None:
            _monotone(axes[1, 1], result.monotone)
        titles = (
            "fluctuation of a draw",
            "bias of the mean",
            f"entries at $m={result.config.widths[-1]}$",
            "monotone networks",
        )
        for ax, letter, title in zip(axes.flat, "abcd", titles, strict=True):
            panel_letter(ax, letter, title)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        return figure


def _look(index: int, count: int) -> dict:
    """A colour and a marker a row, distinct in grey as well."""
    colour = plt.get_cmap("viridis")(0.85 * index / max(1, count - 1))
    return {"color": colour, "marker": MARKERS[index % len(MARKERS)], "markersize": 4}


def _fluctuations(ax: Axes, rows: list[Architecture]) -> None:
    for index, row in enumerate(rows):
        values, stderr = np.array([m.fluctuation for m in row.moments]).T
        ax.errorbar(row.widths, values, stderr, label=row.title, linewidth=1, **_look(index, len(rows)))
    ax.set_ylabel(r"$(\mathbf{E}\|H-\mathbf{E}H\|_F^2)^{1/2}\,/\,\|H_\infty\|_F$")
    _over_widths(ax, rows, -0.5, r"$m^{-1/2}$")


def _biases(ax: Axes, rows: list[Architecture]) -> None:
    for index, row in enumerate(rows):
        values, stderr = np.array([m.bias for m in row.moments]).T
        resolved = np.abs(values) > RESOLVED * stderr
        look = {**_look(index, len(rows)), "linestyle": "none", "elinewidth": 0.8}
        shift = row.widths * 1.03 ** (index - len(rows) // 2)  # apart, so that error bars can be read
        for keep, face in ((resolved, None), (~resolved, "white")):
            ax.errorbar(shift[keep], np.abs(values[keep]), stderr[keep], **look, markerfacecolor=face)
    ax.set_ylabel(r"$|\langle\mathbf{E}H-H_\infty, H_\infty\rangle|\,/\,\|H_\infty\|_F^2$")
    _over_widths(ax, rows, -1.0, "$m^{-1}$")


def _over_widths(ax: Axes, rows: list[Architecture], power: float, label: str) -> None:
    """Logarithmic axes, and a guide of the power above the data."""
    ax.set(xscale="log", yscale="log", xlabel="width $m$")
    if not rows:
        return
    widths = rows[0].widths
    name = "fluctuation" if power == -0.5 else "bias"
    first = 1.35 * max(abs(getattr(row.moments[0], name).value) for row in rows)
    guide = first * (widths / widths[0]) ** power
    ax.plot(widths, guide, color="0.3", linestyle="--", linewidth=0.8)
    ax.annotate(label, (widths[-1], guide[-1]), xytext=(3, 0), textcoords="offset points", va="center")
    ax.set_ylim(bottom=guide[-1] / (4 if power == -0.5 else 20))
    log_axis(ax)
    ax.xaxis.set_major_locator(FixedLocator(list(widths)))
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_locator(NullLocator())


def _scores(ax: Axes, rows: list[Architecture], width: int) -> None:
    ax.axhspan(-1, 1, color="0.92", linewidth=0)
    for edge in (-3, 3):
        ax.axhline(edge, color="0.3", linestyle="--", linewidth=0.8)
    for index, row in enumerate(rows):
        look = _look(index, len(rows))
        spread = np.linspace(-0.25, 0.25, row.z.size)
        ax.plot(index + spread, row.z, linestyle="none", alpha=0.9, **look)
    names = ["\n".join(fill(part, 9) for part in row.title.split(", ")) for row in rows]
    ax.set_xticks(range(len(rows)), names, fontsize=6)
    ax.set_ylabel("(mean $-$ limit) / standard error")
    z = np.concatenate([np.zeros(1), *(row.z for row in rows)])
    reach = max(4.2, 1.1 * np.abs(z[np.isfinite(z)]).max())
    ax.set_ylim(-reach, reach)


def _monotone(ax: Axes, monotone: Monotone) -> None:
    """One input, at infinite width; lines join what was measured."""
    for index, (name, (marker, label)) in enumerate(BLOCKS.items()):
        found = [monotone.limit(name, mu, 0).estimate for mu in range(len(monotone.monotonicities))]
        values, stderr = np.array(found).T
        look = {**_look(index, len(BLOCKS)), "marker": marker}
        if index == 0:  # K_U and K_u/m of one input coincide
            look |= {"markersize": 8, "markerfacecolor": "none"}
        ax.errorbar(monotone.monotonicities, values, stderr, linewidth=1, label=label, **look)
    ax.set(xscale="log", yscale="log", xlabel=r"monotonicity $\mu$")
    ax.set_ylabel(r"kernel of one unit input, $m\to\infty$")
    ax.xaxis.set_major_locator(FixedLocator(list(monotone.monotonicities)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(frameon=False)
