"""The figure of the residuals: by iteration, a panel a scale of the filters."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from implicit_ntk.experiments import ResidualsResult
from implicit_ntk.plotting._style import panel_letter, style

LINES = {
    "Anderson": ("#31688e", "-"),
    "Broyden": ("#35b779", (0, (5, 1.5))),
    "Picard": ("0.45", (0, (1.5, 1.2))),
}


def residuals_figure(result: ResidualsResult) -> Figure:
    """`||f(z) - z|| / ||f(z)||` against the iteration; lines are medians over the images, bands extremes."""
    scales = result.config.weight_scales
    with style():
        figure, axes = plt.subplots(
            1,
            len(scales),
            figsize=(1.2 + 3.0 * len(scales), 2.7),
            layout="constrained",
            sharey=True,
            squeeze=False,
        )
        for letter, ax, scale in zip("abcdefgh", axes[0], scales, strict=False):
            _curves(ax, result, scale)
            panel_letter(ax, letter, rf"filters of standard deviation {scale:g}")
        axes[0, 0].set_ylabel(r"$\|f(z)-z\|\,/\,\|f(z)\|$")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        return figure


def _curves(ax: Axes, result: ResidualsResult, scale: float) -> None:
    for name, by_scale in result.relative.items():
        values = np.maximum(by_scale[scale], np.finfo(by_scale[scale].dtype).eps / 8)
        iterations = np.arange(1, len(values) + 1)
        colour, dashes = LINES[name]
        ax.fill_between(iterations, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0)
        ax.plot(iterations, np.median(values, 1), color=colour, linestyle=dashes, label=name)
    ax.set_yscale("log")
    ax.set_xlim(1, result.config.steps)
    ax.set_xlabel("iteration")
