"""Initialisers of `A`: their moments, and the norms that the theory sheet quotes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink

HALF_MEAN = np.sqrt(2 / np.pi)
M = 400


@pytest.mark.parametrize(
    ("draw", "mean", "variance", "fourth"),
    [
        (ink.init.normal, 0.0, 1.0, 3.0),
        (ink.init.half_normal, HALF_MEAN, 1 - HALF_MEAN**2, None),
    ],
)
def test_moments(
    draw: Callable, mean: float, variance: float, fourth: float | None, key: jax.Array, dtype: np.dtype
) -> None:
    A = draw(key, (M, M), dtype)
    assert (A.shape, A.dtype) == ((M, M), dtype)
    A = np.asarray(A, float)
    assert abs(A.mean() - mean) < 5 * np.sqrt(variance) / M
    assert abs(A.var() - variance) < 5 * 2 / M
    if fourth is not None:
        assert abs((A**4).mean() - fourth) < 5 * np.sqrt(96) / M


def test_half_normal_is_positive(key: jax.Array) -> None:
    assert (ink.init.half_normal(key, (M, M), jnp.float32) >= 0).all()


def test_diagonal(key: jax.Array, dtype: np.dtype) -> None:
    A = np.asarray(ink.init.diagonal(key, (M, M), dtype))
    d = np.diagonal(A)
    assert A.dtype == dtype
    assert_array_equal(A, np.diag(d))
    assert abs(d.mean()) < 5 / np.sqrt(M)
    assert abs(d.var() - 1) < 5 * np.sqrt(2 / M)


@pytest.mark.parametrize("draw", [ink.init.normal, ink.init.half_normal, ink.init.diagonal])
def test_same_key_same_draw(draw: Callable, key: jax.Array) -> None:
    first, again, other = (draw(k, (9, 9), jnp.float32) for k in (key, key, jax.random.fold_in(key, 1)))
    assert_array_equal(first, again)
    assert (np.diagonal(first) != np.diagonal(other)).all()


def test_norms(key: jax.Array) -> None:
    """`||A|| ~ 2 sqrt(m)` for Gaussian entries, `m sqrt(2/pi)` for half-normal ones."""
    gaussian, half = (
        np.linalg.norm(draw(key, (M, M), jnp.float32), 2) for draw in (ink.init.normal, ink.init.half_normal)
    )
    assert_allclose(gaussian, 2 * np.sqrt(M), rtol=0.03)
    assert_allclose(half, M * HALF_MEAN, rtol=0.01)
