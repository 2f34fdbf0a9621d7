"""The figure of a sweep shows every seed, their means, the fitted powers and the proven one."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest

from implicit_ntk.data import TwoClass
from implicit_ntk.experiments import QUANTITIES, SweepConfig, SweepResult, SweepRow, sweep_laws
from implicit_ntk.experiments.sweep._rows import TYPES
from implicit_ntk.plotting import sweep_figure

WIDTHS, SCALES, SEEDS = (20, 40, 80), (0.2, 0.4), 3


def made_up_row(width: int, gamma0: float, seed: int) -> SweepRow:
    rng = np.random.default_rng([width, round(10 * gamma0), seed])
    others = {name: kind(1) for name, kind in TYPES.items()}
    values = {name: float(gamma0 * width**-0.3 * np.exp(rng.normal() / 5)) for name in QUANTITIES}
    return SweepRow(**(others | values | {"width": width, "gamma0": gamma0, "seed": seed}))


@pytest.fixture
def result() -> SweepResult:
    data = TwoClass(
        np.ones((6, 2)), np.ones(6), np.ones((4, 2)), np.ones(4), "mnist", (0, 1), "made up", np.arange(0)
    )
    config = SweepConfig(widths=WIDTHS, gamma0=SCALES, seeds=SEEDS)
    rows = tuple(made_up_row(*cell, seed) for cell in config.cells for seed in range(SEEDS))
    return SweepResult(config, data, rows, tuple(made_up_row(*cell, 0) for cell in config.cells))


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_each_quantity_has_a_panel_with_its_seeds_and_lines(result):
    figure = sweep_figure(result)
    for ax, name in zip(figure.axes, QUANTITIES, strict=False):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert QUANTITIES[name].symbol in ax.get_title(loc="left")
        seeds = [line for line in ax.get_lines() if line.get_marker() == "."]
        assert len(seeds) == len(WIDTHS) * len(SCALES)
        drawn = np.concatenate([line.get_ydata() for line in seeds])
        np.testing.assert_array_equal(np.sort(drawn), np.sort(result.array[name]))
        assert len(ax.containers) == len(SCALES)
        low, high = ax.get_ylim()
        assert (drawn > low).all() and (drawn < high).all()


def test_fitted_powers_are_drawn_and_stated(result):
    ax = sweep_figure(result).axes[0]
    laws = [law for law in sweep_laws(result) if law.name == "deviation"]
    solid = [line for line in ax.get_lines() if line.get_marker() == "None" and line.get_linestyle() == "-"]
    for law, line, text in zip(laws, solid, ax.texts, strict=True):
        slope = np.diff(np.log(line.get_ydata())) / np.diff(np.log(line.get_xdata()))
        np.testing.assert_allclose(slope, law.all.estimate.value)
        assert f"{law.all.estimate.value:.2f}" in text.get_text()


def test_the_proven_bound_is_broken_and_has_its_power(result):
    """Only where one is proven; nothing else is drawn that a reader could take for theory."""
    figure = sweep_figure(result)
    for ax, quantity in zip(figure.axes, QUANTITIES.values(), strict=False):
        guides = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
        assert len(guides) == (quantity.bound is not None)
        for guide in guides:
            slope = np.diff(np.log(guide.get_ydata())) / np.diff(np.log(guide.get_xdata()))
            np.testing.assert_allclose(slope, quantity.bound, atol=1e-12)


def test_single_width_and_runs_that_failed_can_be_drawn(result):
    one = dataclasses.replace(result.config, widths=(20,), gamma0=(0.2,))
    failed = tuple(dataclasses.replace(row, solved=False) for row in result.rows[:SEEDS])
    for rows in (result.rows[:SEEDS], failed):
        figure = sweep_figure(dataclasses.replace(result, config=one, rows=rows, coarse=result.coarse[:1]))
    figure.draw_without_rendering()


def test_stated_powers_stand_clear_of_the_data(result):
    config = dataclasses.replace(result.config, gamma0=(0.2, 0.4, 0.8))
    rows = tuple(made_up_row(*cell, seed) for cell in config.cells for seed in range(SEEDS))
    coarse = tuple(made_up_row(*cell, 0) for cell in config.cells)
    for ax in sweep_figure(SweepResult(config, result.data, rows, coarse)).axes[: len(QUANTITIES)]:
        highest = max(line.get_ydata().max() for line in ax.get_lines() if line.get_marker() == ".")
        _, height = (ax.transData + ax.transAxes.inverted()).transform((WIDTHS[0], highest))
        assert height < 0.98 - 0.13 * len(config.gamma0)


def test_legend_names_the_bound_only_where_it_is_drawn(result):
    two = dataclasses.replace(result.config, widths=WIDTHS[:2])
    for sweep, drawn in ((result, True), (dataclasses.replace(result, config=two), False)):
        names = [text.get_text() for text in sweep_figure(sweep).axes[-1].get_legend().get_texts()]
        assert ("slope of GG22's upper bound" in names) == drawn
