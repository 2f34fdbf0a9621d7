"""Noise that makes parallel samples distinct."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from ._checks import check_rows
from ._keys import check_key
from ._parallel import TOLERANCE, Rows, check_tolerance, pairs_by_tile
from ._unit_norm import unit_norm

# Noise that clears the tolerance needs one round, or two where it hits a third sample
_MAX_ROUNDS = 20


def perturb_parallel(
    key: PRNGKeyArray, X: Rows, scale: float = 1e-2, tolerance: float = TOLERANCE
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " k"]]:
    """Gaussian noise on one of each pair of parallel rows, until none is left (GLL22, section 4).

    The later row of a pair becomes (x + scale g) / ||x + scale g||, g ~ N(0, I/d), so that `scale`
    is the length of the noise relative to the unit row and about the angle in radians by which it
    turns (its size is our choice). All other rows keep their bits.

    Returns the new rows, in the dtype of `X`, and the positions of those that changed, sorted.

    **Raises:** `ValueError` if rows are not of unit norm, if d < 2 (all rows of one number are
    parallel), if `scale` is too small for the tolerance, or if pairs are left after 20 rounds;
    `TypeError` if `key` is not a key.
    """
    check_key(key)
    check_tolerance(tolerance)
    _check_scale(scale, tolerance)
    out = _unit_rows(X).copy()
    changed = np.zeros(len(out), bool)
    for round_key in jax.random.split(key, _MAX_ROUNDS):
        later = _later_of_pairs(out, tolerance)
        if not later.any():
            return out, np.flatnonzero(changed)
        out[later] = _noisy(round_key, out, scale)[later]
        changed |= later
    raise ValueError(
        f"scale: rows are still parallel after {_MAX_ROUNDS} rounds of noise {scale}; raise scale, "
        f"lower tolerance {tolerance}, or take fewer samples of more dimensions"
    )


def _later_of_pairs(X: Float[np.ndarray, "n d"], tolerance: float) -> Bool[np.ndarray, " n"]:
    """Which rows are parallel to an earlier one."""
    later = np.zeros(len(X), bool)
    for pairs in pairs_by_tile(X, tolerance):
        later[pairs[:, 1]] = True
    return later


def _noisy(key: PRNGKeyArray, X: Float[np.ndarray, "n d"], scale: float) -> Float[np.ndarray, "n d"]:
    # All rows, used or not: one shape is one compilation. float32 draws always, so that a key means
    # the same noise with and without x64.
    g = np.asarray(jax.random.normal(key, X.shape, jnp.float32)) / np.sqrt(X.shape[1])
    return unit_norm(X + scale * g).astype(X.dtype)


def _check_scale(scale: float, tolerance: float) -> None:
    # noise of length s turns a row by about s, which leaves a cosine of 1 - s^2/2
    least = np.sqrt(2 * tolerance)
    if not least < scale < np.inf:
        raise ValueError(f"scale: {scale} cannot clear tolerance {tolerance}; pass more than {least:.1e}")


def _unit_rows(X: Rows) -> Float[np.ndarray, "n d"]:
    array = check_rows("X", X)
    if array.shape[1] < 2:
        raise ValueError("X: rows of one number are all parallel; pass d of at least 2")
    off = np.abs(np.linalg.norm(array.astype(np.float64), axis=1) - 1)
    if len(off) and off.max() > 1e-3:
        raise ValueError(f"X: row {off.argmax()} is not of unit norm; pass unit_norm(X)")
    return array
