"""The figure of the main experiment: the run and its linearised twin against time, by width."""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from implicit_ntk.experiments import TwinResult, TwinRun
from implicit_ntk.plotting._style import log_axis, panel_letter, style, width_colours

Curve = Callable[[TwinRun], Float[np.ndarray, " T"]]

DASHED = (0, (3, 2))

COLUMNS = 7
"""Of the legend."""

LIMIT = 1.09
"""Where `t = infinity` stands, in lengths of the axis up to the last finite time."""


def twin_figure(result: TwinResult) -> Figure:
    """Six panels: train loss, test loss, test error, deviation, that on unseen data, spectrum of `H(0)`.

    Lines are medians over the seeds, bands their extremes; dashed is the linearised twin. Beyond the last
    finite time stand the limits of the runs, full, and of their twins, open.
    """
    with style():
        figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.5), layout="constrained")
        a, b, c, d, e, f = axes.flat
        for ax in (a, b):
            ax.set_yscale("log")
        _against_time(a, result, _train_loss, _train_loss_twin)
        _log_y(a, "a", r"train loss  $\|u-y\|^2/2n$")
        _against_time(b, result, _test_loss, _test_loss_twin)
        _log_y(b, "b", "test loss")
        _against_time(c, result, _test_error, _test_error_twin)
        panel_letter(c, "c", "test error")
        c.set_ylim(bottom=0)
        c.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=r" %"))
        _against_time(d, result, lambda run: run.deviation)
        panel_letter(d, "d", r"$\|u-\hat u\|\,/\,\|y-u(0)\|$")
        d.set_ylim(bottom=0)
        _against_time(e, result, lambda run: run.unseen_deviation)
        panel_letter(e, "e", r"$\|f-\hat f\|\,/\,\|y-f(0)\|$, unseen data")
        e.set_ylim(bottom=0)
        _spectra(f, result)
        _legend(figure, result)
        return figure


def _against_time(ax: Axes, result: TwinResult, curve: Curve, twin: Curve | None = None) -> None:
    """A line and a band a width, from the first time after zero on.

    The axis of values is that of the network's: a twin's loss falls out of it without end.
    """
    for width, colour in width_colours(list(result.config.widths)).items():
        values = np.array([curve(run) for run in result.of_width(width)])
        _band(ax, result, values, colour)
        _line(ax, result, values, color=colour)
    low, high = ax.get_ylim()
    for width, colour in width_colours(list(result.config.widths)).items():
        if twin is not None:
            twins = np.array([twin(run) for run in result.of_width(width)])
            _line(ax, result, twins, color=colour, linestyle=DASHED, linewidth=1.0, markerfacecolor="white")
            high = max(high, float(np.median(twins, 0)[1]))
    if twin is not None:
        ax.set_ylim(low, high)
    _time_axis(ax, result)


def _band(ax: Axes, result: TwinResult, values: Float[np.ndarray, "seeds T"], colour: tuple) -> None:
    """Least and most over the seeds, at finite times and at infinity."""
    times, limit = _positions(result)
    finite = values[:, 1 : times.size + 1]
    ax.fill_between(times, finite.min(0), finite.max(0), color=colour, alpha=0.18, linewidth=0)
    reached = values[np.isfinite(values[:, -1]), -1]
    if limit is not None and reached.size:
        ax.vlines(limit, reached.min(), reached.max(), color=colour, alpha=0.35, linewidth=3)


def _line(ax: Axes, result: TwinResult, values: Float[np.ndarray, "seeds T"], **look: Any) -> None:
    """The median over the seeds, and that of the limits of those that reach theirs."""
    times, limit = _positions(result)
    marker = {"markerfacecolor": look.pop("markerfacecolor", look["color"]), "markersize": 3.5}
    ax.plot(times, np.median(values[:, 1 : times.size + 1], 0), **look)
    reached = values[np.isfinite(values[:, -1]), -1]
    if limit is not None and reached.size:
        clip = ax.get_yscale() == "log"  # where a twin's loss is off the axis
        ax.plot(limit, np.median(reached), "o", color=look["color"], clip_on=clip, zorder=3, **marker)


def _positions(result: TwinResult) -> tuple[Float[np.ndarray, " K"], float | None]:
    """The finite times after zero, and where infinity is drawn, if it is among them."""
    times = result.times[1:]
    if np.isfinite(times[-1]):
        return times, None
    times = times[:-1]
    return times, float(times[0] * (times[-1] / times[0]) ** LIMIT)


def _time_axis(ax: Axes, result: TwinResult) -> None:
    """Logarithmic; infinity has a tick of its own, beyond a line that says that the axis is cut there."""
    times, limit = _positions(result)
    ax.set_xscale("log")
    ax.set_xlabel("time $t$")
    ax.xaxis.set_minor_formatter(NullFormatter())
    if limit is None:
        ax.set_xlim(times[0], times[-1])
        return
    edge = limit**0.5 * times[-1] ** 0.5
    ax.set_xlim(times[0], limit * (limit / times[-1]) ** 0.5)
    powers = LogLocator(numticks=6).tick_values(times[0], times[-1])
    powers = [power for power in powers if times[0] <= power <= times[-1] / 2]
    ax.set_xticks([*powers, limit], [*(f"$10^{{{np.log10(power):.0f}}}$" for power in powers), r"$\infty$"])
    minor = LogLocator(subs=range(2, 10), numticks=99).tick_values(times[0], times[-1])
    ax.set_xticks(minor[(minor >= times[0]) & (minor <= times[-1])], minor=True)
    ax.axvline(edge, color="0.75", linewidth=0.6, linestyle=":")


def _log_y(ax: Axes, letter: str, title: str) -> None:
    log_axis(ax)
    panel_letter(ax, letter, title)


def _spectra(ax: Axes, result: TwinResult) -> None:
    """Eigenvalues in descending order, and the size below which they would be noise."""
    for width, colour in width_colours(list(result.config.widths)).items():
        spectra = np.array([run.eigenvalues[::-1] for run in result.of_width(width)])
        index = np.arange(1, spectra.shape[1] + 1)
        ax.plot(index, np.median(spectra, 0), color=colour)
    noise = max(run.resolution for run in result.runs)
    ax.axhline(noise, color="0.4", linewidth=0.8, linestyle=":")
    ax.annotate("not resolved below", (1, noise), (4, 2), textcoords="offset points", color="0.4", fontsize=7)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("index $i$")
    panel_letter(ax, "f", r"eigenvalues $\lambda_i$ of $H(0)$")


def _legend(figure: Figure, result: TwinResult) -> None:
    colours = width_colours(list(result.config.widths))
    handles = [Line2D([], [], color=colour, label=f"$m={width}$") for width, colour in colours.items()]
    handles += [
        Line2D([], [], color="0.3", label="network"),
        Line2D([], [], color="0.3", linestyle=DASHED, linewidth=1.0, label="linearised twin"),
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(len(handles), COLUMNS), frameon=False
    )


def _train_loss(run: TwinRun) -> Float[np.ndarray, " T"]:
    return run.metrics["loss"] / run.y.size


def _train_loss_twin(run: TwinRun) -> Float[np.ndarray, " T"]:
    return ((run.uhat - run.y) ** 2).mean(1) / 2


def _test_loss(run: TwinRun) -> Float[np.ndarray, " T"]:
    return run.metrics["test_loss"] / run.y_test.size


def _test_loss_twin(run: TwinRun) -> Float[np.ndarray, " T"]:
    return ((run.fhat - run.y_test) ** 2).mean(1) / 2


def _test_error(run: TwinRun) -> Float[np.ndarray, " T"]:
    return run.metrics["test_error"]


def _test_error_twin(run: TwinRun) -> Float[np.ndarray, " T"]:
    """As the network's: an output of exactly zero is half wrong, and one that is not known not known."""
    return np.heaviside(-run.fhat * run.y_test, 0.5).mean(1)
