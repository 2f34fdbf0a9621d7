"""Figures are drawn from results alone, show what they say, and are written in both formats."""

import dataclasses

import numpy as np
import pytest

from implicit_ntk.data import TwoClass
from implicit_ntk.experiments import TwinConfig, TwinResult, TwinRun
from implicit_ntk.plotting import save_figure, twin_figure

WIDTHS = (20, 30)


def made_up_run(width: int, seed: int) -> TwinRun:
    rng = np.random.default_rng([width, seed])
    T, n, q = 5, 6, 4
    names = ("loss", "test_loss", "test_error", "contraction", "integrator_error")
    return TwinRun(
        width=width,
        seed=seed,
        y=np.ones(n),
        y_test=np.ones(q),
        u=rng.random((T, n)),
        uhat=rng.random((T, n)),
        f=rng.random((T, q)),
        fhat=rng.random((T, q)),
        eigenvalues=np.sort(rng.random(n)),
        resolution=1e-3,
        metrics={name: rng.random(T) + 0.1 for name in names},
    )


@pytest.fixture
def result() -> TwinResult:
    data = TwoClass(
        np.ones((6, 2)), np.ones(6), np.ones((4, 2)), np.ones(4), "mnist", (0, 1), "made up", np.arange(0)
    )
    runs = tuple(made_up_run(width, seed) for width in WIDTHS for seed in range(3))
    times = np.concatenate([[0], np.geomspace(0.1, 10, 4)])
    return TwinResult(TwinConfig(widths=WIDTHS), times, data, runs)


def test_lines_are_medians_over_seeds(result):
    figure = twin_figure(result)
    for panel, name in ((figure.axes[3], "deviation"), (figure.axes[4], "unseen_deviation")):
        for width, line in zip(WIDTHS, panel.get_lines(), strict=True):
            median = np.median([getattr(run, name) for run in result.of_width(width)], axis=0)
            np.testing.assert_allclose(line.get_ydata(), median[1:])


def test_limits_stand_beyond_the_last_finite_time(result):
    """A full point a network, an open one a twin, a seed that does not reach its limit left out."""
    times = np.append(result.times[:-1], np.inf)
    lost = dataclasses.replace(result.runs[0], f=np.append(result.runs[0].f[:-1], [np.full(4, np.nan)], 0))
    figure = twin_figure(dataclasses.replace(result, times=times, runs=(lost, *result.runs[1:])))
    panel = figure.axes[4]
    assert panel.get_xticklabels()[-1].get_text() == r"$\infty$"
    points = [line for line in panel.get_lines() if line.get_marker() == "o"]
    reached = [run.unseen_deviation[-1] for run in result.runs[1:3]]
    (limit,) = points[0].get_xdata()
    assert times[-2] < limit < panel.get_xlim()[1]
    np.testing.assert_allclose(points[0].get_ydata(), np.median(reached))
    faces = [line.get_markerfacecolor() for line in figure.axes[1].get_lines() if line.get_marker() == "o"]
    assert faces[2:] == ["white", "white"] and "white" not in faces[:2]


def test_a_twin_without_a_limit_has_no_point_there(result):
    """Its sign is no error of a hundred percent."""
    times = np.append(result.times[:-1], np.inf)
    runs = [
        dataclasses.replace(run, fhat=np.append(run.fhat[:-1], [np.full(4, np.nan)], 0))
        for run in result.runs
    ]
    panel = twin_figure(dataclasses.replace(result, times=times, runs=tuple(runs))).axes[2]
    assert len([line for line in panel.get_lines() if line.get_marker() == "o"]) == len(WIDTHS)


def test_twin_is_dashed_beside_the_network(result):
    figure = twin_figure(result)
    for panel in figure.axes[:3]:
        solid, dashed = panel.get_lines()[0], panel.get_lines()[len(WIDTHS)]
        assert solid.get_linestyle() == "-" and dashed.get_linestyle() == "--"
    twin = np.median([((r.uhat - r.y) ** 2).mean(1) / 2 for r in result.of_width(WIDTHS[0])], axis=0)
    np.testing.assert_allclose(figure.axes[0].get_lines()[len(WIDTHS)].get_ydata(), twin[1:])


def test_every_panel_has_a_letter_and_the_legend_every_width(result):
    figure = twin_figure(result)
    letters = [ax.get_title(loc="left") for ax in figure.axes]
    assert [f"mathbf{{{letter}}}" in title for letter, title in zip("abcdef", letters, strict=True)] == [
        True
    ] * 6
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["$m=20$", "$m=30$", "network", "linearised twin"]


def test_single_width_and_seed_can_be_drawn(result):
    config = dataclasses.replace(result.config, widths=(20,))
    one = dataclasses.replace(result, config=config, runs=result.runs[:1])
    assert len(twin_figure(one).axes) == 6


def test_both_formats_are_written_and_the_pdf_has_no_date(result, tmp_path):
    png, pdf = save_figure(twin_figure(result), tmp_path, "twin")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in pdf.read_bytes()
