"""Kernels over widths: how they are drawn, the laws fitted to them, the tables, the figure, the command."""

import csv
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.cli import main
from implicit_ntk.experiments import WidthsConfig, WidthsResult, run_widths, widths_markdown
from implicit_ntk.experiments.widths import _draws
from implicit_ntk.experiments.widths._draws import draw_blocks
from implicit_ntk.experiments.widths._initial import Concentration, distances
from implicit_ntk.experiments.widths._laws import Measured, inverse, power_law, to_infinity
from implicit_ntk.experiments.widths._moments import moments
from implicit_ntk.experiments.widths._monotone import collect, draw_monotone
from implicit_ntk.experiments.widths._rows import ROWS, gg22_identity
from implicit_ntk.experiments.widths._summary import plus_minus
from implicit_ntk.plotting import widths_figure

SMALL = {
    "rows": ("gg22-identity",),
    "widths": (6, 12),
    "seeds": 4,
    "angles": (0.0, 60.0),
    "edge_gammas": (0.6,),
    "samples": (),
    "monotonicities": (0.5, 2.0),
    "monotone_seeds": 3,
}
M = np.array([50.0, 100.0, 200.0, 400.0])


@pytest.fixture(scope="module")
def result() -> WidthsResult:
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    found = run_widths(WidthsConfig(**SMALL))
    jax.config.update("jax_disable_most_optimizations", before)
    return found


class TestDraws:
    def test_each_is_a_network_of_its_own_key(self, result: WidthsResult, key: jax.Array) -> None:
        """Whole batches or not; of the program that the fixture has compiled."""
        X = np.eye(2, dtype=np.float32)
        drawn = draw_blocks(gg22_identity, X, 6, 16, key, 0.4)["A"]
        assert drawn.dtype == np.float64 and drawn.shape == (16, 2, 2)
        keys = jax.random.split(key, (1, 16))[0]
        net = gg22_identity(keys[5], 6, jnp.float32(0.4))
        assert_allclose(drawn[5], ink.ntk(net, X), rtol=1e-4)
        assert len(np.unique(drawn[:, 0, 0])) == 16

    def test_batches_are_cut_to_what_was_asked_for(
        self, result: WidthsResult, key: jax.Array, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_draws, "TOGETHER", 16 * 36)
        drawn = draw_blocks(gg22_identity, np.eye(2, dtype=np.float32), 6, 20, key, 0.4)["A"]
        assert drawn.shape == (20, 2, 2)
        assert len(np.unique(drawn[:, 0, 0])) == 20

    def test_angles_of_monotone_networks(self, result: WidthsResult, key: jax.Array) -> None:
        """Every block over its power of m, averaged over the pairs of inputs at one angle."""
        found = draw_monotone(6, 0.5, 6, key, "float32")
        assert {name: values.shape for name, values in found.items()} == dict.fromkeys("ABUu", (6, 5))
        assert_allclose(found["U"][:, 2], 0, atol=1e-7)  # right angles
        assert np.all(found["u"][:, :1] > found["u"][:, 1:])
        corner = np.pi * np.arange(8) / 4
        X = np.stack([np.cos(corner), np.sin(corner)], axis=1).astype(np.float32)
        net = ink.MonotoneImplicit.init(jax.random.split(key, (1, 6))[0, 0], 2, 6, 0.5)
        blocks, cosines = ink.ntk_blocks(net, X), X @ X.T
        for name, power in (("A", 1), ("B", 1), ("U", 0), ("u", 1)):
            for k in (0, 1):
                pairs = np.isclose(cosines, np.cos(k * np.pi / 4), atol=1e-3)
                want = np.asarray(blocks[name])[pairs].mean() / 6**power
                assert_allclose(found[name][0, k], want, rtol=1e-3)


class TestMoments:
    def test_by_hand(self, rng: np.random.Generator) -> None:
        kernels, limit = 2 + rng.normal(size=(7, 2, 2)), np.array([[2.0, 1.0], [1.0, 3.0]])
        kernels[3, 0, 1] = np.nan
        found, kept = moments(kernels, limit, 10), kernels[[0, 1, 2, 4, 5, 6]]
        assert (found.draws, found.failed, found.width) == (7, 1, 10)
        assert_allclose(found.mean, kept.mean(0))
        assert_allclose(found.stderr, kept.std(0, ddof=1) / 6**0.5)
        assert_allclose(found.fluctuation.value, (kept.var(0, ddof=1).sum() / 15) ** 0.5)
        shares = [np.sum((H - limit) * limit) / 15 for H in kept]
        assert_allclose(found.bias, (np.mean(shares), np.std(shares, ddof=1) / 6**0.5))
        with pytest.raises(ValueError, match="1 of 2 networks of width 10 were solved"):
            moments(kernels[2:4], limit, 10)

    def test_error_of_the_fluctuation(self, rng: np.random.Generator) -> None:
        """It is the spread that repeating the experiment shows."""
        found = [moments(rng.normal(size=(60, 2, 2)), np.eye(2), 10).fluctuation for _ in range(200)]
        values, stderr = np.array(found).T
        assert_allclose(values.std(), stderr.mean(), rtol=0.15)
        assert_allclose(values.mean(), 2**0.5, rtol=0.02)


class TestLaws:
    def test_exact_numbers(self) -> None:
        errors = 0.01 * np.ones(4)
        assert_allclose(power_law(M, -3 * M**-0.5, errors).estimate.value, -0.5, rtol=1e-6)
        assert_allclose(to_infinity(M, 2 + 7 / M, errors).estimate.value, 2, rtol=1e-12)
        assert_allclose(inverse(M, 7 / M, errors).estimate.value, 7, rtol=1e-12)
        assert to_infinity(M, np.zeros(4), np.zeros(4)).estimate.value == 0

    @pytest.mark.parametrize("law", ["power_law", "to_infinity", "inverse"])
    def test_errors_are_those_of_repeating(self, law: str, rng: np.random.Generator) -> None:
        """Estimates scatter by the standard error about the truth, and p values are uniform."""
        errors = 0.02 * M**-0.5
        fit, truth, exact = {
            "power_law": (power_law, -0.5, M**-0.5),
            "to_infinity": (to_infinity, 2.0, 2 + 3 / M),
            "inverse": (inverse, 3.0, 3 / M),
        }[law]
        fits = [fit(M, exact + errors * rng.normal(size=4), errors) for _ in range(150)]
        pulls = [(found.estimate.value - truth) / found.estimate.stderr for found in fits]
        assert abs(np.mean(pulls)) < 0.3
        assert 0.8 < np.std(pulls) < 1.2
        assert 0.35 < np.mean([found.p_value for found in fits]) < 0.65

    def test_noise_is_no_law(self, rng: np.random.Generator) -> None:
        assert power_law(M, 0.1 * rng.normal(size=4), np.ones(4)).estimate.stderr > 0.5
        assert inverse(M, np.ones(4), 0.01 * np.ones(4)).p_value < 1e-6


def test_concentration(rng: np.random.Generator) -> None:
    """The constant is that with which 95% of the draws obey the bound."""
    distance = tuple(rng.random((2, 1000)) / m**0.5 for m in (100, 400))
    found = Concentration((100, 400), (4, 8), distance)
    assert_allclose(found.exponent.estimate.value, -0.5, atol=0.1)
    for k, m in enumerate((100, 400)):
        for j, n in enumerate((4, 8)):
            bound = found.constants[k, j] * n * np.sqrt(np.log(n / 0.05) / m)
            assert_allclose((distance[k][j] <= bound).mean(), 0.95, atol=0.002)


def test_plus_minus() -> None:
    assert plus_minus(Measured(-0.50712, 0.0312)) == "-0.507 ± 0.031"
    assert plus_minus(Measured(12.34, 3.21)) == "12.3 ± 3.2"
    assert plus_minus(Measured(1234.6, 56.0)) == "1235 ± 56"
    assert plus_minus(Measured(4.112e-4, 4.3e-6)) == "(4.112 ± 0.043)e-4"
    assert plus_minus(Measured(1.0, 0.0)) == "1"


class TestExperiment:
    def test_numbers(self, result: WidthsResult) -> None:
        """The limit is the package's, and narrower networks are drawn more often."""
        row = result.architectures["gg22-identity"]
        assert [(m.width, m.draws) for m in row.moments] == [(6, 16), (12, 4)]
        net = gg22_identity(jax.random.key(0), 4, jnp.float32(0.4))
        X = np.array([[1.0, 0.0], [0.5, 0.75**0.5]], np.float32)
        assert_allclose(row.limit, ink.infinite_width.ntk(net, X), rtol=1e-5)
        last = row.moments[-1]
        z = ((last.mean - row.limit) / last.stderr)[[0, 0, 1], [0, 1, 1]]
        assert_allclose(row.z, z)
        assert result.edge[0].gamma0 == 0.6 and result.edge[0].moments[0].draws == 8
        assert result.concentration is None and result.printed == ()
        assert result.monotone is not None
        assert result.monotone.draws == (6, 3) and result.monotone.failed == 0
        assert result.monotone.mean["A"].shape == (2, 2, 5)

    def test_summary(self, result: WidthsResult) -> None:
        text = widths_markdown(result)
        row = result.architectures["gg22-identity"]
        assert f"| {plus_minus(row.bias_constant.estimate)} |" in text
        assert f"| {row.z[1]:.2f} |" in text
        assert result.monotone is not None
        assert plus_minus(result.monotone.limit("A", 1, 3).estimate) in text
        assert "## Half-normal" not in text and "## Diagonal" not in text

    def test_figure(self, result: WidthsResult) -> None:
        figure = widths_figure(result)
        fluctuation, _, scores, monotone = figure.axes
        row = result.architectures["gg22-identity"]
        assert_allclose(fluctuation.lines[0].get_ydata(), [m.fluctuation.value for m in row.moments])
        assert any(np.array_equal(line.get_ydata(), row.z) for line in scores.lines)
        assert result.monotone is not None
        want = [result.monotone.limit("U", k, 0).estimate.value for k in range(2)]
        assert_allclose(monotone.lines[0].get_ydata(), want)
        plt.close(figure)

    def test_figure_hides_no_outlier(self, result: WidthsResult) -> None:
        row = result.architectures["gg22-identity"]
        far = dataclasses.replace(row.moments[-1], mean=row.limit + 9 * row.moments[-1].stderr)
        row = dataclasses.replace(row, moments=(row.moments[0], far))
        figure = widths_figure(dataclasses.replace(result, architectures={"gg22-identity": row}))
        assert figure.axes[2].get_ylim()[1] > 9
        plt.close(figure)

    def test_command(
        self,
        result: WidthsResult,
        tmp_path: Path,
        capsys: pytest.CaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What is asked for reaches the experiment, and what it found the directory."""
        asked = []
        monkeypatch.setattr("implicit_ntk.cli._widths.run_widths", lambda c, tell: asked.append(c) or result)
        flags = [
            "--widths",
            "6",
            "12",
            "--rows",
            "gll22",
            "--seeds",
            "9",
            "--out",
            str(tmp_path),
            "--name",
            "a",
        ]
        assert main(["widths", *flags]) == 0
        assert (asked[0].widths, asked[0].rows, asked[0].seeds) == ((6, 12), ("gll22",), 9)
        names = {path.name for path in (tmp_path / "a").iterdir()}
        tables = {"architectures.csv", "entries.csv", "monotone.csv"}
        assert names == {"config.json", "environment.json", "summary.md", "figures"} | tables
        with (tmp_path / "a" / "entries.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert len(lines) == 2 * 2 * 3
        assert float(lines[1]["limit"]) == result.architectures["gg22-identity"].limit[0, 1]
        with (tmp_path / "a" / "monotone.csv").open() as file:
            assert len(list(csv.reader(file))) == 1 + 4 * 2 * 2 * 5
        assert "GG22" in capsys.readouterr().out
        assert main(["widths", *flags]) == 2

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ({"seeds": 1}, "seeds must be at least 2"),
            ({"monotone_seeds": 0}, "monotone_seeds must be a positive integer"),
            ({"rows": ("gg23",)}, "rows must be one of"),
            ({"widths": (8, 4)}, "widths must be two or more, from narrow to wide"),
            ({"widths": (8,)}, "widths must be two or more"),
            ({"angles": ()}, "angles is empty"),
            ({"monotonicities": (0.0,)}, "monotonicities must be positive"),
            ({"gamma0": 1.0}, "gamma0 must lie between 0 and 1"),
            ({"precision": "float64"}, 'precision="float64" needs'),
        ],
    )
    def test_bad_settings(self, bad: dict, message: str, unchecked: None) -> None:
        with pytest.raises(ValueError, match=message):
            run_widths(WidthsConfig(**{**SMALL, **bad}))


@pytest.fixture(scope="module")
def found() -> WidthsResult:
    part = {"edge_gammas": (), "monotonicities": (), "samples": (4, 32)}
    return run_widths(WidthsConfig(widths=(250, 500, 1000), seeds=400, seed=1, **part))


def test_monotone_networks_that_were_not_solved() -> None:
    values = np.ones((3, 5))
    values[1:] = np.nan
    draws = [[dict.fromkeys("ABUu", values)]]
    with pytest.raises(ValueError, match="1 of 3 networks of width 8 were solved"):
        collect((0.5,), (8,), draws)


@pytest.mark.slow
class TestLimits:
    """Every row of the table of limits, at m = 1000.

    There are 70 entries, ten to a row that share their draws; as many independent ones would exceed three
    standard errors in one run of six. So it was with the first 64 draws of this seed (-3.5 in one entry of
    the second row); with the 400 taken now that score is -2.1, where a bias would have made it -8.
    """

    @pytest.mark.parametrize("name", list(ROWS))
    def test_entries(self, name: str, found: WidthsResult) -> None:
        row = found.architectures[name]
        assert row.z.size == 10 and row.moments[-1].failed == 0
        assert np.abs(row.z).max() < 3, row.z
        assert np.abs(row.z_at_infinity).max() < 3, row.z_at_infinity

    @pytest.mark.parametrize("name", list(ROWS))
    def test_fluctuation_falls_as_the_root_of_the_width(self, name: str, found: WidthsResult) -> None:
        law = found.architectures[name].law("fluctuation")
        assert abs(law.estimate.value + 0.5) < 3 * law.estimate.stderr
        assert law.estimate.stderr < 0.1

    def test_half_normal_and_diagonal(self, found: WidthsResult) -> None:
        """`gamma ||A||` as printed grows, half-normal H vanishes, diagonal H concentrates."""
        assert_allclose(found.printed_law.estimate.value, 0.5, atol=0.02)
        for law, power in ((found.vanishing, -1.0), (found.concentration.exponent, -0.5)):
            assert abs(law.estimate.value - power) < 3 * law.estimate.stderr < 0.3
        assert np.all(np.diff(found.concentration.constants, axis=1) < 0), "the bound's n is not too slow"


@pytest.mark.slow
def test_single_precision_is_enough(x64: None, key: jax.Array) -> None:
    """One network in both precisions: what float32 and its solver change is far below the fluctuation."""
    angles = np.deg2rad([0.0, 20.0, 75.0, 150.0])
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for row in ROWS.values():
        net = row.make(key, 250, jnp.float32(0.4))
        double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), net)
        H, single = ink.ntk(double, X), ink.ntk(net, X.astype(np.float32))
        assert np.linalg.norm(single - H) < 1e-4 * np.linalg.norm(H), row.title


@pytest.mark.slow
def test_distances_of_diagonal_networks(key: jax.Array) -> None:
    """The first n inputs of one draw are those of all its inputs."""
    found = distances(32, 3, (2, 5), 0.4, key, "float32")
    assert found.shape == (2, 3)
    assert_array_equal(found[0], distances(32, 3, (5, 2), 0.4, key, "float32")[1])
    assert np.all(found[0] < found[1])
