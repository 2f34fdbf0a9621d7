"""Pairs of parallel samples.

Two inputs equal up to a positive factor make the limit kernel of a relu network without biases
singular. The theorems assume more, that no two inputs are parallel, antiparallel ones included
(GLL22).
"""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float, Int

from ._checks import check_count, check_rows
from ._unit_norm import unit_norm

Rows = Float[np.ndarray, "n d"] | Float[jax.Array, "n d"]
Pairs = Int[np.ndarray, "pairs 2"]

TOLERANCE = 1e-6

# Cosines of float64 rows carry rounding errors of about d eps
_LEAST_TOLERANCE = 1e-12


def parallel_pairs(X: Rows, tolerance: float = TOLERANCE, tile: int = 1024) -> Pairs:
    """All pairs i < j of rows with |cos(x_i, x_j)| >= 1 - tolerance, sorted, shape (pairs, 2).

    Finds duplicates, scaled copies and antiparallel rows. The tolerance is an angle of
    sqrt(2 tolerance) radians: the default 1e-6 is 0.08 degrees. Cosines are float64 whatever the
    dtype of `X`, and `tile` x `tile` of them exist at a time: n^2 d flops, no n x n array.

    **Raises:** `ValueError` for a row without direction (zeros, NaN, infinities), a tolerance
    outside [1e-12, 1) or a tile below 1.
    """
    tiles = list(pairs_by_tile(X, tolerance, tile))
    pairs = np.concatenate([np.empty((0, 2), np.int64), *tiles])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def pairs_by_tile(X: Rows, tolerance: float, tile: int = 1024) -> Iterator[Pairs]:
    """The pairs of `parallel_pairs`, tile by tile."""
    check_tolerance(tolerance)
    check_count("tile", tile, least=1)
    # float64 before the division: rounding to float32 after it would cost 1e-7 of the cosine
    U = unit_norm(check_rows("X", X).astype(np.float64))
    for i in range(0, len(U), tile):
        for j in range(i, len(U), tile):
            cosines = U[i : i + tile] @ U[j : j + tile].T
            pairs = np.argwhere(np.abs(cosines) >= 1 - tolerance) + np.array([i, j])
            yield pairs[pairs[:, 0] < pairs[:, 1]]


def check_tolerance(tolerance: float) -> None:
    """Raises `ValueError` outside [1e-12, 1)."""
    if not _LEAST_TOLERANCE <= tolerance < 1:
        raise ValueError(f"tolerance: {tolerance} is not in [{_LEAST_TOLERANCE}, 1); below, rounding decides")
