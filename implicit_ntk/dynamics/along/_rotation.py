"""How far the leading eigenvectors of a kernel have turned, where there are gaps that tell them apart."""

import numpy as np
from jaxtyping import Float
from scipy.linalg import subspace_angles

GAP = 0.1
"""Eigenvectors are told apart where the next eigenvalue is smaller by more than this share."""


def dimensions_of(eigenvalues: Float[np.ndarray, " N"], resolution: float, top: int) -> tuple[int, ...]:
    """The d up to `top` for which the first d of descending eigenvalues are apart from the rest.

    Within a cluster eigenvectors are any basis of a space: it is taken as a whole or not at all.
    """
    return tuple(
        d
        for d in range(1, min(top, eigenvalues.size - 1) + 1)
        if eigenvalues[d - 1] > resolution and eigenvalues[d] < (1 - GAP) * eigenvalues[d - 1]
    )


def rotation(
    start: Float[np.ndarray, "N top"],
    now: Float[np.ndarray, "N top"],
    eigenvalues: Float[np.ndarray, " N"],
    resolution: float,
    dimensions: tuple[int, ...],
) -> Float[np.ndarray, " D"]:
    """The largest principal angle, in radians, between the first d eigenvectors then and now, for each d.

    NaN where the d-th gap of the present `eigenvalues` is within their resolution: which space leads is not
    known there.
    """
    gaps = eigenvalues[:-1] - eigenvalues[1:]
    return np.array(
        [
            subspace_angles(start[:, :d], now[:, :d]).max() if gaps[d - 1] > resolution else np.nan
            for d in dimensions
        ]
    )
