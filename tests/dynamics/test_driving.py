"""Records leave the run alone, and a loop of one's own makes the same run, bit for bit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.dynamics import assemble, pose, reported, segment, start

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

UNITS = (0.0, 1.1, 3.0, 7.9)


def integrator_of(p) -> ink.Euler:
    """A ramp and a tied tolerance: everything that could depend on where the records are."""
    return ink.Euler(jnp.asarray(0.5 * p.unit), ramp=0.3)


def by_segments(p, times: np.ndarray) -> tuple[ink.Trajectory, list]:
    """What `gradient_flow` does, as a loop; and the states on the way."""
    problem = pose(p.net, p.X, p.y, p.X_test, p.y_test)
    integrator = integrator_of(p)
    problem = integrator.check(problem)
    state, records, states = start(problem, integrator), [], []
    times = jnp.asarray(times)
    for time in times:
        state, rec = segment(problem, integrator, state, time)
        records.append(rec)
        states.append(state)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *records)
    return reported(assemble(problem, integrator, times, state, stacked), problem.method), states


def same(a: object, b: object) -> bool:
    """Bit for bit."""
    equal = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), a, b)
    return all(jax.tree.leaves(equal))


@pytest.mark.parametrize("units", [(7.9,), (0.4, 1.1, 2.0, 2.01, 3.0, 5.0, 7.9)])
def test_recording_changes_nothing(problem: Callable, units: tuple) -> None:
    p = problem(seed=1)
    few, many = (p.flow(p.times(*u), integrator_of(p)) for u in (UNITS, units))
    assert same(few.net, many.net)
    for name in ("steps", "forward_evaluations", "adjoint_evaluations"):
        assert getattr(few, name) == getattr(many, name)
    common = [(UNITS.index(u), units.index(u)) for u in UNITS if u in units]
    for i, j in common:
        assert same(few.u[i], many.u[j])
        assert same(few.metrics["distance_A"][i], many.metrics["distance_A"][j])
        assert same(few.metrics["steps"][i], many.metrics["steps"][j])
        # solved from the last record's equilibria, and so the same to the tolerance only
        assert_allclose(few.f[i], many.f[j], atol=1e-11)


def test_by_segments(problem: Callable) -> None:
    """The command's loop on the host makes the run that `gradient_flow` makes in one scan."""
    p = problem(seed=1)
    times = p.times(*UNITS)
    whole = p.flow(times, integrator_of(p))
    found, _ = by_segments(p, times)
    assert jax.tree.structure(found) == jax.tree.structure(whole)
    for name in ("times", "u", "f", "loss", "metrics", "net", "steps", "status"):
        assert same(getattr(found, name), getattr(whole, name)), name


def test_going_on_from_a_state(problem: Callable) -> None:
    """A checkpoint is the state: on the way through the host nothing is lost."""
    p = problem(seed=1)
    times = p.times(*UNITS)
    _, states = by_segments(p, times)
    problem_ = pose(p.net, p.X, p.y, p.X_test, p.y_test)
    stored = jax.tree.map(np.asarray, states[1])
    resumed, _ = segment(problem_, integrator_of(p), jax.tree.map(jnp.asarray, stored), jnp.asarray(times[2]))
    assert same(resumed, states[2])


def test_every_mode_is_followed(problem: Callable) -> None:
    """With a ramp no mode of the linearised dynamics is off by more than `ramp / 2` of its amplitude."""
    p = problem(seed=1)
    times = p.times(*UNITS)
    _, states = by_segments(p, times)
    for state in states:
        time = state.integrator.time
        off = np.abs(state.integrator.amplification - np.exp(-np.asarray(p.eigenvalues) * time))
        assert off.max() < 0.3 / 2


def test_what_is_factored_serves_the_whole_run(problem: Callable) -> None:
    """The chord's inverse is formed at the start, never on the way, and the run is the same."""
    p = problem()
    method = ink.Method.of(ink.Chord())
    posed, times = pose(p.net, p.X, p.y, method=method), p.times(0.0, 2.0, 5.0)
    assert posed.method.solver.inverse.shape == p.net.A.shape
    integrator = ink.Euler(jnp.asarray(0.5 * p.unit), solver_share=0)
    state = start(posed, integrator)
    program = str(jax.make_jaxpr(lambda state: segment(posed, integrator, state, jnp.asarray(1.0)))(state))
    assert "= lu " not in program and "while" in program
    chord = ink.gradient_flow(p.net, p.X, p.y, times, integrator, method=method)
    assert_allclose(chord.u, ink.gradient_flow(p.net, p.X, p.y, times, integrator).u, rtol=1e-8, atol=1e-9)
