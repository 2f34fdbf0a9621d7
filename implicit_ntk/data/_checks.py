"""Checks of arguments: each raises one line that names the argument and the remedy."""

import operator
from collections.abc import Collection
from typing import Any

import numpy as np


def check_one_of(argument: str, value: Any, options: Collection[str]) -> None:
    """Raises `ValueError` unless `value` is one of `options`."""
    if value not in options:
        raise ValueError(f"{argument}: {value!r} is unknown; choose one of {', '.join(options)}")


def check_count(argument: str, value: Any, least: int, why: str = "") -> int:
    """`value` as an int; raises `TypeError` for a non-integer, `ValueError` below `least`."""
    try:
        count = operator.index(value)
    except TypeError:
        message = f"{argument}: expected a whole number, got {value!r}; give an int"
        raise TypeError(message) from None
    if count < least:
        raise ValueError(f"{argument}: {count} is too small; give at least {least}{why}")
    return count


def check_dtype(dtype: Any) -> np.dtype:
    """`dtype` as a NumPy dtype; raises `TypeError` unless it is float32 or float64."""
    try:
        # None would mean float64 to NumPy
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in (np.float32, np.float64):
        raise TypeError(f"dtype: {dtype!r} is not supported; pass float32 or float64")
    return found


def check_rows(argument: str, X: Any) -> np.ndarray:
    """`X` as a NumPy array; raises unless it is (n, d), floating and finite."""
    array = np.asarray(X)
    if array.ndim != 2:
        raise ValueError(f"{argument}: shape {array.shape} is not (n, d); pass samples as rows")
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{argument}: {array.dtype} is not floating; convert it first")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise ValueError(f"{argument}: row {bad[0]} has a NaN or an infinity; leave it out")
    return array
