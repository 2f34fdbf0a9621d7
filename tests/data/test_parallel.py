"""Parallel pairs: all that were planted are found, and no others."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.data import parallel_pairs

# jaxtyping's checks, where the suite switches them on, come first, as a TypeError
BAD_SHAPE = (ValueError, TypeError)


def brute_force(X: np.ndarray, tolerance: float) -> list[tuple[int, int]]:
    def parallel(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(abs(a @ b) >= (1 - tolerance) * np.linalg.norm(a) * np.linalg.norm(b))

    n = len(X)
    return [(i, j) for i in range(n) for j in range(i + 1, n) if parallel(X[i], X[j])]


def planted(rng: np.random.Generator, dtype: type) -> np.ndarray:
    """Rows 1 and 8 duplicates, 2 and 5 scaled copies, 0, 4 and 9 antiparallel or parallel."""
    X = rng.standard_normal((11, 30))
    X[8] = X[1]
    X[5] = 1e6 * X[2]
    X[4] = -X[0]
    X[9] = 1e-6 * X[0]
    return X.astype(dtype)


PLANTED = [[0, 4], [0, 9], [1, 8], [2, 5], [4, 9]]


@pytest.mark.parametrize("tile", [1, 2, 3, 11, 1024])
@pytest.mark.parametrize("tolerance", [1e-12, 1e-6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_planted(rng: np.random.Generator, tile: int, tolerance: float, dtype: type) -> None:
    if dtype == np.float32 and tolerance < 1e-7:
        tolerance = 1e-11  # rounding the planted rows to float32 turns them by 6e-8 or so
    assert parallel_pairs(planted(rng, dtype), tolerance, tile).tolist() == PLANTED


def test_jax_array(rng: np.random.Generator) -> None:
    assert parallel_pairs(jnp.asarray(planted(rng, np.float32))).tolist() == PLANTED


def test_against_brute_force(rng: np.random.Generator) -> None:
    X = rng.standard_normal((60, 3))  # crowded: many pairs at a coarse tolerance
    for tolerance in (1e-3, 1e-2, 0.3):
        expected = brute_force(X, tolerance)
        assert len(expected) > 0
        found = parallel_pairs(X, tolerance, tile=17)
        assert [tuple(pair) for pair in found.tolist()] == expected


@pytest.mark.parametrize("tolerance", [1e-10, 1e-6, 1e-3])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_tolerance_is_an_angle(tolerance: float, sign: int) -> None:
    def two(angle: float) -> np.ndarray:
        return np.array([[1.0, 0.0], [sign * np.cos(angle), sign * np.sin(angle)]])

    angle = np.sqrt(2 * tolerance)
    assert len(parallel_pairs(two(0.99 * angle), tolerance)) == 1
    assert len(parallel_pairs(two(1.01 * angle), tolerance)) == 0


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs(n: int) -> None:
    found = parallel_pairs(np.ones((n, 3)))
    assert found.shape == (0, 2)
    assert np.issubdtype(found.dtype, np.integer)


def test_memory_is_tiled(rng: np.random.Generator) -> None:
    X = rng.standard_normal((3000, 4))
    tracemalloc.start()
    try:
        parallel_pairs(X, 1e-9, tile=256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3000**2 * 8 / 10


def test_errors() -> None:
    X = np.ones((3, 2))
    for tolerance in (0.0, 1e-13, 1.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"tolerance: .* is not in"):
            parallel_pairs(X, tolerance)
    with pytest.raises(ValueError, match="tile: 0 is too small"):
        parallel_pairs(X, tile=0)
    with pytest.raises(ValueError, match="X: sample 1 is all zero"):
        parallel_pairs(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="X: row 0 has a NaN"):
        parallel_pairs(np.full((1, 2), np.nan))
    with pytest.raises(BAD_SHAPE, match="X"):
        parallel_pairs(np.ones(3))
