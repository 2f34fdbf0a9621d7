"""A solve that fails on the way, and input that is refused before any work."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.dynamics import pose, reported

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

# Training makes the cell less contractive: solves that took 32 evaluations at first take ever more.
FORWARD = {"solver": ink.Picard(max_steps=40)}
ADJOINT = {"adjoint": ink.ImplicitAdjoint(ink.Neumann(max_steps=36))}
UNITS = (0.0, 1.0, 3.0, 8.0)
STEP = 0.2


def run(p, euler: Callable, **options) -> ink.Trajectory:
    return p.flow(p.times(*UNITS), euler(STEP * p.unit), method=ink.Method(**options))


@pytest.mark.parametrize(("which", "healthy"), [(FORWARD, 3), (ADJOINT, 2)])
def test_report(problem: Callable, by_hand: Callable, euler: Callable, which: dict, healthy: int) -> None:
    """What was recorded stays, what comes after is NaN, the run stands still and its status tells."""
    p = problem(seed=1)
    untroubled = run(p, euler)
    traj = run(p, euler, on_failure="report", **which)
    assert traj.status == ink.Status.MAX_STEPS
    for name in ("u", "f", "loss"):
        found, want = getattr(traj, name), getattr(untroubled, name)
        assert_allclose(found[:healthy], want[:healthy], rtol=1e-10)
        assert np.isnan(found[healthy:]).all()
    for name, values in traj.metrics.items():
        if values.dtype == traj.loss.dtype:
            assert np.isfinite(values[:healthy]).all()
            assert np.isnan(values[healthy:]).all()
        else:
            assert (values[healthy:] == getattr(traj, name)).all()
    stopped = int(traj.steps)
    assert UNITS[healthy - 1] < stopped * STEP < UNITS[healthy] + 1e-9
    last = by_hand(p, stopped * [STEP * p.unit])[-1]
    assert_allclose(traj.net.A, last.A, atol=1e-10)

    got_to = f"^after t={UNITS[healthy - 1] * p.unit:g}: the solve along the flow reached max_steps"
    with pytest.raises(ink.ConvergenceError, match=got_to):
        reported(traj, ink.Method())
    assert reported(traj, ink.Method(on_failure="nan")) is traj


def test_nan(problem: Callable, euler: Callable) -> None:
    traj = run(problem(seed=1), euler, on_failure="nan", **FORWARD)
    assert traj.status == ink.Status.MAX_STEPS
    assert np.isfinite(traj.u).all(axis=1).tolist() == [True, True, True, False]


def test_raise(problem: Callable, euler: Callable) -> None:
    """One sentence: how far it got, what went wrong, what helps."""
    p = problem(seed=1)
    remedy = "the solve along the flow reached max_steps.*raise max_steps.*on_failure='report'"
    with pytest.raises(ink.ConvergenceError, match=rf"^after t={3 * p.unit:g}: {remedy}") as caught:
        run(p, euler, **FORWARD)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("only", ["loss", "steps"])
def test_raise_inside_jit(problem: Callable, euler: Callable, only: str) -> None:
    """The check survives whatever little is asked of the run."""
    p = problem(seed=1)

    @eqx.filter_jit
    def inside(net: ink.AbstractNetwork) -> jax.Array:
        return getattr(run(dataclasses.replace(p, net=net), euler, **FORWARD), only)

    with pytest.raises(RuntimeError, match="the solve along the flow reached max_steps"):
        inside(p.net)


def test_divergence(problem: Callable, euler: Callable) -> None:
    """Large targets carry the weights past the edge, where there is no equilibrium, nor a contraction."""
    p = problem(seed=1)
    far = dataclasses.replace(p, y=20 * p.y)
    with pytest.raises(ink.ConvergenceError, match="^after t=0: .* diverged: its residual grew"):
        run(far, euler)


@pytest.mark.parametrize("cell", [{}, {"centred": True}])
def test_failure_at_the_start(problem: Callable, euler: Callable, cell: dict) -> None:
    p = problem(seed=1, **cell)
    few = {"solver": ink.Picard(max_steps=9)}
    with pytest.raises(ink.ConvergenceError, match="of 8 failed: the forward solve reached max_steps"):
        run(p, euler, **few)
    traj = run(p, euler, on_failure="report", **few)
    assert (traj.status, traj.steps) == (ink.Status.MAX_STEPS, 0)
    assert np.isnan(traj.u).all()
    for found, start in zip(jax.tree.leaves(traj.net), jax.tree.leaves(p.net), strict=True):
        assert_allclose(found, start)


def test_failure_on_unseen_data(problem: Callable, euler: Callable) -> None:
    """At seed 4 a test sample needs 32 evaluations, no training sample more than 31."""
    p = problem(seed=4)
    traj = run(p, euler, on_failure="report", solver=ink.Picard(max_steps=31))
    assert np.isnan(traj.loss[0])
    with pytest.raises(ink.ConvergenceError, match="^at the start: the solve along the flow reached max_st"):
        reported(traj, ink.Method())


BAD = {
    "decreasing times": ({"times": [1.0, 0.5]}, ValueError, "times must be finite.*increasing; sort"),
    "equal times": ({"times": [0.5, 0.5]}, ValueError, "times must be finite.*drop repeats"),
    "negative times": ({"times": [-1.0, 0.5]}, ValueError, "times must be finite, not negative"),
    "NaN times": ({"times": [0.0, np.nan]}, ValueError, "times must be finite"),
    "infinite times": ({"times": [0.0, np.inf]}, ValueError, "times must be finite"),
    "words for times": ({"times": "ab"}, TypeError, "times must be a vector of known numbers, got 'ab'"),
    "list y": ({"y": [1.0] * 8}, TypeError, "y must be an array, got list; wrap it in numpy.asarray"),
    "no times": ({"times": np.zeros(0)}, ValueError, "times must be a non-empty vector"),
    "a single time": ({"times": 1.0}, ValueError, "times must be a non-empty vector.*shape"),
    "matrix of times": ({"times": np.ones((2, 2))}, ValueError, "times must be a non-empty vector"),
    "short y": ({"y": np.ones(7)}, ValueError, r"y must have shape \(8,\), one target a row, got \(7,\)"),
    "column y": ({"y": np.ones((8, 1))}, ValueError, r"y must have shape \(8,\)"),
    "integer y": ({"y": np.ones(8, int)}, TypeError, r"y must be floating point.*astype\(float\)"),
    "NaN y": ({"y": np.full(8, np.nan)}, ValueError, "y holds NaN"),
    "X of other features": ({"X": np.ones((8, 4))}, ValueError, "X has 4 features but .* in_size=3"),
    "vector X": ({"X": np.ones(3)}, ValueError, r"X must have shape \(n, d\)"),
    "float32 X": ({"X": np.ones((8, 3), np.float32)}, TypeError, "X is float32 but the network is float64"),
    "NaN X": ({"X": np.full((8, 3), np.nan)}, ValueError, "X holds NaN"),
    "y_test alone": ({"y_test": np.ones(3)}, ValueError, "y_test needs X_test; pass both"),
    "X_test of other features": ({"X_test": np.ones((3, 4))}, ValueError, "X_test has 4 features"),
    "empty X_test": ({"X_test": np.ones((0, 3))}, ValueError, "X_test is empty"),
    "long y_test": (
        {"X_test": np.ones((3, 3)), "y_test": np.ones(4)},
        ValueError,
        r"y_test must have shape \(3,\)",
    ),
    "integer y_test": (
        {"X_test": np.ones((3, 3)), "y_test": np.ones(3, int)},
        TypeError,
        "y_test must be floating point",
    ),
    "an adjoint without a linear solve": (
        {"method": ink.Method(adjoint=ink.JacobianFree())},
        ValueError,
        r"method.adjoint=JacobianFree\(\) gives no adjoint states.*ImplicitAdjoint",
    ),
    "a step for an integrator": ({"integrator": 0.1}, TypeError, r"integrator must be .*such as Euler\(dt"),
    "a class for an integrator": ({"integrator": ink.Euler}, TypeError, "integrator must be an integrator"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", BAD)
def test_bad_input(problem: Callable, case: str) -> None:
    """One line that names the argument and the remedy, before any work."""
    change, error, message = BAD[case]
    p = problem(seed=1)
    good = {"X": p.X, "y": p.y, "times": [0.0, 1.0], "integrator": ink.Euler(0.1)}
    with pytest.raises(error, match=message) as caught:
        ink.gradient_flow(p.net, **(good | change))
    assert "\n" not in str(caught.value)


def test_no_network(problem: Callable, unchecked: None) -> None:
    p = problem(seed=1)
    with pytest.raises(TypeError, match="^net must be a network"):
        ink.gradient_flow("net", p.X, p.y, [1.0], ink.Euler(0.1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trained", "nbytes"), [(("A",), 4 * 64 * 8), (("A", "W", "b"), 3 * 3 * 64 * 8)], ids=["eigen", "blocks"]
)
def test_past_the_memory_limit(
    problem: Callable, trained: tuple, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`H(0)` of 8 rows, its eigenvectors and their workspace; or the blocks that it is the sum of."""
    p = problem(seed=1, trained=trained)
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(nbytes - 1))
    with pytest.raises(MemoryError, match="needs .* GiB, past the limit .*; pass fewer samples"):
        pose(p.net, p.X, p.y)
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(nbytes))
    pose(p.net, p.X, p.y)


@pytest.mark.parametrize(
    "options",
    [{"dt": "a"}, {"dt": None}, {"dt": jnp.ones(2)}, {"ramp": "a", "dt": 1}, {"solver_share": None, "dt": 1}],
)
def test_options_that_are_no_numbers(options: dict, unchecked: None) -> None:
    with pytest.raises(TypeError, match=f"^{next(iter(options))} must be a number, got "):
        ink.Euler(**options)


def test_nothing_trained(problem: Callable) -> None:
    p = problem(seed=1)
    net = dataclasses.replace(p.net, trained=())
    with pytest.raises(ValueError, match="net trains nothing; name its trained leaves"):
        ink.gradient_flow(net, p.X, p.y, [1.0], ink.Euler(0.1))


def test_accepted_forms(problem: Callable, euler: Callable) -> None:
    """NumPy arrays and lists will do, and targets of another float type are cast."""
    p = problem(seed=1)
    forms = dataclasses.replace(
        p,
        X=np.asarray(p.X),
        y=np.asarray(p.y, np.float32),
        X_test=np.asarray(p.X_test),
        y_test=np.asarray(p.y_test),
    )
    times = p.times(*UNITS)
    want = p.flow(times, euler(STEP * p.unit))
    found = forms.flow([float(t) for t in times], euler(STEP * p.unit))
    assert jnp.array_equal(found.u, want.u)
    assert found.u.dtype == want.u.dtype
