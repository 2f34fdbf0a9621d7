"""The residual against the iteration."""

import jax
import numpy as np
import pytest

import implicit_ntk as ink


def test_it_is_what_a_loop_by_hand_finds(x64, key, rng):
    net = ink.ReluImplicit.init(key, 3, 9, gamma0=0.6)
    X = rng.normal(size=(4, 3))
    found = ink.convergence(net, X, ink.Method(solver=ink.Picard(damping=0.5)), steps=7)
    phi = np.maximum(X @ np.asarray(net.W), 0)
    z = phi
    for row in found:
        fz = np.maximum(float(net.gamma) * z @ np.asarray(net.A) + phi, 0)
        np.testing.assert_allclose(row, np.linalg.norm(fz - z, axis=1) / np.linalg.norm(fz, axis=1))
        z = (z + fz) / 2


def test_only_rounding_stops_it(x64, key, rng):
    net = ink.ReluImplicit.init(key, 3, 9, gamma0=0.2)
    found = np.asarray(ink.convergence(net, rng.normal(size=(2, 3)), steps=60))
    assert found[-1].max() < 1e-15 < found[20].max()


def test_divergence_is_shown_and_not_raised(key, rng):
    net = ink.MonotoneImplicit.init(key, 3, 40)
    X = rng.normal(size=(2, 3)).astype(np.float32)
    assert np.all(ink.convergence(net, X, ink.Method(), steps=30)[-1] > 1e-2)
    assert np.all(ink.convergence(net, X, steps=30)[-1] < 1e-5)


def test_bad_input(key, rng):
    net = ink.ReluImplicit.init(key, 3, 9)
    with pytest.raises(ValueError, match=r"^steps must be a positive integer"):
        ink.convergence(net, jax.numpy.ones((2, 3)), steps=0)
