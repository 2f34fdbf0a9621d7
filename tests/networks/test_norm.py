"""The operator norm: exact for small matrices, Lanczos for large ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from implicit_ntk.networks import operator_norm

TOO_LARGE = 600  # past the size up to which singular values are computed


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (512, 8)])
def test_exact_for_small_matrices(
    shape: tuple[int, int], rng: np.random.Generator, dtype: np.dtype, tol: dict
) -> None:
    A = jnp.asarray(rng.normal(size=shape), dtype)
    found = operator_norm(A)
    assert found.dtype == dtype
    assert_allclose(found, np.linalg.norm(np.asarray(A, float), 2), **tol)


@pytest.mark.parametrize(
    "shape",
    [
        (TOO_LARGE, TOO_LARGE),
        pytest.param((TOO_LARGE, 530), marks=pytest.mark.slow),
        pytest.param((530, TOO_LARGE), marks=pytest.mark.slow),
        pytest.param((900, 900), marks=pytest.mark.slow),
        pytest.param((1200, 1200), marks=pytest.mark.slow),
    ],
)
def test_lanczos_from_below(shape: tuple[int, int], rng: np.random.Generator, dtype: np.dtype) -> None:
    A = jnp.asarray(rng.normal(size=shape), dtype)
    ratio = float(operator_norm(A)) / np.linalg.norm(np.asarray(A, float), 2)
    assert 1 - 1e-3 < ratio < 1 + 10 * jnp.finfo(dtype).eps


def exhausted() -> dict[str, np.ndarray]:
    """Matrices whose Krylov spaces end after one or two steps."""
    ones = np.ones((TOO_LARGE, TOO_LARGE))
    ramp = np.outer(np.linspace(-1, 2, TOO_LARGE), np.linspace(0, 1, TOO_LARGE))
    return {
        "zero": 0 * ones,
        "identity": np.eye(TOO_LARGE),
        "permutation": np.roll(np.eye(TOO_LARGE), 3, axis=0),
        "rank one": ones,
        "rank two": ones + ramp,
    }


@pytest.mark.parametrize("name", exhausted())
def test_exhausted_krylov_space(name: str, dtype: np.dtype) -> None:
    A = exhausted()[name]
    found = operator_norm(jnp.asarray(A, dtype))
    assert_allclose(found, np.linalg.norm(A, 2), rtol=1e-4, atol=0)


def test_derivative_is_that_of_the_largest_singular_value(rng: np.random.Generator, x64: None) -> None:
    A = rng.normal(size=(12, 12))
    left, _, right = np.linalg.svd(A)
    assert_allclose(jax.grad(operator_norm)(A), np.outer(left[:, 0], right[0]), atol=1e-12)
