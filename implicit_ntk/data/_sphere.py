"""Synthetic data on the unit sphere."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from ._checks import check_count, check_dtype, check_one_of
from ._keys import check_key
from ._unit_norm import unit_norm

# Hidden units of the teacher: enough for a curved boundary, few enough to be learnt
_TEACHER_WIDTH = 16


def sphere(
    key: PRNGKeyArray,
    n: int,
    d: int,
    labels: str = "teacher",
    dtype: Any = np.float32,
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """X (n, d) uniform on the unit sphere of R^d, and labels y (n,) in {-1, +1}.

    - "teacher": y = sign(f(x) - median f), f(x) = sum_k a_k relu(w_k.x), a two-layer network of 16
      units with w_k ~ N(0, I) and random signs a_k. The median is that of the sample: n // 2
      labels are -1 and the others +1. For train and test from one teacher, split one draw.
    - "random": independent fair signs, so that with probability 2^(1-n) only one class is present.

    X depends on `key`, n and d only, not on `labels`; it is drawn in float32 and normalised in
    float64, and so is the same in both dtypes up to rounding, with and without x64.

    **Raises:** `ValueError` for n < 2, d < 2 (all points are then parallel) or other `labels`,
    `TypeError` for a `key` that is not one or another dtype.
    """
    check_key(key)
    check_count("n", n, least=2, why=", one for each class")
    check_count("d", d, least=2, why="; on a line all samples are parallel")
    check_one_of("labels", labels, ("teacher", "random"))
    dtype = check_dtype(dtype)
    key_X, key_y = jax.random.split(key)
    X = unit_norm(_normal(key_X, (n, d)))
    y = _teacher_signs(key_y, X) if labels == "teacher" else _random_signs(key_y, n)
    return X.astype(dtype), y.astype(dtype)


def _teacher_signs(key: PRNGKeyArray, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    key_w, key_a = jax.random.split(key)
    hidden = np.maximum(X @ _normal(key_w, (X.shape[1], _TEACHER_WIDTH)), 0)
    f = hidden @ _random_signs(key_a, _TEACHER_WIDTH)
    # by rank, not by comparison with the median: balanced also where values are tied
    rank = np.argsort(np.argsort(f, kind="stable"), kind="stable")
    return np.where(rank < len(X) // 2, -1.0, 1.0)


def _random_signs(key: PRNGKeyArray, n: int) -> Float[np.ndarray, " n"]:
    # a Python 0.5 would be float64 with x64, and then other bits are drawn
    return np.where(np.asarray(jax.random.bernoulli(key, np.float32(0.5), (n,))), 1.0, -1.0)


def _normal(key: PRNGKeyArray, shape: tuple[int, int]) -> Float[np.ndarray, "..."]:
    return np.asarray(jax.random.normal(key, shape, jnp.float32)).astype(np.float64)
