"""The linearised network, trained exactly; and how a run strays from it, in two parts."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.dynamics import Deviation, Taylor

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
UNITS = (0.0, 2.0, 5.0)
SMALL = dict(seed=1, n=5, m=12, activation="tanh", trained=("A", "b"))


def dense(net: ink.AbstractNetwork, X: jax.Array) -> np.ndarray:
    """`J` as a matrix, leaves in the order of `trained`."""
    J = ink.jacobian(net, X, kind="dense")
    return np.concatenate([np.reshape(J.rows[name], (J.shape[0], -1)) for name in net.trained], axis=1)


def linear_flow(J: np.ndarray, r: np.ndarray, t: float) -> np.ndarray:
    """`v(t)` of `dv/dt = -J^T (r + J v)`, by an exponential in the space of the parameters."""
    system = np.zeros((J.shape[1] + 1,) * 2)
    system[:-1, :-1], system[:-1, -1] = -J.T @ J, -J.T @ r
    return scipy.linalg.expm(system * t)[:-1, -1]


def test_trained_exactly(problem: Callable) -> None:
    """Parameters and outputs of the explicit linear model, and of the twin that knows the kernel alone."""
    p = problem(**SMALL)
    once = check_training(p)
    J, start, t = dense(p.net, everything(p)), np.asarray(p.net(everything(p))), 3 * p.unit
    H = J @ J.T
    twin = ink.linearized_flow(H[:5, :5], start[:5], p.y)
    assert_allclose(once(everything(p)), np.r_[twin(t), twin.at(t, H[5:, :5], start[5:])], **CLOSE)


@pytest.mark.slow
def test_two_outputs(problem: Callable) -> None:
    check_training(problem(seed=1, n=5, m=12, outputs=(2,), centred=True))


def everything(p) -> jax.Array:
    """Training data and unseen data in one batch."""
    return jnp.concatenate([p.X, p.X_test])


def check_training(p) -> Taylor:
    """Against the explicit model: at some time, in two steps, and in the limit."""
    tay, X, t, rows = ink.taylor(p.net), everything(p), 3 * p.unit, p.y.size
    J, start = dense(p.net, X), np.asarray(p.net(X))
    assert tay.distance == 0
    assert_allclose(tay(X), start, **CLOSE)
    train, r = J[:rows], np.ravel(start)[:rows] - np.ravel(p.y)
    once, limit = tay.trained(p.X, p.y, t), tay.trained(p.X, p.y)
    least = np.linalg.lstsq(train, -r)[0]
    for model, v, off in ((once, linear_flow(train, r, t), 1e-10), (limit, least, 1e-7)):
        found = np.concatenate([np.ravel(model.displacement[name]) for name in p.net.trained])
        assert_allclose(found, v, atol=off)
        assert_allclose(model(X), start + (J @ v).reshape(start.shape), atol=off)
        assert_allclose(model.distance, np.linalg.norm(v), rtol=10 * off)
    last = p.net.trained[-1]
    assert_allclose(once.distances[last], np.linalg.norm(once.displacement[last]), **CLOSE)
    twice = tay.trained(p.X, p.y, t / 3).trained(p.X, p.y, 2 * t / 3)
    assert_allclose(twice(X), once(X), **CLOSE)
    return once


def test_what_is_refused(problem: Callable, unchecked: None) -> None:
    p = problem(**SMALL)
    tay = ink.taylor(p.net)
    with pytest.raises(TypeError, match="^net must be a network"):
        ink.taylor("net")
    with pytest.raises(ValueError, match=r"^y must have shape \(5,\)"):
        tay.trained(p.X, p.y[:3])
    with pytest.raises(ValueError, match="lambda_min is not resolved"):
        tay.trained(p.X.at[1].set(p.X[0]), p.y)
    with pytest.raises(TypeError, match="^t must be a number"):
        tay.trained(p.X, p.y, np.ones(2))
    with pytest.raises(TypeError, match="^integrator must be an integrator"):
        ink.deviation(p.net, p.X, p.y, [1.0], 0.1)
    with pytest.raises(ValueError, match="^times ends in inf, but of 5 eigenvalues 3 are known"):
        ink.deviation(p.net, p.X, p.y, [1.0, np.inf], ink.KrylovExponential(krylov=3))


def stray(p, dt: float) -> Deviation:
    """One program serves all."""
    return ink.deviation(p.net, p.X, p.y, p.times(*UNITS), ink.Heun(jnp.asarray(dt * p.unit)), p.X_test)


def test_deviation(problem: Callable) -> None:
    """Both parts, on both kinds of data, from a dense Jacobian and the network at the end of the run."""
    p = problem(**SMALL)
    found, X = stray(p, 0.2), everything(p)
    J, start, traj = dense(p.net, X), np.asarray(p.net(X)), found.trajectory
    v = np.r_[np.ravel(traj.net.A - p.net.A), traj.net.b - p.net.b]
    tangent = start + J @ v
    linear = start + J @ linear_flow(J[:5], start[:5] - np.asarray(p.y), UNITS[-1] * p.unit)
    outputs = np.asarray(traj.net(X))
    for split, rows in ((found.train, slice(0, 5)), (found.test, slice(5, 8))):
        assert_allclose(split.curvature[-1], (outputs - tangent)[rows], atol=1e-9)
        assert_allclose(split.drift[-1], (tangent - linear)[rows], atol=1e-9)
        assert_allclose(split.total[0], 0, atol=1e-9)
        assert np.abs(split.curvature[-1]).max() > 0.01 and np.abs(split.drift[-1]).max() > 0.01
    assert_allclose(found.train.total, traj.u - found.twin(found.times), atol=1e-12)
    assert_allclose(found.times, p.times(*UNITS))


def test_both_parts_are_of_second_order(problem: Callable) -> None:
    """Targets ten times nearer make a hundredth of both, to a tenth: the tangent is the tangent."""
    p = problem(**SMALL)
    u0, sizes = p.net(p.X), []
    for near in (1e-3, 1e-4):
        found = stray(dataclasses.replace(p, y=u0 + near * p.y), 0.005)
        splits = found.train, found.test
        sizes.append([np.linalg.norm(part[-1]) for s in splits for part in (s.curvature, s.drift)])
    assert_allclose(np.divide(*sizes), 100, rtol=0.1)


@pytest.mark.slow
def test_a_linear_network_does_not_stray(problem: Callable) -> None:
    """One that trains its read-out alone has no curvature, and no drift but its integrator's error."""
    p = problem(**(SMALL | {"trained": ("b",)}))
    found = ink.deviation(p.net, p.X, p.y, p.times(*UNITS), ink.RK4(0.02 * p.unit), p.X_test)
    for split in (found.train, found.test):
        assert_allclose(split.curvature, 0, atol=1e-9)
        assert_allclose(split.drift, 0, atol=1e-6)
    assert np.linalg.norm(found.trajectory.u[-1] - found.trajectory.u[0]) > 0.3, "it has moved"


@pytest.mark.slow
def test_both_parts_fall_with_the_width(problem: Callable) -> None:
    """From 50 to 800 units, over three seeds: each part by more than half of the factor of four."""
    sizes = []
    for m in (50, 800):
        parts = []
        for seed in (1, 2, 3):
            p = problem(seed=seed, m=m, centred=True)
            run = ink.deviation(p.net, p.X, p.y, p.times(1.0, 4.0, 16.0), ink.RK4(0.5 * p.unit), p.X_test)
            split = run.train
            parts.append([np.linalg.norm(part, axis=1).max() for part in (split.curvature, split.drift)])
        sizes.append(np.median(parts, axis=0))
    assert (sizes[1] < sizes[0] / 2).all(), sizes


@pytest.mark.slow
def test_to_the_end_of_time(problem: Callable) -> None:
    """At `t = inf` the run and its twin interpolate: on the data the two parts cancel."""
    p = problem(seed=1, m=200)
    times = np.append(p.times(1.0), np.inf)
    found = ink.deviation(p.net, p.X, p.y, times, ink.Exponential(1e-3), p.X_test)
    assert_allclose(found.train.total[-1], 0, atol=1e-8)
    assert np.abs(found.train.drift[-1]).max() > 1e-3
    assert np.abs(found.test.total[-1]).max() > 1e-3
