"""Noise on parallel samples: enough, on the right ones, and on no others."""

from typing import Any

import jax
import numpy as np
import pytest

from implicit_ntk.data import parallel_pairs, perturb_parallel, unit_norm

DTYPES = [np.float32, np.float64]


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    """0, 3 and 7 the same, 5 the negative of 2; 0 to 9."""
    X = unit_norm(rng.standard_normal((10, 50)))
    X[3] = X[7] = X[0]
    X[5] = -X[2]
    return X


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [3e-3, 1e-2, 0.3])
def test_one_of_each_pair(X: np.ndarray, key: jax.Array, dtype: type, scale: float) -> None:
    X = X.astype(dtype)
    before = X.copy()
    found, changed = perturb_parallel(key, X, scale)
    assert found.dtype == dtype
    assert changed.tolist() == [3, 5, 7]
    kept = np.setdiff1d(np.arange(10), changed)
    np.testing.assert_array_equal(found[kept], before[kept])
    np.testing.assert_array_equal(X, before)
    assert len(parallel_pairs(found)) == 0
    norms = np.linalg.norm(found.astype(float), axis=1)
    np.testing.assert_allclose(norms, 1.0, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [3e-3, 1e-2, 3e-2])
def test_scale_is_the_length_of_the_noise(X: np.ndarray, key: jax.Array, scale: float) -> None:
    # E||g||^2 = 1; the part along x is lost by normalising: 1 of d directions
    same = np.repeat(X[:1], 400, axis=0)
    found, changed = perturb_parallel(key, same, scale)
    assert changed.tolist() == list(range(1, 400))
    moved = np.sum((found[1:] - same[1:]) ** 2, axis=1)
    assert moved.mean() == pytest.approx(scale**2 * (1 - 1 / 50), rel=0.05)


def test_nothing_to_do(X: np.ndarray, key: jax.Array) -> None:
    distinct = X[[0, 1, 2, 4]]
    found, changed = perturb_parallel(key, distinct)
    np.testing.assert_array_equal(found, distinct)
    assert changed.shape == (0,)
    assert np.issubdtype(changed.dtype, np.integer)


def test_noise_can_take_several_rounds(key: jax.Array, rng: np.random.Generator) -> None:
    # 60 lines in a plane, 3 degrees apart on average: noise puts some next to others
    X, tolerance = unit_norm(rng.standard_normal((60, 2))), 1e-4
    found, changed = perturb_parallel(key, X, scale=0.1, tolerance=tolerance)
    assert len(parallel_pairs(found, tolerance)) == 0
    assert changed.tolist() == np.flatnonzero((found != X).any(axis=1)).tolist()
    at_first = np.unique(parallel_pairs(X, tolerance)[:, 1])
    assert set(at_first) < set(changed)


def test_key_decides(X: np.ndarray, key: jax.Array) -> None:
    first, _ = perturb_parallel(key, X)
    again, _ = perturb_parallel(key, X)
    other, _ = perturb_parallel(jax.random.fold_in(key, 1), X)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first[3] - other[3]).max() > 1e-4
    assert np.abs(first[3] - first[7]).max() > 1e-4  # each row has noise of its own


def test_same_noise_with_and_without_x64(X: np.ndarray, key: jax.Array) -> None:
    with jax.enable_x64(True):
        wide, _ = perturb_parallel(key, X)
    with jax.enable_x64(False):
        narrow, _ = perturb_parallel(key, X)
    np.testing.assert_allclose(wide, narrow, rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-3, np.nan, np.inf])
def test_scale_that_cannot_do(X: np.ndarray, key: jax.Array, scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale: .* cannot clear tolerance 1e-06; pass more than"):
        perturb_parallel(key, X, scale)


def test_no_room(key: jax.Array) -> None:
    X = unit_norm(np.ones((200, 2)))  # 200 lines in a plane cannot be 2.6 degrees apart
    with pytest.raises(ValueError, match="scale: rows are still parallel after 20 rounds"):
        perturb_parallel(key, X, scale=0.1, tolerance=1e-3)


def test_rows_that_are_not_of_unit_norm(X: np.ndarray, key: jax.Array) -> None:
    X[4] *= 1.01
    with pytest.raises(ValueError, match=r"X: row 4 is not of unit norm; pass unit_norm\(X\)"):
        perturb_parallel(key, X)


def test_other_errors(X: np.ndarray, key: jax.Array) -> None:
    with pytest.raises(ValueError, match="X: rows of one number are all parallel"):
        perturb_parallel(key, np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"tolerance: 2\.0 is not in"):
        perturb_parallel(key, X, tolerance=2.0)
    with pytest.raises(ValueError, match="X: row 1 has a NaN"):
        perturb_parallel(key, np.array([[1.0, 0.0], [np.nan, 1.0]]))
    bad: Any = 0
    with pytest.raises(TypeError, match="key"):
        perturb_parallel(bad, X)
