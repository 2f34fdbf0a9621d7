"""Several outputs: the flow as a loop by hand, and the twin as the one of the flattened kernel."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

K = 3
STEP = 0.4
UNITS = (0.0, 2 * STEP, 3.5 * STEP)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("centred", [False, True])
def test_equals_a_loop_by_hand(problem: Callable, by_hand: Callable, euler: Callable, centred: bool) -> None:
    """Outputs, loss, errors and the steps' own error, from networks that `jax.grad` arrives at."""
    p = problem(seed=1, n=5, m=12, outputs=(K,), centred=centred, trained=("A", "b"))
    dt = STEP * p.unit
    traj = p.flow(p.times(*UNITS), euler(dt))
    nets = by_hand(p, 4 * [dt])
    half = jax.tree.map(lambda a, b: (a + b) / 2, nets[3], nets[4])
    at = [nets[0], nets[2], half]
    u, f = (np.stack([net(X) for net in at]) for X in (p.X, p.X_test))
    assert traj.u.shape == (3, 5, K)
    assert traj.f.shape == (3, 3, K)
    assert_allclose(traj.u, u, **CLOSE)
    assert_allclose(traj.f, f, **CLOSE)
    assert_allclose(ink.predict(traj, p.X_test), f[-1], **CLOSE)
    assert_allclose(traj.loss, np.sum((u - np.asarray(p.y)) ** 2, axis=(1, 2)) / 2, **CLOSE)
    start = 1 if centred else 0  # all outputs are equal at first, but for rounding
    for name, values, y in (("train_error", u, p.y), ("test_error", f, p.y_test)):
        want = np.mean(values.argmax(axis=2) != np.asarray(y).argmax(axis=1), axis=1)
        assert_allclose(traj.metrics[name][start:], want[start:])
    H = np.asarray(ink.ntk(p.net, p.X)).reshape(5 * K, 5 * K)
    one, first = np.eye(5 * K) - dt * H, np.ravel(p.net(p.X) - p.y)
    numerical = (np.eye(5 * K) - 0.5 * dt * H) @ np.linalg.matrix_power(one, 3) @ first
    error = np.linalg.norm(numerical - scipy.linalg.expm(-3.5 * dt * H) @ first)
    assert_allclose(traj.metrics["integrator_error"][-1], error, rtol=1e-9)


def test_tied_tolerance(problem: Callable, euler: Callable) -> None:
    """Each output's adjoint is solved as loosely as a scalar one: the run changes by little."""
    p = problem(seed=1, n=5, m=12, outputs=(K,), activation="tanh")
    times = p.times(0.0, 2.0, 4.0)
    full, tied = (p.flow(times, euler(0.1 * p.unit, solver_share=share)) for share in (0.0, 0.05))
    assert tied.adjoint_evaluations < 0.7 * full.adjoint_evaluations
    assert 0 < np.abs(tied.u - full.u).max() < 0.1 * full.metrics["integrator_error"].max()


def test_the_first_of_equal_outputs_counts(problem: Callable, euler: Callable) -> None:
    """A read-out of zeros says class 0 of everything."""
    p = problem(seed=1, n=5, m=12, outputs=(K,))
    nothing = eqx.tree_at(lambda net: net.b, p.net, jnp.zeros_like(p.net.b))
    p = dataclasses.replace(p, net=nothing, y=jnp.eye(K)[jnp.asarray([0, 1, 2, 0, 1])])
    traj = p.flow(p.times(0.0, 1.0), euler(STEP * p.unit))
    assert_allclose(traj.metrics["train_error"], 3 / 5)


def test_one_output_is_a_sign(problem: Callable, euler: Callable) -> None:
    """(n, 1) is (n,) with an axis, errors included."""
    p = problem(seed=1, n=5, m=12)
    net = eqx.tree_at(lambda net: net.b, p.net, p.net.b[:, None])
    one = dataclasses.replace(p, net=net, y=p.y[:, None], y_test=p.y_test[:, None])
    found, want = (q.flow(p.times(0.0, 1.0), euler(STEP * p.unit)) for q in (one, p))
    assert found.u.shape == (2, 5, 1)
    assert_allclose(found.u[..., 0], want.u, **CLOSE)
    for name in ("train_error", "test_error", "test_loss", "integrator_error"):
        assert_allclose(found.metrics[name], want.metrics[name], **CLOSE)


def test_the_twin_of_the_flattened_kernel(rng: np.random.Generator) -> None:
    """Shapes apart, `lin` of (n, k, n, k) is `lin` of (n k, n k)."""
    n, q, N = 4, 2, 4 * K
    J, J0 = rng.normal(size=(N, 3 * N)), rng.normal(size=(q * K, 3 * N))
    H, k0 = J @ J.T / N, J0 @ J.T / N
    u0, y, f0 = rng.normal(size=N), rng.normal(size=N), rng.normal(size=q * K)
    flat = ink.linearized_flow(H, u0, y)
    lin = ink.linearized_flow(H.reshape(n, K, n, K), u0.reshape(n, K), y.reshape(n, K))
    unseen = k0.reshape(q, K, n, K), f0.reshape(q, K)
    times = np.array([0.0, 0.3, np.inf])
    assert_array_equal(lin(0.3), flat(0.3).reshape(n, K))
    assert_array_equal(lin(times), flat(times).reshape(3, n, K))
    assert_array_equal(lin.at(0.3, *unseen), flat.at(0.3, k0, f0).reshape(q, K))
    assert_array_equal(lin.at(times, *unseen), flat.at(times, k0, f0).reshape(3, q, K))
    assert_array_equal(lin.limit(*unseen), flat.limit(k0, f0).reshape(q, K))
    assert_allclose(lin(0.3), y.reshape(n, K) - (scipy.linalg.expm(-0.3 * H) @ (y - u0)).reshape(n, K))


@pytest.mark.slow
def test_wide_networks_follow_their_twin(problem: Callable, euler: Callable) -> None:
    """The k-output run of a wide network stays near `lin`, on the data and off them."""
    p = problem(seed=2, n=5, m=400, outputs=(2,))
    times = p.times(1.0, 4.0)
    traj = p.flow(times, euler(0.1 * p.unit))
    lin = ink.linearized_flow(ink.ntk(p.net, p.X), p.net(p.X), p.y)
    size = np.linalg.norm(p.y - p.net(p.X))
    assert np.linalg.norm(traj.u - lin(times), axis=(1, 2)).max() < 0.15 * size
    f = lin.at(times, ink.ntk(p.net, p.X_test, p.X), p.net(p.X_test))
    assert np.linalg.norm(traj.f - f, axis=(1, 2)).max() < 0.15 * size
    assert np.linalg.norm(traj.u[-1] - p.net(p.X)) > 0.3 * size, "it has moved"


@pytest.mark.usefixtures("unchecked")
def test_bad_input(problem: Callable) -> None:
    p = problem(seed=1, n=5, m=12, outputs=(K,))
    for y in (p.y[:, 0], p.y[:, :2]):
        with pytest.raises(ValueError, match=r"^y must have shape \(5, 3\), a row of targets a sample, got"):
            ink.gradient_flow(p.net, p.X, y, [1.0], ink.Euler(0.1))
    with pytest.raises(ValueError, match=r"^y_test must have shape \(3, 3\)"):
        ink.gradient_flow(p.net, p.X, p.y, [1.0], ink.Euler(0.1), p.X_test, p.y_test[:, 0])
    H = np.eye(6).reshape(2, 3, 2, 3)
    with pytest.raises(ValueError, match=r"^u0 must have shape \(2, 3\)"):
        ink.linearized_flow(H, np.zeros(6), np.zeros((2, 3)))
    lin = ink.linearized_flow(H, np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"^k0 must have shape \(q, 3, 2, 3\), got \(1, 6\); pass k0"):
        lin.at(1.0, np.zeros((1, 6)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"^f0 must have shape \(1, 3\)"):
        lin.at(1.0, np.zeros((1, 3, 2, 3)), np.zeros(3))
