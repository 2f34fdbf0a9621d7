"""Sweeps: exponents of a known law, runs against runs of their own, what is kept, stored and printed."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import implicit_ntk as ink
from implicit_ntk._working_set import SLACK, working_set
from implicit_ntk.cli import main
from implicit_ntk.experiments import (
    QUANTITIES,
    SweepConfig,
    SweepResult,
    fit_exponent,
    run_sweep,
    sweep_cells,
    sweep_findings,
    sweep_laws,
    sweep_markdown,
    write_sweep,
)
from implicit_ntk.experiments.sweep import _sweep
from implicit_ntk.experiments.sweep._exponents import geometric_interval, mean_interval
from implicit_ntk.experiments.sweep._measure import Samples, key_of, measure
from implicit_ntk.experiments.sweep._rows import TYPES
from implicit_ntk.experiments.sweep._together import bytes_of_run, seeds_together

SMALL = SweepConfig(
    widths=(32,),
    gamma0=(0.4, 0.2),
    seeds=2,
    n_train=6,
    n_test=4,
    activation="tanh",
    injection_activation="tanh",
    records=6,
    together=3,
    precision="float64",
)
FLAGS = ["sweep", "--widths", "32", "--gamma0", "0.4", "0.2", "--seeds", "2", "--n-train", "6"]
FLAGS += ["--n-test", "4", "--activation", "tanh", "--injection-activation", "tanh"]
FLAGS += ["--records", "6", "--together", "3", "--precision", "float64"]
WIDTHS = (50, 100, 200, 400, 800)


@pytest.fixture(scope="module")
def strict() -> Iterator[None]:
    """float64, compiled quickly."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def result(strict: None, kept: Path) -> SweepResult:
    """One program for all tests of this file."""
    return run_sweep(SMALL, checkpoints=kept)


def drawn(rng: np.random.Generator, power: float, seeds: int = 5) -> list[np.ndarray]:
    """`3 m^power` with noise, the wider the less."""
    noise = [np.exp(rng.standard_normal(seeds) * 2 / m**0.5) for m in WIDTHS]
    return [3 * m**power * of for m, of in zip(WIDTHS, noise, strict=True)]


class TestExponents:
    def test_is_the_slope_of_the_logarithms(self, rng: np.random.Generator) -> None:
        draws = drawn(rng, -0.5)
        x, y = np.repeat(np.log(WIDTHS), 5), np.log(np.concatenate(draws))
        line = stats.linregress(x, y)
        law = fit_exponent(WIDTHS, draws)
        assert_allclose(law.estimate.value, line.slope)
        assert_allclose(np.log(law.at(np.array(WIDTHS, float))), line.intercept + line.slope * np.log(WIDTHS))

    def test_interval_covers_the_truth_as_often_as_it_says(self, rng: np.random.Generator) -> None:
        found = [fit_exponent(WIDTHS, drawn(rng, -0.5)).estimate for _ in range(800)]
        assert np.mean([one.low <= -0.5 <= one.high for one in found]) == pytest.approx(0.95, abs=0.025)

    def test_three_widths_have_the_interval_of_welch(self, rng: np.random.Generator) -> None:
        """In geometric progression: a difference of means, whose unequal variances SciPy knows."""
        narrow, middle, wide = rng.normal(0, 1, 4), rng.normal(1, 2, 3), rng.normal(2, 0.1, 6)
        low, high = stats.ttest_ind(wide, narrow, equal_var=False).confidence_interval(0.95)
        found = fit_exponent((100, 300, 900), [np.exp(narrow), np.exp(middle), np.exp(wide)])
        assert_allclose(found.estimate[2:], np.array([low, high]) / np.log(9))

    def test_values_that_do_not_scatter_say_nothing_of_the_law(self) -> None:
        found = fit_exponent((1, 2, 4), [np.full(3, 1.0), np.full(3, 0.5), np.full(3, 0.25)])
        assert found.estimate.value == pytest.approx(-1) and np.isnan(found.p_value)

    def test_bent_law_is_told_from_a_power(self, rng: np.random.Generator) -> None:
        p_values = np.array([fit_exponent(WIDTHS, drawn(rng, -0.5)).p_value for _ in range(800)])
        assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.03)
        bent = [values + 0.5 for values in drawn(rng, -0.5, seeds=40)]
        assert fit_exponent(WIDTHS, bent).p_value < 1e-3

    def test_failed_runs_are_left_out(self, rng: np.random.Generator) -> None:
        draws = drawn(rng, -0.5)
        spoilt = [
            np.append(values, bad) for values, bad in zip(draws, [np.nan, 0, -1, np.inf, np.nan], strict=True)
        ]
        assert fit_exponent(WIDTHS, spoilt) == fit_exponent(WIDTHS, draws)
        assert fit_exponent(WIDTHS, [*draws[:4], draws[4][:1]]).widths == WIDTHS[:4]
        assert fit_exponent(WIDTHS[:2], draws[:2]) is None

    def test_intervals_of_means_are_those_of_scipy(self, rng: np.random.Generator) -> None:
        values = rng.lognormal(size=5)
        for found, of in ((mean_interval(values), values), (geometric_interval(values), np.log(values))):
            want = stats.t.interval(0.95, 4, of.mean(), stats.sem(of))
            assert_allclose(found[2:], want if of is values else np.exp(want))
        assert np.isnan(mean_interval(values[:1])).all()


class TestRuns:
    def test_table_is_complete(self, result: SweepResult) -> None:
        cells = [(row.width, row.gamma0, row.seed) for row in result.rows]
        assert cells == [(32, gamma0, seed) for gamma0 in (0.2, 0.4) for seed in (0, 1)]
        assert [(row.gamma0, row.seed) for row in result.coarse] == [(0.2, 0), (0.4, 0)]
        assert {row.step_rtol for row in result.coarse} == {1e-2}
        for row in (*result.rows, *result.coarse):
            assert row.solved and row.resolved and row.end == np.inf
            assert np.isfinite([getattr(row, name) for name in TYPES if name != "end"]).all()
            assert row.loss < 1e-12 and row.steps > 0
        assert result.array.shape == (4,) and result.array["width"].dtype == int
        assert_array_equal(result.of_cell(32, 0.4, "deviation"), [row.deviation for row in result.rows[2:]])

    def test_seeds_together_are_seeds_alone(self, result: SweepResult) -> None:
        """Through the public functions, one network, nothing batched."""
        row = result.rows[3]
        X, y, X_test = result.data.X, result.data.y, result.data.X_test
        net = ink.ReluImplicit.init(key_of(SMALL, 32, 1), 784, 32, 0.4, "tanh", "tanh", dtype="float64")
        net, H = ink.Centred(net), ink.ntk(net, X)
        lam = np.linalg.eigvalsh(H)
        times = [0.0, *np.geomspace(1 / lam[-1], 20 / lam[0], 4), np.inf]
        traj = ink.gradient_flow(
            net, X, y, times, ink.Exponential(jnp.asarray(1e-3)), X_test, result.data.y_test
        )
        lin = ink.linearized_flow(H, jnp.zeros(6), y)
        fhat = lin.at(traj.times, ink.ntk(net, X_test, X), jnp.zeros(4))
        unseen = np.sqrt(np.mean((traj.f - fhat) ** 2, axis=1))
        drift, moved = ink.ntk(traj.net, X) - H, traj.net.net.A - net.net.A
        assert row.steps == traj.steps
        want = {
            "deviation": np.linalg.norm(traj.u - lin(traj.times), axis=1).max(),
            "unseen_deviation": unseen.max(),
            "limit_deviation": unseen[-1],
            "drift_operator": np.linalg.norm(drift, 2),
            "drift_frobenius": np.linalg.norm(drift),
            "distance": traj.metrics["distance_A"].max(),
            "distance_operator": np.linalg.norm(moved, 2),
            "lambda_min": lam[0],
            "lambda_max": lam[-1],
            "lambda_min_end": np.linalg.eigvalsh(H + drift)[0],
            "contraction": 0.4 * np.linalg.norm(net.net.A, 2) / 32**0.5,
            "test_error": traj.metrics["test_error"][-1],
            "integrator_error": traj.metrics["integrator_error"][-1],
        }
        assert_allclose([getattr(row, name) for name in want], list(want.values()), rtol=1e-6)

    def test_kept_runs_are_not_redone(
        self, result: SweepResult, kept: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two that are missing at two scales, one batch each; the others are read."""
        files = sorted(kept.glob("*.npz"))
        assert len(files) == 6
        for lost in ("*gamma0.2-seed1*", "*gamma0.4-seed0-rtol0.001*"):
            next(kept.glob(lost)).unlink()
        asked = []

        def counted(config, samples, width, gamma0, keys, tolerances):
            asked.append((float(gamma0), [float(x) for x in tolerances]))
            return measure(config, samples, width, gamma0, keys, tolerances)

        monkeypatch.setattr(_sweep, "measure", counted)
        told: list[float] = []
        again = run_sweep(SMALL, lambda share, what: told.append(share), kept)
        assert told == pytest.approx([1 / 3, 0.5, 0.5 + 1 / 3, 1])  # where Ctrl-C is heard
        assert asked == [(0.2, [1e-3] * 3), (0.4, [1e-3] * 3)]
        assert_allclose(again.array["deviation"], result.array["deviation"], rtol=1e-9)
        assert sorted(kept.glob("*.npz")) == files

    def test_run_that_fails_is_a_row_of_nan(self, result: SweepResult) -> None:
        """Alone and far past the edge; its neighbours in the table keep their numbers."""
        lost = dataclasses.replace(result.rows[0], **dict.fromkeys(QUANTITIES, np.nan), solved=False)
        partly = dataclasses.replace(result, rows=(lost, *result.rows[1:]))
        cell = sweep_cells(partly)[0]
        assert (cell.solved, cell.failed) == (1, 1)
        assert any("1 of 2 runs were not solved" in sentence for sentence in sweep_findings(partly))
        assert any("is not known" in sentence for sentence in sweep_findings(partly))
        assert not any("not" in sentence for sentence in sweep_findings(result)[1:])

    def test_progress_rises(self, result: SweepResult, kept: Path) -> None:
        told: list[tuple[float, str]] = []
        run_sweep(SMALL, lambda share, what: told.append((share, what)), kept)
        assert told == [(0.5, "width 32, gamma0 = 0.2"), (1.0, "width 32, gamma0 = 0.4")]


class TestTables:
    @pytest.fixture
    def synthetic(self, result: SweepResult, rng: np.random.Generator) -> SweepResult:
        """A sweep over widths in which every quantity goes as `m^-0.4` but for noise."""
        config = dataclasses.replace(SMALL, widths=WIDTHS, seeds=5)

        def row(width: int, gamma0: float, seed: int):
            values = {name: float(width**-0.4 * np.exp(rng.normal() / 10)) for name in QUANTITIES}
            return dataclasses.replace(result.rows[0], width=width, gamma0=gamma0, seed=seed, **values)

        rows = tuple(row(*cell, seed) for cell in config.cells for seed in range(5))
        coarse = tuple(dataclasses.replace(rows[5 * i], step_rtol=1e-2) for i in range(len(config.cells)))
        return SweepResult(config, result.data, rows, coarse)

    def test_laws_are_found_over_all_widths_and_the_widest(self, synthetic: SweepResult) -> None:
        laws = sweep_laws(synthetic)
        assert [(law.name, law.gamma0) for law in laws] == [(q, g) for q in QUANTITIES for g in (0.2, 0.4)]
        for law in laws:
            assert law.all.widths == WIDTHS and law.widest.widths == WIDTHS[-3:]
            assert law.all.estimate.value == pytest.approx(-0.4, abs=0.1)

    def test_three_widths_are_fitted_once(self, synthetic: SweepResult) -> None:
        narrow = dataclasses.replace(synthetic, config=dataclasses.replace(SMALL, widths=WIDTHS[:3], seeds=5))
        assert all(law.all.widths == WIDTHS[:3] and law.widest is None for law in sweep_laws(narrow))

    def test_proven_rate_is_held_against_the_runs(self, synthetic: SweepResult) -> None:
        held = [sentence for sentence in sweep_findings(synthetic) if "proven m^-0.25" in sentence]
        assert len(held) == 2 and all("at least as fast" in sentence for sentence in held)
        slow = [dataclasses.replace(row, limit_deviation=1.0 + row.seed / 9) for row in synthetic.rows]
        held = sweep_findings(dataclasses.replace(synthetic, rows=tuple(slow)))[:2]
        assert all("is not shown" in sentence for sentence in held)

    def test_integrator_that_makes_the_numbers_is_said(self, synthetic: SweepResult) -> None:
        assert "at most 0.0%" in sweep_findings(synthetic)[2]
        coarse = (dataclasses.replace(synthetic.coarse[0], drift_operator=9.0), *synthetic.coarse[1:])
        found = sweep_findings(dataclasses.replace(synthetic, coarse=coarse))[2]
        assert "--step-rtol" in found and QUANTITIES["drift_operator"].title in found and "m = 50" in found

    def test_lines_of_a_table_have_as_many_cells_as_its_head(self, synthetic: SweepResult) -> None:
        tables = [part for part in sweep_markdown(synthetic).split("\n\n") if part.startswith("|")]
        assert len(tables) == 3
        for table in tables:
            assert len({line.count("|") for line in table.splitlines()}) == 1

    def test_files_hold_every_run_and_exponent(self, synthetic: SweepResult, tmp_path: Path) -> None:
        write_sweep(synthetic, tmp_path, lambda result, folder: None)
        with (tmp_path / "sweep.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 50 + 10 and list(rows[0]) == list(TYPES)
        assert [float(row["distance"]) for row in rows[:50]] == [row.distance for row in synthetic.rows]
        with (tmp_path / "exponents.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2 * 2 * len(QUANTITIES)
        assert {row["quantity"]: row["upper_bound"] for row in rows if row["upper_bound"]} == {
            "limit_deviation": "-0.25"
        }
        assert float(rows[0]["exponent"]) == sweep_laws(synthetic)[0].all.estimate.value
        assert (tmp_path / "summary.md").read_text() == sweep_markdown(synthetic)


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"widths": ()}, "widths is empty"),
            ({"widths": (10, 10)}, "twice"),
            ({"widths": (0,)}, "widths must be a positive"),
            ({"gamma0": ()}, "gamma0 is empty"),
            ({"gamma0": (0.4, 0.0)}, "gamma0 must be positive"),
            ({"seeds": 1}, "seeds must be at least 2"),
            ({"together": 0}, "together must be a positive"),
            ({"max_steps": 0}, "max_steps must be a positive"),
            ({"records": 4}, "records must be at least 5"),
            ({"step_rtol": -1e-3}, "step_rtol must be positive"),
            ({"step_rtol": 1e-13}, "step_rtol must be at least 1e-11"),
            ({"rtol": 1e-3}, "step_rtol must be at least 0.01"),
            ({"precision": "float16"}, "precision must be one of"),
        ],
    )
    def test_bad_ones_are_named(self, change: dict, message: str, unchecked: None) -> None:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMALL, **change)

    def test_checkpoints_of_other_settings_are_refused(self, result: SweepResult, kept: Path) -> None:
        with pytest.raises(ValueError, match="centred = True, not False"):
            run_sweep(dataclasses.replace(SMALL, centred=False), checkpoints=kept)

    def test_float64_needs_x64(self) -> None:
        with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
            run_sweep(SMALL)

    def test_seeds_together_by_size_and_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        config = SweepConfig()
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(2**33))
        assert seeds_together(config, 100) == 6
        assert seeds_together(config, 4000) == 1
        assert seeds_together(dataclasses.replace(config, together=9), 1000) == 6
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(2 * bytes_of_run(config, 100) + 1))
        assert seeds_together(config, 100) == 2
        with pytest.raises(MemoryError, match="together=3"):
            seeds_together(dataclasses.replace(config, together=3), 100)
        with pytest.raises(MemoryError, match="a run of width 250"):
            run_sweep(config)


class TestCommand:
    @pytest.fixture(autouse=True)
    def _surroundings(self, strict: None) -> None:
        """The program of `result` serves the command too: its settings are the same."""

    def test_stopped_and_resumed_it_writes_what_it_would_have(
        self,
        result: SweepResult,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        scales = []

        def stopped(config, samples, width, gamma0, keys, tolerances):
            scales.append(float(gamma0))
            if len(scales) == 2:
                raise KeyboardInterrupt
            return measure(config, samples, width, gamma0, keys, tolerances)

        monkeypatch.setattr(_sweep, "measure", stopped)
        command = [*FLAGS, "--name", "small", "--out", str(tmp_path)]
        assert main(command) == 130
        assert "--resume" in capsys.readouterr().err
        assert not (tmp_path / "small").exists()
        assert main([*command, "--resume"]) == 0
        assert scales == [0.2, 0.4, 0.4]
        write_sweep(result, tmp_path, lambda result, folder: None)
        for name in ("sweep.csv", "exponents.csv", "summary.md"):
            assert (tmp_path / "small" / name).read_bytes() == (tmp_path / name).read_bytes()
        assert (tmp_path / "small" / "figures" / "sweep.pdf").exists()
        assert "powers of m" in capsys.readouterr().out
        assert main([*command, "--resume"]) == 0
        assert "Finished before" in capsys.readouterr().out and len(scales) == 3


@pytest.mark.slow
def test_one_seed_alone_is_that_seed_of_a_batch(result: SweepResult) -> None:
    alone = run_sweep(dataclasses.replace(SMALL, together=1))
    for name in QUANTITIES:
        assert_allclose(alone.array[name], result.array[name], rtol=1e-6)


@pytest.mark.slow
def test_run_past_the_edge_says_that_it_failed(strict: None) -> None:
    found = run_sweep(dataclasses.replace(SMALL, gamma0=(3.0,), seeds=2))
    assert not found.array["solved"].any() and np.isnan(found.array["deviation"]).all()
    assert sweep_laws(found)[0].all is None
    sweep_markdown(found)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "n"), [(500, 50), (2000, 50), (1000, 400)])
def test_bytes_of_a_run_are_those_of_its_trace(width: int, n: int) -> None:
    config = SweepConfig(n_train=n, n_test=n)
    forms = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, 784), (n,), (n, 784), (n,))]
    samples = eqx.filter_eval_shape(Samples, *forms)
    keys, one = jax.random.split(jax.random.key(0), 1), jnp.ones(1, jnp.float32)
    traced = working_set(measure, config, samples, width, one[0], keys, one) / SLACK
    assert 0.8 * traced < bytes_of_run(config, width) < 1.6 * traced
