"""The tied tolerance: how little it changes, and how much it saves."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_ntk as ink

UNITS = (0.0, 2.0, 5.0, 10.0, 20.0)
NO_RAMP = 1e9


def problem_of(problem: Callable, cell: str, seed: int):
    options = {"activation": cell, "injection_activation": cell}
    return problem(seed=seed, n=20, d=10, m=200, **options)


def at_tolerance(rtol: float) -> ink.Method:
    rtol = jnp.asarray(rtol)
    return ink.Method(solver=ink.Picard(rtol=rtol), adjoint=ink.ImplicitAdjoint(ink.Neumann(rtol=rtol)))


def changes(p, euler: Callable, ramp: float) -> np.ndarray:
    """At each time: the change that the default share makes, in units of Euler's own error."""
    method = at_tolerance(1e-6 if p.X.dtype == jnp.float32 else 1e-9)
    times, dt = p.times(*UNITS), 0.5 * p.unit

    def u(dt: float, ramp: float, share: float) -> np.ndarray:
        integrator = euler(dt, ramp, share)
        return np.asarray(ink.gradient_flow(p.net, p.X, p.y, times, integrator, method=method).u)

    full, tied, fine = u(dt, ramp, 0.0), u(dt, ramp, 0.05), u(dt / 16, ramp / 16, 0.0)
    return np.linalg.norm(tied - full, axis=1)[1:] / np.linalg.norm(full - fine, axis=1)[1:]


# A run without a ramp and one with it, and more seeds.
RAMPS = [NO_RAMP, pytest.param(0.1, marks=pytest.mark.slow)]
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_smooth_cell(problem: Callable, euler: Callable, dtype: np.dtype, seed: int, ramp: float) -> None:
    """Less than a tenth of Euler's own error, until nine tenths of the loss are gone."""
    assert (changes(problem_of(problem, "tanh", seed), euler, ramp)[:3] < 0.1).all()


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_relu_early(problem: Callable, euler: Callable, seed: int, ramp: float) -> None:
    """The same while the fast modes are learnt."""
    assert (changes(problem_of(problem, "relu", seed), euler, ramp)[:2] < 0.1).all()


@pytest.mark.slow
@pytest.mark.xfail(
    reason="Once a unit switches one step sooner or later the runs part: with every solve exact, weights "
    "that differ by 1e-6 part by up to half of Euler's own error.",
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_relu_late(problem: Callable, euler: Callable, seed: int) -> None:
    assert (changes(problem_of(problem, "relu", seed), euler, NO_RAMP) < 0.1).all()


@pytest.mark.slow
@pytest.mark.xfail(reason="0.16 to 0.29 at 20/lambda_max, where 1% of the loss is left: the adjoint's share.")
@pytest.mark.parametrize("ramp", [NO_RAMP, 0.1])
def test_a_smooth_cell_late(problem: Callable, euler: Callable, x64: None, ramp: float) -> None:
    assert (changes(problem_of(problem, "tanh", 3), euler, ramp) < 0.1).all()


@pytest.mark.parametrize("cell", ["relu", "tanh"])
@pytest.mark.parametrize("seed", SEEDS)
def test_cost(problem: Callable, euler: Callable, cell: str, seed: int) -> None:
    """Evaluations a step, in units of a cold solve's at 1e-6, for steps of a tenth of `1/lambda_max`."""
    p = problem_of(problem, cell, seed)
    method = at_tolerance(1e-6)
    for share, most in ((0.0, 0.75), (0.05, 0.5)):
        integrator = euler(0.1 * p.unit, NO_RAMP, share)
        traj = ink.gradient_flow(p.net, p.X, p.y, p.times(*UNITS), integrator, method=method)
        total = traj.metrics["forward_evaluations"] + traj.metrics["adjoint_evaluations"]
        assert (total[-1] - total[0]) / traj.steps < most * total[0]
