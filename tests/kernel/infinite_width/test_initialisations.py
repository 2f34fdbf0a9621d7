"""The limits of half-normal and diagonal weights against wide networks."""

import math
from typing import Any, cast

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk import infinite_width


def unit_inputs(rng: np.random.Generator, n: int = 4, d: int = 5) -> np.ndarray:
    X = rng.normal(size=(n, d))
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def relative_distance(H: Any, limit: Any) -> float:
    return float(np.linalg.norm(H - limit) / np.linalg.norm(limit))


def test_formulas(rng: np.random.Generator, x64: None) -> None:
    """For unit inputs, as the sheet has them; for others by homogeneity."""
    X = unit_inputs(rng)
    G, slopes = infinite_width.kappa1(np.clip(X @ X.T, -1, 1)), infinite_width.kappa0(np.clip(X @ X.T, -1, 1))
    c = 1 / 0.7**2 - 1
    half_normal = infinite_width.half_normal(X, 0.3)
    assert_allclose(half_normal, 0.09 * (math.pi / 2) * (G + c / (2 * math.pi)), rtol=1e-10)
    assert_allclose(infinite_width.diagonal(X, 0.3), 0.09 * G * slopes, rtol=1e-7)
    norms = np.array([0.5, 2.0, 3.0, 1.0])
    for limit in (infinite_width.half_normal, infinite_width.diagonal):
        assert_allclose(limit(X * norms[:, None], 0.3), limit(X, 0.3) * np.outer(norms, norms), rtol=1e-7)
        assert np.isfinite(jax.jit(limit)(X, 0.3)).all()


def test_bad_input(unchecked: None) -> None:
    X, text = np.ones((2, 2)), cast(Any, "0.3")
    for gamma0 in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"^gamma0 must be in \[0, 1\)"):
            infinite_width.half_normal(X, gamma0)
    for limit in (infinite_width.half_normal, infinite_width.diagonal):
        with pytest.raises(ValueError, match=r"^X must have shape \(n, d\)"):
            limit(X[0], 0.3)
        with pytest.raises(TypeError, match="^gamma0 must be a number"):
            limit(X, text)


@pytest.mark.slow
def test_half_normal_networks(rng: np.random.Generator, key: jax.Array) -> None:
    """`m H` comes closer with the width, as the sheet's .091 and .046 at 500 and 2000."""
    X = unit_inputs(rng).astype("float32")
    limit, distances = infinite_width.half_normal(X, 0.3), []
    for m, seeds in ((250, 8), (2000, 8)):
        draw = lambda k, m=m: ink.ReluImplicit.init(  # noqa: E731
            k, 5, m, gamma0=0.3, a_init=ink.init.half_normal, scaling="operator_norm"
        )
        kernels = [m * ink.ntk(draw(k), X) for k in jax.random.split(key, seeds)]
        distances.append(np.mean([relative_distance(H, limit) for H in kernels]))
    assert distances[1] < 0.6 * distances[0]
    assert distances[1] < 0.08


@pytest.mark.slow
def test_diagonal_networks(rng: np.random.Generator, key: jax.Array) -> None:
    """`H` comes closer with the width; the limit has no trace of the implicit layer."""
    X = unit_inputs(rng).astype("float32")
    limit, distances = infinite_width.diagonal(X, 0.4), []
    for m in (250, 4000):
        draw = lambda k, m=m: ink.ReluImplicit.init(k, 5, m, gamma0=0.4, a_init=ink.init.diagonal)  # noqa: E731
        kernels = [ink.ntk(draw(k), X) for k in jax.random.split(key, 8)]
        distances.append(np.mean([relative_distance(H, limit) for H in kernels]))
    assert distances[1] < 0.5 * distances[0]
    assert distances[1] < 0.1
