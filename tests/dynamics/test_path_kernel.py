"""The path kernel: contributions of training samples against the closed form, and the identity they obey."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.dynamics import PathKernel
from implicit_ntk.dynamics.along import _path_kernel, _visit

pytestmark = pytest.mark.usefixtures("quick_compilation")

REPORT = ink.Method(on_failure="report")
SMOOTH = dict(seed=3, activation="tanh", injection_activation="identity", centred=True)
TANH = dict(n=5, m=40, outputs=(2,), **SMOOTH)


def exponential(rtol: float, max_steps: int = 10_000) -> ink.Exponential:
    """Compiled once whatever the numbers."""
    values = jnp.asarray(rtol), jnp.asarray(max_steps)
    return eqx.tree_at(lambda e: (e.rtol, e.max_steps), ink.Exponential(), values)


def path(p, alpha: float, times: np.ndarray, integrator: ink.Exponential, density: int = 8) -> PathKernel:
    """Of the problem with its outputs scaled, at times of the scaled kernel: one program for all."""
    net = ink.Scaled(p.net, alpha)
    return ink.path_kernel(net, p.X, p.y, p.X_test, times / alpha**2, integrator, density, REPORT)


@pytest.mark.parametrize("longest", [100, 0.1])
def test_closed_form(longest: float, problem: Callable, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lazy run: `k_0(x, x_i) [Q (1 - e^{-lam t})/lam Q^T (y - u(0))]_i`, `H^{-1} (y - u(0))` at the end.

    Of two outputs, those of a training sample taken together; also where `H^{-1} r` closes much of it.
    """
    monkeypatch.setattr(_visit, "LONGEST", longest)
    p, alpha = problem(**TANH), 1e4
    n, q = len(p.X), len(p.X_test)
    times = np.append(p.times(0.0, 3.0), np.inf)
    found = path(p, alpha, times, exponential(1e-3))
    k = np.asarray(ink.ntk(p.net, jnp.concatenate([p.X_test, p.X]), p.X))
    lam, Q = np.linalg.eigh(k[q:].reshape(2 * n, 2 * n))
    growth = np.stack([-np.expm1(-lam * t) / lam for t in times])
    weights = ((growth * (Q.T @ np.ravel(p.y))) @ Q.T).reshape(-1, n, 2)  # u(0) = 0
    want = np.einsum("xcie,tie->txci", k, weights)
    contributions = np.concatenate([found.contributions, found.train_contributions], axis=1)
    assert found.contributions.shape == (3, q, 2, n)
    assert_array_equal(contributions[0], 0)
    scale = np.abs(want).max(axis=(1, 2, 3), keepdims=True)[1:]
    assert_allclose(contributions[1:] / scale, want[1:] / scale, atol=1e-3)
    assert_allclose(found.prediction, found.f, atol=2e-3)
    assert_allclose(found.u[-1], p.y, atol=1e-6)


def test_identity(problem: Callable, x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rich run's falls with the tolerance and the nodes, to the end of time; a wrong kernel is seen."""
    p = problem(**TANH)
    times = np.append(p.times(0.0, 3.0, 30.0), np.inf)

    def errors(found: PathKernel) -> np.ndarray:
        assert found.status <= ink.Status.STALLED
        assert found.residual[0] == found.train_residual[0] == 0
        return np.stack([found.relative_residual, found.relative_train_residual])[:, 1:]

    tolerances = exponential(1e-1), exponential(1e-2), exponential(1e-4)
    coarse, middle, fine = (errors(path(p, 1.0, times, each)).max(axis=1) for each in tolerances)
    assert (middle < coarse / 2).all() and (fine < middle / 10).all()
    assert (fine < 1e-3).all()
    sparse = errors(path(p, 1.0, times, tolerances[-1], density=2)).max(axis=1)
    assert (sparse > 3 * fine).all()
    right = _path_kernel._added

    def wrong(total, visit):
        return right(total, eqx.tree_at(lambda v: v.train.adjoint.z, visit, 1.05 * visit.train.adjoint.z))

    monkeypatch.setattr(_path_kernel, "_added", wrong)
    assert (errors(path(p, 1.0, times, tolerances[-1])) > 0.03).all()


def test_stiff(problem: Callable, x64: None) -> None:
    """Two samples almost one: an error of the fast modes must not count for as long as the slow one lasts."""
    p = problem(**TANH)
    p = dataclasses.replace(p, X=p.X.at[1].set(p.X[0] + 0.03 * p.X[2]), y=p.y.at[1].set(p.y[0]))
    found = path(p, 4.0, np.append(p.times(3.0), np.inf), exponential(1e-2))
    assert found.status <= ink.Status.STALLED
    assert (found.relative_residual < 0.02).all()
    assert (found.relative_train_residual < 0.02).all()


def test_after_a_failure(problem: Callable, x64: None) -> None:
    """What was there before remains; all that follows is NaN."""
    p = problem(**TANH)
    times = np.append(p.times(0.0, 0.01, 30.0), np.inf)
    found = path(p, 1.0, times, exponential(1e-2, max_steps=2))
    assert found.status == ink.Status.NOT_FOLLOWED
    for values in (found.contributions, found.train_contributions, found.f, found.u, found.residual):
        assert np.isfinite(values[:2]).all()
        assert np.isnan(values[2:]).all()


@pytest.mark.slow
def test_failure_is_raised(problem: Callable, x64: None) -> None:
    p = problem(**SMOOTH)
    with pytest.raises(ink.ConvergenceError, match="^after t=.*on_failure='report' returns the run up to"):
        ink.path_kernel(p.net, p.X, p.y, p.X_test, p.times(0.0, 30.0), exponential(1e-2, max_steps=2))


@pytest.mark.slow
def test_euler(problem: Callable, x64: None) -> None:
    """Whose error is of first order, and all there is to the residual."""
    p = problem(**SMOOTH)
    coarse, fine = (
        ink.path_kernel(p.net, p.X, p.y, p.X_test, p.times(1.0, 4.0), ink.Euler(jnp.asarray(dt * p.unit)))
        for dt in (0.2, 0.1)
    )
    for name in ("relative_residual", "relative_train_residual"):
        ratio = getattr(fine, name) / getattr(coarse, name)
        assert ((ratio > 0.3) & (ratio < 0.7)).all(), ratio
        assert (getattr(fine, name) < 0.1).all()


@pytest.mark.slow
def test_other_integrators(problem: Callable, x64: None) -> None:
    """Whatever has dense output; two exact ones leave the quadrature's error, which falls with the nodes."""
    p = problem(**SMOOTH)
    for integrator in (ink.RK4(0.2 * p.unit), ink.KrylovExponential(1e-4)):
        some, more = (
            ink.path_kernel(p.net, p.X, p.y, p.X_test, p.times(3.0, 30.0), integrator, density)
            for density in (3, 12)
        )
        assert (more.relative_residual < 1e-3).all()
        assert more.relative_residual.max() < some.relative_residual.max()


@pytest.mark.slow
def test_solves_of_reverse_mode_alone(problem: Callable, x64: None) -> None:
    """Also where dense output is made of solves, whose derivative in time is forward mode."""
    p = problem(**SMOOTH)
    found, want = (
        ink.path_kernel(
            p.net, p.X, p.y, p.X_test, p.times(1.0), ink.RK4(0.2 * p.unit), 3, ink.Method(adjoint=adjoint)
        )
        for adjoint in (ink.ReverseAdjoint(), ink.ImplicitAdjoint())
    )
    assert_allclose(found.contributions, want.contributions, rtol=1e-10, atol=1e-12)


def test_refused(problem: Callable, unchecked: None, x64: None) -> None:
    p = problem(**TANH)
    net, X, y, X_test = ink.Scaled(p.net, 1.0), p.X, p.y, p.X_test
    times, integrator = p.times(1.0), exponential(1e-2)
    with pytest.raises(ValueError, match="^density must be a positive integer, got 0"):
        ink.path_kernel(net, X, y, X_test, times, integrator, 0)
    with pytest.raises(TypeError, match="^X_test must be an array"):
        ink.path_kernel(net, X, y, None, times, integrator)
    with pytest.raises(TypeError, match="^integrator must be an integrator such as"):
        ink.path_kernel(net, X, y, X_test, times, 0.1)
    with pytest.raises(ValueError, match="^times must be finite for this integrator"):
        ink.path_kernel(net, X, y, X_test, [np.inf], ink.Euler(0.1))
    with pytest.raises(TypeError, match="^path_kernel needs known arrays"):
        jax.jit(lambda X: ink.path_kernel(net, X, y, X_test, times, integrator).f)(X)
    same = dataclasses.replace(p, X=X.at[1].set(X[0]))
    with pytest.raises(ValueError, match="^times ends in inf, but lambda_min is not resolved"):
        path(same, 1.0, np.array([1.0, np.inf]), integrator)


def test_memory(problem: Callable, monkeypatch: pytest.MonkeyPatch, x64: None) -> None:
    """The kernels of a node, and the contributions at all the times that are asked for, stacked."""
    p = problem(**TANH)
    times = np.linspace(0.0, p.unit, 1000)
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", "1000000")
    with pytest.raises(MemoryError, match="^the contributions needs .* pass fewer times or samples"):
        path(p, 1.0, times, exponential(1e-2))
