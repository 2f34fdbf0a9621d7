"""The look that all figures share."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

_SETTINGS: dict[Any, Any] = {
    "font.family": "serif",
    "font.serif": ["STIXGeneral"],
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.4,
    "figure.dpi": 120,
    "savefig.dpi": 220,
    "pdf.fonttype": 42,
}


def style() -> AbstractContextManager[None]:
    """A context in which matplotlib draws as this package's figures are drawn."""
    return mpl.rc_context(_SETTINGS)


def width_colours(widths: list[int]) -> dict[int, tuple]:
    """A colour a width, from light to dark, distinct in grey as well."""
    positions = np.linspace(0.78, 0.12, len(widths)) if len(widths) > 1 else [0.35]
    return {m: plt.get_cmap("viridis")(x) for m, x in zip(sorted(widths), positions, strict=True)}


def panel_letter(ax: Axes, letter: str, title: str) -> None:
    """A bold letter and what the panel shows, above it on the left."""
    ax.set_title(rf"$\mathbf{{{letter}}}$  {title}", loc="left")


def log_axis(ax: Axes) -> None:
    """A logarithmic y axis that is labelled at powers of ten, or where it spans few, at 1 and 3."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    subs = (1.0,) if high / low > 50 else (1.0, 3.0)
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_minor_formatter(NullFormatter())


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name.png` and `name.pdf`, the latter without a date, and close the figure."""
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    with style():  # fonts are looked up when a figure is drawn, not when it is made
        figure.savefig(paths[0])
        figure.savefig(paths[1], metadata={"CreationDate": None})
    plt.close(figure)
    return paths
