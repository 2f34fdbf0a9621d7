"""Euler's method against a loop of its own, a fine reference, and its own promises."""

import dataclasses
from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.dynamics._euler import _compensated_sum
from implicit_ntk.jacobian import linearize

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

CELLS = {
    "relu": {},
    "tanh": {"activation": "tanh", "injection_activation": "identity"},
    "linear": {"activation": "identity"},
    "all leaves": {"trained": ("A", "W", "b"), "injection_activation": "tanh"},
    "centred": {"centred": True},
}

# Steps of 0.4 / lambda_max; records at the start, within a step, at the end of one, and within another.
STEP = 0.4
RECORDS = (0.0, 2.3 * STEP, 6 * STEP, 8.9 * STEP)
PLACES = [(0, 0.0), (2, 0.3), (6, 0.0), (8, 0.9)]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("cell", CELLS)
def test_equals_a_loop_by_hand(problem: Callable, by_hand: Callable, euler: Callable, cell: str) -> None:
    """Every number of a trajectory, from networks that a loop of `jax.grad` and `net(X)` arrives at."""
    p = problem(seed=1, **CELLS[cell])
    dt = STEP * p.unit
    traj = p.flow(p.times(*RECORDS), euler(dt))

    nets = by_hand(p, 9 * [dt])
    at = [_between(nets[k], nets[k + 1], part) for k, part in PLACES]
    everything = jnp.concatenate([p.X, p.X_test])
    outputs = np.stack([net(everything) for net in at])
    u, f = outputs[:, : len(p.y)], outputs[:, len(p.y) :]

    assert_allclose(traj.times, p.times(*RECORDS), rtol=1e-15)
    assert_allclose(traj.u, u, **CLOSE)
    assert_allclose(traj.f, f, **CLOSE)
    for found, want in zip(jax.tree.leaves(traj.net), jax.tree.leaves(at[-1]), strict=True):
        assert_allclose(found, want, **CLOSE)
    assert_allclose(ink.predict(traj, everything), outputs[-1], **CLOSE)
    _check_measures(traj, p, at, u, f)


def _between(a: ink.AbstractNetwork, b: ink.AbstractNetwork, part: float) -> ink.AbstractNetwork:
    """The straight line in the parameters."""
    return jax.tree.map(lambda a, b: a + part * (b - a), a, b)


def _check_measures(traj: ink.Trajectory, p, at: list, u: np.ndarray, f: np.ndarray) -> None:
    core, measured, y, y_test = p.net.core, traj.metrics, np.asarray(p.y), np.asarray(p.y_test)
    want = {
        "train_error": np.mean(u * y < 0, axis=1),
        "test_error": np.mean(f * y_test < 0, axis=1),
        "test_loss": 0.5 * np.sum((f - y_test) ** 2, axis=1),
        "contraction": [np.linalg.norm(net.core.gamma * net.core.A, 2) for net in at],
    }
    for name in core.trained:
        start = getattr(core, name)
        want[f"distance_{name}"] = [np.linalg.norm(getattr(net.core, name) - start) for net in at]
    if isinstance(p.net, ink.Centred):
        assert_allclose(traj.u[0], 0, atol=1e-12)
        want["train_error"][0], want["test_error"][0] = measured["train_error"][0], measured["test_error"][0]
    for name, values in want.items():
        assert_allclose(measured[name], values, **CLOSE)
    assert_allclose(traj.loss, 0.5 * np.sum((u - y) ** 2, axis=1), **CLOSE)
    assert measured["steps"].tolist() == [0, 2, 6, 8]
    assert (measured["residual"] < 1e-10).all()
    assert traj.steps == 8
    assert traj.status in (ink.Status.CONVERGED, ink.Status.STALLED)
    others = {"residual", "integrator_error", "steps", "forward_evaluations", "adjoint_evaluations"}
    assert set(measured) == set(want) | others


def test_integrator_error(problem: Callable, euler: Callable) -> None:
    """`||u_Euler - u||` where both are known: the kernel frozen, the same steps and part of one."""
    p = problem(seed=1)
    dt = STEP * p.unit
    traj = p.flow(p.times(*RECORDS), euler(dt))
    H, start = np.asarray(ink.ntk(p.net, p.X)), np.asarray(p.net(p.X) - p.y)
    one = np.eye(len(H)) - dt * H
    errors = []
    for k, part in PLACES:
        numerical = (np.eye(len(H)) - part * dt * H) @ np.linalg.matrix_power(one, k) @ start
        errors.append(np.linalg.norm(numerical - scipy.linalg.expm(-H * (k + part) * dt) @ start))
    assert_allclose(traj.metrics["integrator_error"], errors, rtol=1e-9, atol=1e-12)


def test_counts(problem: Callable, by_hand: Callable, euler: Callable) -> None:
    """Evaluations are those of the solves of the steps, from the motion continued and from the last p."""
    p = problem(seed=1)
    dt = STEP * p.unit
    traj = p.flow(p.times(*RECORDS), euler(dt))
    solve = eqx.filter_jit(linearize)
    method = ink.Method()
    nets = by_hand(p, 8 * [dt])
    at = solve(nets[0], p.X, method, "report")
    z = before = at.equilibrium.z
    forward, adjoint = [at.equilibrium.steps.max()], [at.adjoint.steps.max()]
    for net in nets[1:]:
        at = solve(net, p.X, method, "report", 2 * z - before, at.adjoint.z)
        before, z = z, at.equilibrium.z
        forward.append(at.equilibrium.steps.max())
        adjoint.append(at.adjoint.steps.max())
    for counts, name in ((forward, "forward_evaluations"), (adjoint, "adjoint_evaluations")):
        found = traj.metrics[name]
        assert found[0] == counts[0]
        # a sum in another order can cost or save an evaluation now and then
        assert_allclose(found, np.cumsum(counts)[[0, 2, 6, 8]], atol=2, rtol=0)
        assert getattr(traj, name) == found[-1]


def test_an_output_of_zero_is_half_wrong(problem: Callable, euler: Callable) -> None:
    """A read-out of zeros: no kernel, no motion, and signs that are neither right nor wrong."""
    p = problem(seed=1)
    nothing = eqx.tree_at(lambda net: net.b, p.net, jnp.zeros_like(p.net.b))
    times, integrator = p.times(*RECORDS), euler(STEP * p.unit)
    traj = ink.gradient_flow(nothing, p.X, p.y, times, integrator, p.X_test, p.y_test)
    for name in ("train_error", "test_error"):
        assert traj.metrics[name].tolist() == 4 * [0.5]
    assert traj.metrics["distance_A"].tolist() == 4 * [0.0]
    assert_allclose(traj.loss, len(p.y) / 2)


@pytest.mark.parametrize(
    ("cell", "seed", "rtol", "spread"),
    # A relu's velocity jumps where a unit switches: no method has an order there but on average.
    [
        ("tanh", 1, 1e-9, 0.15),
        ("relu", 2, 1e-5, 0.4),
        pytest.param("relu", 1, 1e-5, 0.4, marks=pytest.mark.slow),
    ],
)
def test_first_order(
    problem: Callable, euler: Callable, gradient: Callable, cell: str, seed: int, rtol: float, spread: float
) -> None:
    """Errors against an adaptive Runge-Kutta of order 5 fall like the step."""
    p = problem(seed=seed, **CELLS[cell])
    times = p.times(0.0, 1.0, 3.0, 8.0)
    want = _reference(p, times, gradient, rtol)
    sizes = np.array([0.2, 0.1, 0.05])
    errors = [np.linalg.norm(p.flow(times, euler(dt * p.unit)).u - want) for dt in sizes]
    order = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(order - 1) < spread
    assert errors[-1] < 0.02 * np.linalg.norm(want[0] - p.y)


def _reference(p, times: np.ndarray, gradient: Callable, rtol: float) -> np.ndarray:
    """`u` at the times, by diffrax."""
    params, frozen = eqx.partition(p.net, ink.trainable(p.net))

    def slope(t, params, args):
        return jax.tree.map(jnp.negative, gradient(eqx.combine(params, frozen), p.X, p.y))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Tsit5(),
        0.0,
        times[-1],
        0.01 * p.unit,
        params,
        saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        max_steps=10_000,
    )
    at = [jax.tree.map(lambda a, k=k: a[k], solution.ys) for k in range(len(times))]
    return np.stack([eqx.combine(params, frozen)(p.X) for params in at])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ramp(problem: Callable, euler: Callable, seed: int) -> None:
    """As many steps, short ones first, make less than half the error."""
    p = problem(seed=seed, **CELLS["tanh"])
    times = p.times(0.0, 1.0, 3.0, 8.0)
    exact = p.flow(times, euler(p.unit / 200)).u
    ramped = p.flow(times, euler(p.unit, ramp=0.1))
    even = p.flow(times, euler(8 * p.unit / int(ramped.steps)))
    assert even.steps == ramped.steps

    def worst(u: jax.Array) -> float:
        return np.linalg.norm(u - exact, axis=1).max()

    assert worst(ramped.u) < worst(even.u) / 2
    assert ramped.metrics["integrator_error"].max() < even.metrics["integrator_error"].max() / 2


def test_ramp_ends_at_dt(problem: Callable, euler: Callable) -> None:
    """`dt_k = min(dt, ramp (t_k + 1/lambda_max))`, counted by hand."""
    p = problem(seed=1, **CELLS["tanh"])
    dt, ramp, times = 0.5 * p.unit, 0.3, p.times(0.0, 1.0, 3.0, 8.0)
    ends = [0.0]
    while ends[-1] < times[-1]:
        ends.append(ends[-1] + min(dt, ramp * (ends[-1] + p.unit)))
    taken = np.searchsorted(ends[1:], times, side="right")
    assert p.flow(times, euler(dt, ramp=ramp)).metrics["steps"].tolist() == taken.tolist()


def test_stability(problem: Callable, by_hand: Callable, euler: Callable) -> None:
    """Refused from `2/lambda_max` on, where it does diverge; accepted just below."""
    p = problem(seed=1, **CELLS["linear"])
    times = p.times(*RECORDS)
    stable = 2 * p.unit
    message = (
        rf"dt=.* is unstable: Euler needs dt < 2/lambda_max\(H\) = {stable:.4g}; pass dt={stable / 4:.2g}"
    )
    for dt in (1.001 * stable, 10 * stable):
        with pytest.raises(ValueError, match=message) as caught:
            p.flow(times, euler(dt))
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=message):
            p.flow(times, euler(dt, ramp=0.1))
        with pytest.raises(ValueError, match="is unstable"):
            p.flow(times, ink.Euler(dt))
    below = p.flow(times, euler(0.999 * stable))
    assert np.isfinite(below.loss).all()


def test_unstable_indeed(problem: Callable, by_hand: Callable) -> None:
    """From targets a hair away, where the kernel cannot change: 1% above the bound grows, 1% below falls."""
    p = problem(seed=1, **CELLS["linear"])
    fastest = np.linalg.eigh(np.asarray(ink.ntk(p.net, p.X)))[1][:, -1]
    near = dataclasses.replace(p, y=p.net(p.X) - 1e-6 * fastest)
    for factor in (1.01, 0.99):
        nets = by_hand(near, 20 * [factor * 2 * p.unit])
        first, last = (np.linalg.norm(net(p.X) - near.y) for net in (nets[0], nets[-1]))
        assert_allclose(last / first, abs(1 - 2 * factor) ** 20, rtol=1e-3)


@pytest.mark.parametrize("only", ["u", "loss", "net"])
def test_stability_inside_jit(problem: Callable, euler: Callable, only: str) -> None:
    """The refusal survives whatever little is asked of the run."""
    p = problem(seed=1)
    times = p.times(0.0, 1.0)

    @eqx.filter_jit
    def run(net: ink.AbstractNetwork, dt: jax.Array) -> jax.Array:
        traj = ink.gradient_flow(net, p.X, p.y, times, ink.Euler(dt, solver_share=0.0))
        return jax.tree.leaves(getattr(traj, only))[0]

    assert np.isfinite(run(p.net, jnp.asarray(1.9 * p.unit))).all()
    for dt in (2.1, -0.1):
        with pytest.raises(RuntimeError, match="dt is unstable"):
            run(p.net, jnp.asarray(dt * p.unit))


OPTIONS = {
    "zero dt": ({"dt": 0.0}, "dt must be positive and finite"),
    "negative dt": ({"dt": -0.1}, "dt must be positive and finite"),
    "infinite dt": ({"dt": np.inf}, "dt must be positive and finite"),
    "NaN dt": ({"dt": np.nan}, "dt must be positive and finite"),
    "array of a negative dt": ({"dt": jnp.asarray(-0.1)}, "dt must be positive and finite"),
    "array of a NaN": ({"dt": jnp.asarray(np.nan)}, "dt must be positive and finite"),
    "zero ramp": ({"dt": 0.1, "ramp": 0.0}, r"ramp must lie in \(0, 1\].*None is constant"),
    "large ramp": ({"dt": 0.1, "ramp": 1.5}, r"ramp must lie in \(0, 1\]"),
    "NaN ramp": ({"dt": 0.1, "ramp": np.nan}, r"ramp must lie in \(0, 1\]"),
    "negative share": ({"dt": 0.1, "solver_share": -0.1}, r"solver_share must lie in \[0, 0.5\]"),
    "large share": ({"dt": 0.1, "solver_share": 0.6}, r"solver_share must lie in \[0, 0.5\], got 0.6"),
    "NaN share": ({"dt": 0.1, "solver_share": np.nan}, r"solver_share must lie in \[0, 0.5\]"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str) -> None:
    options, message = OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        ink.Euler(**options)


@pytest.mark.parametrize("options", [{"dt": 1}, {"dt": jnp.asarray(0.1)}, {"dt": 0.1, "ramp": 1}])
def test_options_accepted(options: dict) -> None:
    ink.Euler(**options)


def test_a_hundred_thousand_float32_steps() -> None:
    """The compensated sum ends where the steps do; the plain sum is lost long before."""
    dt, count = jnp.float32(1e-3), 100_000

    def step(_, sums):
        time, rounding, plain = sums
        return *_compensated_sum(time, rounding, dt), plain + dt

    zero = jnp.float32(0)
    time, _, plain = jax.jit(lambda: jax.lax.fori_loop(0, count, step, (zero, zero, zero)))()
    exact = count * float(dt)
    assert time.dtype == jnp.float32
    assert abs(float(time) - exact) <= 2 * np.spacing(np.float32(exact))
    assert abs(float(plain) - exact) > 1e3 * np.spacing(np.float32(exact))
