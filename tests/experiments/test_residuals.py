"""The residuals of the convolutional network: the numbers, the directory, the figure, the command."""

import csv
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from implicit_ntk.cli import main
from implicit_ntk.experiments import ResidualsConfig, run_residuals
from implicit_ntk.experiments._residuals import _network
from implicit_ntk.plotting import residuals_figure

SMALL = {"images": 2, "channels": 16, "inner_channels": 16, "stride": 4, "steps": 20}


@pytest.fixture(scope="module")
def result():
    return run_residuals(ResidualsConfig(**SMALL))


def test_small_filters_converge_and_large_ones_do_not(result):
    for name, by_scale in result.relative.items():
        assert set(by_scale) == {1.0, 0.01}
        assert by_scale[0.01].shape == (20, 2)
        assert by_scale[0.01][-1].max() < 0.3 * by_scale[0.01][1].max(), name
    assert np.all(result.relative["Anderson"][0.01][-1] < result.relative["Picard"][0.01][-1])


def test_steps_to_a_tolerance(result):
    values = result.relative["Picard"][0.01]
    tolerance = float(np.sort(values[:, 0])[3])
    steps = result.steps_to("Picard", 0.01, tolerance)
    assert values[int(steps[0]), 0] <= tolerance < values[int(steps[0]) - 1, 0]
    assert np.all(np.isinf(result.steps_to("Picard", 0.01, 0.0)))


def test_groups_reach_the_network():
    assert _network(ResidualsConfig(channels=4, inner_channels=4, groups=2), (4, 4, 1), 0.01).groups == 2


def test_figure(result):
    figure = residuals_figure(result)
    left, right = figure.axes
    assert left.get_yscale() == "log" and len(right.lines) == 3
    np.testing.assert_allclose(right.lines[0].get_ydata(), np.median(result.relative["Anderson"][0.01], 1))
    plt.close(figure)


def test_command(tmp_path, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    assert main(["residuals", "--out", str(tmp_path), "--name", "a", *flags]) == 0
    folder = tmp_path / "a"
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "environment.json", "residuals.csv", "figures"
    }  # fmt: skip
    assert json.loads((folder / "config.json").read_text())["images"] == 2
    with (folder / "residuals.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + 3 * 2 * 20 * 2
    assert (folder / "figures" / "residuals.pdf").exists()
    assert "Anderson" in capsys.readouterr().out
    assert main(["residuals", "--out", str(tmp_path), "--name", "a", *flags]) == 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images": 0}, "images must be a positive integer"),
        ({"weight_scales": ()}, "weight_scales must be positive"),
        ({"channels": 12}, r"groups must divide channels and inner_channels, \(12, 64\), got 8"),
        ({"groups": 5}, "groups must divide"),
        ({"groups": 0}, "groups must be a positive integer"),
        ({"images": 10**6}, "images must be at most"),
        ({"precision": "float64"}, 'precision="float64" needs'),
    ],
)
def test_bad_settings(bad, message):
    with pytest.raises(ValueError, match=message):
        run_residuals(ResidualsConfig(**bad))
