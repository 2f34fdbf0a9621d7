"""The figure of a kernel that was never formed: both ends of its spectrum, and its density."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_ntk.experiments import MatrixFreeResult
from implicit_ntk.plotting._style import panel_letter, style

COLOUR = "#31688e"
POINTS = {"color": COLOUR, "linestyle": "", "marker": "o", "markersize": 3}
MIDDLE = {"color": "0.45", "linestyle": (0, (3, 2)), "linewidth": 1.0, "label": "from their density"}


def matrix_free_figure(result: MatrixFreeResult) -> Figure:
    """The largest and the smallest eigenvalues by index, with their errors, and the density between them.

    Open circles are smaller than their errors. The line through the middle is where the density puts the
    eigenvalues; the band is two standard errors of the density over its probes.
    """
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(6.8, 2.8), layout="constrained")
        _ends(axes[0], result)
        _density(axes[1], result)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        return figure


def _ends(ax: Axes, result: MatrixFreeResult) -> None:
    top, low = result.largest, result.smallest
    between = (result.counts >= len(top.values)) & (result.counts <= result.size - len(low.values))
    ax.plot(result.counts[between], np.asarray(result.density.points)[between], **MIDDLE)
    indices = np.arange(1, len(top.values) + 1), result.size - np.arange(len(low.values))
    for index, found, label in zip(indices, (top, low), ("largest and smallest", None), strict=True):
        values, errors, resolved = (np.asarray(x) for x in (found.values, found.errors, found.resolved))
        # The axis has no place for an error that reaches zero.
        below = np.minimum(errors, 0.999 * np.abs(values))
        ax.errorbar(index, values, (below, errors), label=label, **POINTS)
        ax.plot(index[~resolved], values[~resolved], **POINTS, markerfacecolor="white")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(0.8, 1.25 * result.size)
    ax.set_xlabel("index $i$")
    panel_letter(ax, "a", r"eigenvalues $\lambda_i$ of $H$")


def _density(ax: Axes, result: MatrixFreeResult) -> None:
    found = result.density
    points, density, error = (np.asarray(x) for x in (found.points, found.density, 2 * found.stderr))
    ax.fill_between(points, np.maximum(density - error, 0), density + error, color="0.85", linewidth=0)
    ax.plot(points, density, color=COLOUR)
    ax.set_xscale("log")
    ax.set_xlim(points[0], points[-1])
    ax.set_ylim(bottom=0)
    ax.set_xlabel(r"$\lambda$")
    panel_letter(ax, "b", r"density of the eigenvalues in $\log\lambda$")
