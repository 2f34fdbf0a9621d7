"""Where the exponential integrator stops: at precision, at memory; and what else it takes in its stride."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.dynamics import pose, segment, start
from implicit_ntk.dynamics.exponential import _controller as controller

pytestmark = pytest.mark.usefixtures("quick_compilation")

REPORT = ink.Method(on_failure="report")
SMOOTH = dict(seed=3, activation="tanh", injection_activation="identity")


def test_float32_beside_float64(problem: Callable) -> None:
    """Together wherever the modes are resolved; where they are not the error says by how much it may be off.

    Of two samples that are one, whose labels differ, nobody knows whether the difference is ever learnt.
    """
    runs = []
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            p = problem(**SMOOTH)
            net = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float32), dtype), p.net)
            X = np.asarray(p.X, dtype)[[0, 0, *range(2, 8)]]
            y = np.asarray([1, -1, 1, 1, -1, -1, -1, 1], dtype)
            times = np.array([1.0, 30.0, 1e12]) * p.unit
            traj = ink.gradient_flow(net, X, y, times, ink.Exponential(1e-2), method=REPORT)
            runs.append((np.asarray(traj.u, np.float64), np.asarray(traj.metrics["integrator_error"])))
    (single, told), (double, exact) = runs
    assert_allclose(single[:2], double[:2], atol=1e-3)
    assert_allclose(single, double, atol=1.5e-2)  # what the tolerance leaves open
    assert_allclose(double[-1, :2], 0, atol=1e-2)
    assert told[1] < 0.9 and exact[1] < 0.9
    assert told[-1] > 1.4 and exact[-1] > 1.4  # the root of 2, the label's distance from their mean


def test_memory_is_asked_for_before_any_step(problem: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(seed=1)
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", "60000")
    message = "^an exponential step of 8 outputs needs .* GiB, past the limit .*; pass fewer samples"
    with pytest.raises(MemoryError, match=message):
        ink.gradient_flow(p.net, p.X, p.y, p.times(1.0), ink.Exponential())


@pytest.mark.slow
def test_modes_serve_again(problem: Callable, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the kernel is nearly theirs: fewer decompositions than steps, and no loss of accuracy."""
    p = problem(m=100, **SMOOTH)
    posed = pose(p.net, p.X, p.y, p.X_test, p.y_test)
    runs = []
    for outworn in (controller.OUTWORN, 0.0):
        monkeypatch.setattr(controller, "OUTWORN", outworn)
        integrator = ink.Exponential(1e-3)
        jax.clear_caches()
        runs.append(segment(posed, integrator, start(posed, integrator), jnp.asarray(300 * p.unit)))
    (kept, rec), (anew, other) = runs
    assert kept.integrator.books.decompositions < kept.integrator.steps / 2
    assert anew.integrator.books.decompositions >= anew.integrator.steps
    assert_allclose(rec.f, other.f, atol=2e-3)


@pytest.mark.slow
def test_a_batch_of_networks(problem: Callable, x64: None) -> None:
    """Under `vmap` each runs as it does alone."""
    problems = [problem(activation="tanh", injection_activation="identity", seed=seed) for seed in (1, 2)]
    p, times = problems[0], np.append(problems[0].times(1.0, 30.0), np.inf)

    def run(net: ink.AbstractNetwork) -> ink.Trajectory:
        return ink.gradient_flow(net, p.X, p.y, times, ink.Exponential(1e-2), p.X_test, method=REPORT)

    together = eqx.filter_vmap(run)(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *[q.net for q in problems])
    )
    for i, q in enumerate(problems):
        alone = run(q.net)
        assert together.steps[i] == alone.steps
        assert_allclose(together.f[i], alone.f, atol=1e-9)


CHORD = ink.Method.of(ink.Chord(), on_failure="report")
NEWTON = ink.Method.of(ink.Newton(), on_failure="report")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "rows", "method"),
    [
        (dict(centred=True), 8, REPORT),
        (dict(trained=("A", "W", "b")), 8, REPORT),
        ({}, 1, REPORT),
        ({}, 8, CHORD),
        ({}, 8, NEWTON),
    ],
    ids=["centred", "all trained", "one sample", "chord", "newton"],
)
def test_to_the_end_all_the_same(
    problem: Callable, options: dict, rows: int, method: ink.Method, x64: None
) -> None:
    """Interpolation, and the limit on unseen data within the tolerance of that at a tighter one."""
    p = problem(m=60, **options, **SMOOTH)
    p = dataclasses.replace(p, X=p.X[:rows], y=p.y[:rows])
    times = np.append(p.times(1.0), np.inf)
    coarse, fine = (
        p.flow(times, eqx.tree_at(lambda e: e.rtol, ink.Exponential(), jnp.asarray(r)), method=method)
        for r in (1e-2, 1e-3)
    )
    assert coarse.status <= ink.Status.STALLED and coarse.loss[-1] < 1e-12
    assert np.sqrt(np.mean((coarse.f[-1] - fine.f[-1]) ** 2)) < 2e-2
