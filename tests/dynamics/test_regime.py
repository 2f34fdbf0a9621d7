"""The lazy-or-rich meter: each number against what it is defined as, and from lazy to rich by the scale."""

import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.dynamics import Regime
from implicit_ntk.dynamics.along import _visit
from implicit_ntk.dynamics.along._rotation import dimensions_of, rotation
from implicit_ntk.networks import trained_leaves

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIONS = dict(seed=2, trained=("A", "b"), centred=True)
STEP = 0.1


@pytest.fixture
def meter(problem: Callable) -> Callable[..., tuple[ink.AbstractNetwork, Regime]]:
    """`meter(alpha, units)`: by Euler, at times of the scaled kernel: one program whatever the scale."""

    def run(alpha: float, *units: float) -> tuple[ink.AbstractNetwork, Regime]:
        p = problem(**OPTIONS)
        net, unit = ink.Scaled(p.net, alpha), p.unit / alpha**2
        integrator = ink.Euler(jnp.asarray(STEP * unit), solver_share=0.0)
        return net, ink.regime(net, p.X, p.y, np.array(units) * unit, integrator, density=4)

    return run


def test_against_definitions(problem: Callable, by_hand: Callable, meter: Callable, x64: None) -> None:
    """At Euler's own steps, whose networks are known."""
    p = problem(**OPTIONS)
    net, found = meter(2.0, 0.0, 1.0, 3.0)
    p = type(p)(net, p.X, p.y, p.X_test, p.y_test, p.eigenvalues)
    nets = by_hand(p, 30 * [STEP * p.unit / 4])
    X, y = np.asarray(p.X), np.asarray(p.y)
    asked = [nets[i] for i in (0, 10, 30)]
    kernels = [np.asarray(ink.ntk(each, X)) for each in asked]
    H0, size = kernels[0], np.linalg.norm(kernels[0])
    loss = [np.sum((each(X) - y) ** 2) / 2 for each in asked]
    assert_allclose(found.loss, loss, rtol=1e-8)
    assert_allclose(found.initial_loss, loss[0])
    drift = [np.linalg.norm(H - H0, 2) / np.linalg.norm(H0, 2) for H in kernels]
    assert_allclose(found.operator_drift, drift, rtol=1e-7, atol=1e-12)
    assert_allclose(found.frobenius_drift, [np.linalg.norm(H - H0) / size for H in kernels], atol=1e-9)
    moved = [np.linalg.norm(b - a) / size for a, b in itertools.pairwise(kernels)]
    assert_allclose(found.velocity, [0, *(moved / -np.diff(np.log(loss)))], rtol=1e-6, atol=1e-12)
    assert_allclose(found.kernel_target, [y @ H @ y / np.linalg.norm(H) / (y @ y) for H in kernels])
    assert_allclose(found.lambda_min, [np.linalg.eigvalsh(H)[0] for H in kernels], rtol=1e-6)
    on = [np.asarray(each.core.affine(each.inject(p.X))(ink.solve(each, X).z)) > 0 for each in asked]
    assert_array_equal(found.flips, [np.mean(now != on[0]) for now in on])
    assert found.flips[2] > 0
    for name in ("A", "b"):
        way = [np.linalg.norm(each.core.leaf(name) - net.core.leaf(name)) for each in asked]
        assert_allclose(found.distance[name], way, rtol=1e-6)
        assert_allclose(found.relative_distance[name], way / np.linalg.norm(net.core.leaf(name)), rtol=1e-6)


def test_shares(problem: Callable, gradient: Callable, by_hand: Callable, meter: Callable, x64: None) -> None:
    """`int ||dL/dtheta_g||^2 ds`, by the trapezoidal rule over Euler's own steps; they sum to the loss."""
    p = problem(**OPTIONS)
    net, found = meter(2.0, 0.0, 1.0, 3.0)
    p = type(p)(net, p.X, p.y, p.X_test, p.y_test, p.eigenvalues)
    dt = STEP * p.unit / 4
    slopes = [trained_leaves(gradient(each, p.X, p.y)) for each in by_hand(p, 30 * [dt])]
    total = sum(found.shares.values())
    assert_allclose(total, 1, rtol=1e-12)
    squares = {name: [float(jnp.sum(slope[name] ** 2)) for slope in slopes] for name in ("A", "b")}
    for name, rates in squares.items():
        assert_allclose(found.shares[name][0], rates[0] / (squares["A"][0] + squares["b"][0]))
        want = [0, np.trapezoid(rates[:11], dx=dt), np.trapezoid(rates, dx=dt)]
        assert_allclose(found.explained[name], want, rtol=0.05)
    missing = found.initial_loss - found.loss - found.explained["A"] - found.explained["b"]
    assert_allclose(found.loss_residual, missing / found.initial_loss, atol=1e-12)
    assert 0 < np.abs(found.loss_residual[1:]).max() < 0.05


def test_from_lazy_to_rich(meter: Callable, x64: None) -> None:
    """The drift falls, the way covered in the end like `1/alpha`; at t = 0 nothing has moved."""
    rich, middle, lazy = (meter(alpha, 0.0, 60.0)[1] for alpha in (0.5, 5.0, 50.0))
    for found in (rich, middle, lazy):
        assert found.operator_drift[0] == found.flips[0] == found.velocity[0] == found.distance["A"][0] == 0
    assert rich.flips[1] > middle.flips[1] >= lazy.flips[1]
    for name in ("operator_drift", "frobenius_drift", "velocity"):
        one, ten, hundred = (float(getattr(found, name)[1]) for found in (rich, middle, lazy))
        assert one > 2 * ten >= 4 * hundred, name
    assert_allclose(middle.relative_distance["A"][1] / lazy.relative_distance["A"][1], 10, rtol=0.2)
    assert str(rich).startswith("Rich at t = ")
    assert str(lazy).startswith("Lazy at t = ")
    for text in (f"{rich.flips[1]:.2%} of units switched", f"A {rich.shares['A'][1]:.1%}", "first 1: "):
        assert text in str(rich)
    blind = eqx.tree_at(lambda r: r.flips, rich, None)
    assert "no patterns: the cell is not relu of an affine map" in str(blind)


def test_dimensions() -> None:
    """A cluster is taken as a whole, or, where it is cut off, not at all; noise has no directions."""
    values = np.array([5.0, 3.0, 2.95, 1.0, 0.98, 0.5])
    assert dimensions_of(values, 1e-6, top=5) == (1, 3, 5)
    assert dimensions_of(values, 1e-6, top=2) == (1,)
    assert dimensions_of(values, 0.99, top=9) == (1, 3)
    assert dimensions_of(np.ones(4), 1e-6, top=3) == ()


def test_rotation(rng: np.random.Generator) -> None:
    """The largest principal angle: none within a cluster, and unknown once its gap has closed."""
    angle = 0.3
    turn = np.eye(4)
    turn[np.ix_([2, 3], [2, 3])] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    mix = np.eye(4)
    mix[:2, :2] = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    values = np.array([2.0, 2.0, 1.0, 0.5])
    found = rotation(np.eye(4)[:, :3], (turn @ mix)[:, :3], values, 1e-6, (2, 3))
    assert_allclose(found, [0, angle], atol=1e-12)
    found = rotation(np.eye(4)[:, :3], np.eye(4)[:, :3], np.array([2.0, 1.0, 1.0, 0.5]), 1e-6, (2, 3))
    assert_array_equal(found, [np.nan, 0])


@pytest.mark.slow
@pytest.mark.parametrize("around", ["centred inside", "centred outside"])
def test_drift_at_the_end_of_training(
    around: str, problem: Callable, x64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At `t = inf`, of either order of the wrappers, smooth cells that have no patterns."""
    p = problem(seed=3, activation="tanh", injection_activation="identity", trained=("A", "b"))

    def end(alpha: float) -> Regime:
        inside = around == "centred inside"
        net = ink.Scaled(ink.Centred(p.net), alpha) if inside else ink.Centred(ink.Scaled(p.net, alpha))
        return ink.regime(net, p.X, p.y, [np.inf], ink.Exponential(jnp.asarray(1e-3)))

    rich, middle, lazy = (end(alpha) for alpha in (1.0, 4.0, 16.0))
    assert rich.operator_drift > 2 * middle.operator_drift > 4 * lazy.operator_drift
    for found in (rich, middle, lazy):
        assert found.flips is None
        assert found.loss[0] < 1e-15
        assert np.abs(found.loss_residual[0]) < 2e-3
        assert_allclose(found.shares["A"] + found.shares["b"], 1, rtol=1e-12)
    monkeypatch.setattr(_visit, "LONGEST", 1e-3)  # much of the loss is still to be learnt there
    closed = end(100.0)
    assert closed.nodes < lazy.nodes / 2
    assert np.abs(closed.loss_residual[0]) < 0.02


@pytest.mark.slow
def test_after_a_failure(problem: Callable, x64: None) -> None:
    """What was there before remains; all that follows is NaN, and so is the verdict."""
    p = problem(**OPTIONS)
    integrator = ink.Exponential(1e-2, max_steps=2)
    times, method = p.times(0.0, 0.01, 30.0, 31.0), ink.Method(on_failure="report")
    found = ink.regime(p.net, p.X, p.y, times, integrator, method=method)
    assert found.status == ink.Status.NOT_FOLLOWED
    numbers = eqx.filter(found, lambda x: eqx.is_inexact_array(x) and x.shape[:1] == (4,))
    for values in jax.tree.leaves(eqx.tree_at(lambda r: r.times, numbers, None)):
        assert np.isfinite(values[:2]).all()
        assert np.isnan(values[2:]).all()
    assert str(found).startswith("No verdict at t = ")
    assert found.summary(1).startswith("Lazy at t = ")


def test_refused(problem: Callable, unchecked: None, x64: None) -> None:
    p = problem(**OPTIONS)
    net, integrator = ink.Scaled(p.net, 1.0), ink.Euler(jnp.asarray(STEP * p.unit))
    with pytest.raises(ValueError, match="^top must be a positive integer, got 0"):
        ink.regime(net, p.X, p.y, [1.0], integrator, top=0)
    with pytest.raises(ValueError, match="^density must be a positive integer, got 0.5"):
        ink.regime(net, p.X, p.y, [1.0], integrator, density=0.5)
    with pytest.raises(ValueError, match="^y must not be all zero"):
        ink.regime(net, p.X, 0 * p.y, [1.0], integrator)
    still = eqx.tree_at(lambda net: net.core.W, net, 0 * net.core.W)
    with pytest.raises(ValueError, match=r"^net does not change its outputs .* H\(0\) is zero"):
        ink.regime(still, p.X, p.y, [1.0], integrator)
    with pytest.raises(TypeError, match="^regime needs known arrays"):
        jax.jit(lambda X: ink.regime(net, X, p.y, [1.0], integrator).loss)(p.X)
