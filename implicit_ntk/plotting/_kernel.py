"""The figure of a kernel: its eigenvalues, and where the targets lie among its eigenvectors."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from implicit_ntk.experiments import Eigen, KernelResult, Limit
from implicit_ntk.plotting._style import panel_letter, style

NETWORK = {"color": "#31688e", "label": "network"}
LIMIT = {"color": "0.15", "linestyle": (0, (3, 2)), "linewidth": 1.0, "label": "infinite width"}
NOISE = "0.9"


def kernel_figure(result: KernelResult) -> Figure:
    """Eigenvalues by index, and the share of `||y||^2` in the span of the top eigenvectors.

    Dashed is the limit kernel, where one is known; shaded is what dtype and solver do not resolve. Without
    targets there is the first panel alone. Raises `ValueError` for a kernel that was not decomposed.
    """
    if result.eigen is None:
        raise ValueError("result has no eigenvalues to draw; run it with decomposed=True")
    panels = 1 if result.eigen.aligned is None else 2
    with style():
        figure, axes = plt.subplots(
            1, panels, figsize=(0.6 + 3.1 * panels, 2.8), layout="constrained", squeeze=False
        )
        _spectrum(axes[0, 0], result.eigen, result.limit)
        if panels == 2:
            _cumulative(axes[0, 1], result.eigen, result.limit)
        handles, labels = axes[0, -1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        return figure


def _spectrum(ax: Axes, eigen: Eigen, limit: Limit | str) -> None:
    """Descending; those that are not positive have no place on the axis, and are noise in any case."""
    for found, look in _curves(eigen, limit):
        values = found.descending
        index = np.arange(1, values.size + 1)
        ax.plot(index[values > 0], values[values > 0], **look)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(1, max(eigen.spectrum.eigenvalues.size, 2))
    resolution = float(eigen.spectrum.resolution)
    low = min(ax.get_ylim()[0], resolution / 3)
    ax.axhspan(low, resolution, color=NOISE, linewidth=0, zorder=0)
    ax.set_ylim(bottom=low)
    ax.annotate(
        "not resolved",
        (1, resolution),
        (4, -3),
        textcoords="offset points",
        va="top",
        color="0.35",
        fontsize=7,
    )
    ax.set_xlabel("index $i$")
    panel_letter(ax, "a", r"eigenvalues $\lambda_i$ of $H$")


def _cumulative(ax: Axes, eigen: Eigen, limit: Limit | str) -> None:
    """Beside `k / N`, which targets show that prefer no direction."""
    size = eigen.spectrum.eigenvalues.size
    index = np.arange(1, size + 1)
    for found, look in _curves(eigen, limit):
        if found.aligned is not None:
            ax.plot(index, found.aligned.cumulative, **look)
    ax.plot(index, index / size, color="0.55", linewidth=0.8, linestyle=":", label="no alignment")
    ax.set_xscale("log")
    ax.set_xlim(1, max(size, 2))
    ax.set_ylim(0, 1.02)
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=r" %"))
    rank = int(eigen.spectrum.rank)
    if rank < size:
        ax.axvspan(rank + 1, size, color=NOISE, linewidth=0, zorder=0)
    ax.set_xlabel("number of eigenvectors $k$")
    panel_letter(ax, "b", r"share of $\|y\|^2$ along the top $k$")


def _curves(eigen: Eigen, limit: Limit | str) -> list[tuple[Eigen, dict]]:
    return [(eigen, NETWORK)] + ([(limit.eigen, LIMIT)] if isinstance(limit, Limit) else [])
