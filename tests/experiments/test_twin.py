"""The main experiment on a small scale: its numbers recomputed, its directory read back."""

import csv
import dataclasses
import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import implicit_ntk as ink
from implicit_ntk.experiments import (
    Checkpoints,
    TwinConfig,
    TwinResult,
    TwinRun,
    findings,
    run_twin,
    store,
    summary_markdown,
    table,
)
from implicit_ntk.experiments._times import times_to_the_end
from implicit_ntk.experiments._twin_run import run_one

SMALL = TwinConfig(
    n_train=16, n_test=10, widths=(40, 24), seeds=2, integrator="euler", horizon=4.0, records=6
)
ENDLESS = TwinConfig(n_train=8, n_test=6, widths=(20,), seeds=2, activation="tanh", records=8)


pytestmark = pytest.mark.usefixtures("quick_compilation")


@cache
def small() -> TwinResult:
    return run_twin(SMALL)


@cache
def to_the_end() -> TwinResult:
    return run_twin(ENDLESS)


@pytest.fixture
def result(quick_compilation: None) -> TwinResult:
    """Of one run for all tests, compiled quickly."""
    return small()


@pytest.fixture
def endless(quick_compilation: None) -> TwinResult:
    """The same, to the end of training."""
    return to_the_end()


def network(config: TwinConfig, width: int, seed: int) -> ink.ReluImplicit:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), width), seed)
    return ink.ReluImplicit.init(key, 784, width, config.gamma0, activation=config.activation)


def draw_nothing(result, folder):
    (folder / "twin.png").write_bytes(b"")


def test_runs_every_width_and_seed_from_narrow_to_wide(result):
    assert [(run.width, run.seed) for run in result.runs] == [(24, 0), (24, 1), (40, 0), (40, 1)]


def test_times_start_at_zero_and_end_at_the_horizon(result):
    assert result.times[0] == 0
    assert result.times[-1] == SMALL.horizon
    assert (np.diff(result.times) > 0).all()


def test_times_span_those_of_all_modes_and_end_at_infinity(endless):
    times, lam = endless.times, endless.runs[0].eigenvalues
    assert times[0] == 0 and times[-1] == np.inf and times.size == ENDLESS.records
    assert 0.4 / lam[-1] <= times[1] <= 1.01 / lam[-1]
    assert 16 / lam[0] <= times[-2] <= 41 / lam[0]


def test_unresolved_modes_do_not_stretch_the_times():
    lam = np.array([1e-12, 2.0])
    assert times_to_the_end(lam, 1e-3, 5)[-2] == pytest.approx(2e4)


def test_the_end_is_interpolation_and_the_twin_that_of_the_kernel(endless):
    """`f_inf` of the twin from `H(0)^{-1}`, formed here anew."""
    for run in endless.runs:
        np.testing.assert_allclose(run.u[-1], run.y, atol=1e-4)
        assert run.last == endless.times.size - 1
        net = network(ENDLESS, run.width, run.seed)
        X, X_test = jnp.asarray(endless.data.X), jnp.asarray(endless.data.X_test)
        moved = jnp.linalg.solve(ink.ntk(net, X), run.y - run.u[0])
        np.testing.assert_allclose(run.fhat[-1], run.f[0] + ink.ntk(net, X_test, X) @ moved, atol=2e-3)
    (row,) = table(endless)
    off = [np.sqrt(np.mean((run.f[-1] - run.fhat[-1]) ** 2)) for run in endless.runs]
    assert row.limit_deviation == pytest.approx(np.median(off)) and row.limit_deviation > 0
    assert f"| {row.limit_deviation:.4f} |" in summary_markdown(endless)


def test_a_run_that_does_not_reach_infinity_is_left_out_and_named(endless):
    """At infinity it is NaN; the table has the others', and where there are none a dash."""

    def stuck(run: TwinRun, resolution: float) -> TwinRun:
        rows = {name: _without_last(getattr(run, name)) for name in ("u", "f")}
        metrics = {name: _without_last(value) for name, value in run.metrics.items()}
        return dataclasses.replace(run, **rows, metrics=metrics, resolution=resolution)

    first, second = endless.runs
    one = dataclasses.replace(endless, runs=(stuck(first, first.resolution), second))
    (row,) = table(one)
    assert row.limit_deviation == pytest.approx(np.sqrt(np.mean((second.f[-1] - second.fhat[-1]) ** 2)))
    assert np.isfinite([row.deviation, row.unseen_deviation, row.train_loss, row.integrator_error]).all()
    assert any("seed 0, the residual did not vanish" in line for line in findings(one))
    none = dataclasses.replace(endless, runs=(stuck(first, 1e3), stuck(second, 1e3)))
    assert "| - |" in summary_markdown(none) and "(not resolved)" in summary_markdown(none)


def _without_last(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    if np.issubdtype(values.dtype, np.floating):
        values[-1] = np.nan
    return values


@pytest.mark.parametrize(("integrator", "word"), [("euler", "Euler's"), ("exponential", "exponential")])
def test_summary_speaks_of_the_integrator_used(integrator, word, result, endless):
    used, other = (result, endless) if integrator == "euler" else (endless, result)
    assert word in summary_markdown(used) and word not in summary_markdown(other)


def test_unresolved_run_has_no_infinity(endless, monkeypatch):
    """The times are those of all runs; a run that cannot go to the end has NaN there, and counts go on."""
    monkeypatch.setattr("implicit_ntk.experiments._twin_run.resolution_of", lambda lam: lam[-1])
    run = run_one(ENDLESS, endless.data, endless.times, 20, 0, lambda share: None, Checkpoints())
    assert np.isnan(run.u[-1]).all() and np.isnan(run.fhat[-1]).all() and not run.resolved
    np.testing.assert_array_equal(run.u[:-1], endless.runs[0].u[:-1])
    assert run.metrics["steps"][-1] == run.metrics["steps"][-2] > 0 and run.last == endless.times.size - 2


def test_run_starts_at_zero_and_learns(result):
    for run in result.runs:
        np.testing.assert_allclose(run.u[0], 0, atol=1e-4)
        assert (np.diff(run.metrics["loss"]) < 0).all()


def test_twin_is_the_matrix_exponential_of_the_kernel(result):
    """From `H(0)` of the same network, formed here anew."""
    run = result.runs[0]
    net = network(SMALL, run.width, run.seed)
    H = np.asarray(ink.ntk(net, jnp.asarray(result.data.X)), np.float64)  # it may be all but singular
    t = result.times[-1]
    decay = scipy.linalg.expm(-H * t)
    np.testing.assert_allclose(run.uhat[-1], run.y - decay @ (run.y - run.u[0]), atol=2e-4)
    k0 = ink.ntk(net, jnp.asarray(result.data.X_test), jnp.asarray(result.data.X))
    moved = np.linalg.solve(H, (np.eye(run.y.size) - decay) @ (run.y - run.u[0]))
    np.testing.assert_allclose(run.fhat[-1], run.f[0] + k0 @ moved, atol=5e-3)


def test_deviation_is_relative_to_the_initial_residual(result):
    run = result.runs[-1]
    by_hand = [
        np.sqrt(((u - v) ** 2).sum() / ((run.y - run.u[0]) ** 2).sum())
        for u, v in zip(run.u, run.uhat, strict=True)
    ]
    np.testing.assert_allclose(run.deviation, by_hand, rtol=1e-5)


def test_same_configuration_same_result_bit_for_bit(result):
    again = run_twin(dataclasses.replace(SMALL, widths=(24,), seeds=1))
    np.testing.assert_array_equal(again.runs[0].u, result.runs[0].u)


def test_progress_rises_to_one():
    told = []
    run_twin(
        dataclasses.replace(SMALL, widths=(24,), seeds=1, horizon=1.0),
        lambda share, what: told.append(share),
    )
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)


def test_table_takes_medians_over_seeds(result):
    rows = table(result)
    assert [row.width for row in rows] == [24, 40]
    sups = [run.deviation.max() for run in result.runs[:2]]
    assert rows[0].deviation == pytest.approx(np.median(sups))
    assert (rows[0].deviation_least, rows[0].deviation_most) == pytest.approx((min(sups), max(sups)))


def test_summary_says_by_how_much_the_deviation_falls(result):
    rows = table(result)
    text = summary_markdown(result)
    assert f"{rows[0].deviation / rows[-1].deviation:.2f} times less" in text
    assert "mnist 0/1" in text


def test_unresolved_eigenvalue_is_labelled_and_the_remedy_named(result):
    noisy = [dataclasses.replace(run, resolution=float(run.eigenvalues[0]) * 2) for run in result.runs]
    noisy = dataclasses.replace(result, runs=tuple(noisy))
    assert "(not resolved)" in summary_markdown(noisy)
    assert any("--precision float64" in line for line in findings(noisy))
    assert not any("--precision float64" in line for line in findings(result))
    double = dataclasses.replace(noisy, config=dataclasses.replace(SMALL, precision="float64"))
    assert not any("--precision float64" in line for line in findings(double))


def test_one_width_is_said_once(endless):
    assert sum("One width only" in line for line in findings(endless)) == 1


def test_the_integrator_error_is_that_of_the_worst_seed(endless):
    worst = max(run.integrator_error.max() for run in endless.runs)
    assert f"at most {worst:.4f}" in summary_markdown(endless)


def test_deviation_that_does_not_fall_is_said(result):
    swapped = {24: 40, 40: 24}
    runs = [dataclasses.replace(run, width=swapped[run.width]) for run in result.runs]
    falls = table(result)[0].deviation > table(result)[1].deviation
    turned = findings(dataclasses.replace(result, runs=tuple(runs)))[0]
    assert ("not" in turned) == falls


def test_store_writes_everything(result, tmp_path):
    folder = store(result, tmp_path / "run", draw_nothing)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "environment.json", "metrics.csv", "arrays.npz", "figures", "summary.md"}
    config = json.loads((folder / "config.json").read_text())
    assert TwinConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}) == SMALL
    assert json.loads((folder / "environment.json").read_text())["versions"]["jax"] == jax.__version__
    with np.load(folder / "arrays.npz") as arrays:
        np.testing.assert_array_equal(arrays["u"], np.stack([run.u for run in result.runs]))
        np.testing.assert_array_equal(arrays["times"], result.times)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.runs) * result.times.size
    assert float(rows[-1]["loss"]) == pytest.approx(float(result.runs[-1].metrics["loss"][-1]))


def test_store_replaces_only_when_asked(result, tmp_path):
    store(result, tmp_path / "run", draw_nothing)
    with pytest.raises(FileExistsError, match="--overwrite"):
        store(result, tmp_path / "run", draw_nothing)
    store(result, tmp_path / "run", draw_nothing, overwrite=True)


def test_store_that_fails_leaves_no_run(result, tmp_path):
    def fail(result, folder):
        raise RuntimeError("no ink left")

    with pytest.raises(RuntimeError, match="ink"):
        store(result, tmp_path / "run", fail)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": ()}, "widths is empty"),
        ({"widths": (10, 10)}, "twice"),
        ({"widths": (0,)}, "widths must be a positive"),
        ({"seeds": 0}, "seeds must be a positive"),
        ({"n_train": -1}, "n_train must be a positive"),
        ({"records": 2}, "records must be at least 3"),
        ({"horizon": 0.0}, "horizon must be positive"),
        ({"gamma0": float("nan")}, "gamma0 must be positive"),
        ({"dt": -0.1}, "dt must be positive"),
        ({"rtol": -1.0}, "rtol must be positive"),
        ({"integrator": "exponential", "horizon": None, "records": 3}, "records must be at least 4"),
        ({"integrator": "exponential", "step_rtol": 1e-6}, "step_rtol must be at least 1e-05"),
        ({"integrator": "exponential", "rtol": 1e-3}, "step_rtol must be at least 0.01"),
        ({"ramp": 2.0}, "ramp must lie"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"integrator": "heun"}, "integrator must be one of"),
        ({"step_rtol": 1e-3}, "step_rtol is no option of the integrator euler"),
        ({"integrator": "exponential", "dt": 0.1}, "dt is no option of the integrator exponential"),
        ({"integrator": "exponential", "ramp": 0.1}, "ramp is no option"),
        ({"integrator": "exponential", "step_rtol": -1.0}, "step_rtol must be positive"),
    ],
)
def test_bad_settings_are_named(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_float64_needs_x64():
    with pytest.raises(ValueError, match="jax_enable_x64"):
        run_twin(dataclasses.replace(SMALL, precision="float64"))


def test_unstable_step_is_refused_before_it_is_taken():
    with pytest.raises(ValueError, match="unstable"):
        run_twin(dataclasses.replace(SMALL, widths=(24,), seeds=1, dt=50.0))
