"""Rows of unit length."""

import numpy as np
from jaxtyping import Float

from ._checks import check_rows


def unit_norm(X: Float[np.ndarray, "n d"], argument: str = "X") -> Float[np.ndarray, "n d"]:
    """Each row divided by its Euclidean norm, in the dtype of `X`: x / ||x|| (GLL22, section 4).

    `argument` is what the error messages call `X`.

    **Raises:** `ValueError` for a row of zeros, NaN or infinities, `TypeError` for integers.
    """
    X = check_rows(argument, X)
    zero = np.flatnonzero(~X.any(axis=1))
    if len(zero):
        raise ValueError(f"{argument}: sample {zero[0]} is all zero; leave it out")
    # float64 and the largest entry first: squares of tiny or huge float32 entries leave its range
    rows = X.astype(np.float64)
    rows /= np.abs(rows).max(axis=1, keepdims=True)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(X.dtype)
