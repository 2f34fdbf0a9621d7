"""The figure of the main experiment: the run and its linearised twin against time, by width."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from implicit_ntk.experiments import TwinResult, TwinRun
from implicit_ntk.plotting._style import log_axis, panel_letter, style, width_colours

Curve = Callable[[TwinRun], Float[np.ndarray, " T"]]


def twin_figure(result: TwinResult) -> Figure:
    """Six panels: train loss, test loss, test error, deviation, `gamma ||A||`, spectrum of `H(0)`.

    Lines are medians over the seeds, bands their extremes; dashed is the linearised twin.
    """
    with style():
        figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.5), layout="constrained")
        a, b, c, d, e, f = axes.flat
        _against_time(a, result, _train_loss, _train_loss_twin)
        _log_y(a, "a", r"train loss  $\|u-y\|^2/2n$")
        _against_time(b, result, _test_loss, _test_loss_twin)
        _log_y(b, "b", "test loss")
        _against_time(c, result, _test_error, _test_error_twin)
        panel_letter(c, "c", "test error")
        c.set_ylim(bottom=0)
        c.yaxis.set_major_formatter(PercentFormatter(1, symbol=r" %"))
        _against_time(d, result, lambda run: run.deviation)
        panel_letter(d, "d", r"$\|u-\hat u\|\,/\,\|y-u(0)\|$")
        d.set_ylim(bottom=0)
        _against_time(e, result, lambda run: run.metrics["contraction"])
        panel_letter(e, "e", r"$\gamma\,\|A(t)\|$  (certified below 1)")
        _spectra(f, result)
        _legend(figure, result)
        return figure


def _against_time(ax: Axes, result: TwinResult, curve: Curve, twin: Curve | None = None) -> None:
    """A line and a band a width; t = 0 stands at the left edge of the logarithmic axis."""
    times = result.times[1:]
    for width, colour in width_colours(list(result.config.widths)).items():
        values = np.array([curve(run)[1:] for run in result.of_width(width)])
        ax.fill_between(times, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
        ax.plot(times, np.median(values, 0), color=colour)
        if twin is not None:
            twins = np.array([twin(run)[1:] for run in result.of_width(width)])
            ax.plot(times, np.median(twins, 0), color=colour, linestyle=(0, (3, 2)), linewidth=1.0)
    ax.set_xscale("log")
    ax.set_xlim(times[0], times[-1])
    ax.set_xlabel("time $t$")


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
        Line2D([], [], color="0.3", linestyle=(0, (3, 2)), linewidth=1.0, label="linearised twin"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)


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
    return (np.sign(run.fhat) != np.sign(run.y_test)).mean(1)
