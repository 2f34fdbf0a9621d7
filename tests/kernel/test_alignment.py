"""Targets in the eigenbasis of a kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink

N = 6


@pytest.fixture
def H(rng: np.random.Generator) -> np.ndarray:
    J = rng.normal(size=(N, 3 * N))
    return J @ J.T


def test_against_numpy(x64: None, rng: np.random.Generator, H: np.ndarray) -> None:
    y = rng.normal(size=N)
    found = ink.alignment(H, y)
    lam, Q = np.linalg.eigh(H)
    assert_allclose(found.eigenvalues, lam[::-1])
    assert_allclose(found.shares, (Q[:, ::-1].T @ y) ** 2 / (y @ y), rtol=1e-9)
    assert_allclose(found.cumulative[-1], 1)
    kernel_target = np.sum(H * np.outer(y, y)) / (np.linalg.norm(H) * (y @ y))
    assert_allclose(found.kernel_target, kernel_target, rtol=1e-10)
    assert found.resolved.all()
    assert found.unresolved_share == 0


def test_along_one_eigenvector(dtype: np.dtype, H: np.ndarray) -> None:
    """All of `y` along the second: cumulative is a step, and the alignment `lam_2 / ||H||_F`."""
    lam, Q = np.linalg.eigh(H.astype(dtype))
    found = ink.alignment(H.astype(dtype), 1e-25 * Q[:, -2])
    assert_allclose(found.shares, [0, 1, 0, 0, 0, 0], atol=1e-5)
    assert_allclose(found.cumulative, [0, 1, 1, 1, 1, 1], atol=1e-5)
    assert_allclose(found.kernel_target, lam[-2] / np.linalg.norm(lam), rtol=1e-5)
    assert found.shares.dtype == dtype


def test_several_outputs(x64: None, rng: np.random.Generator) -> None:
    """As the matrix of all the outputs, flattened."""
    J, y = rng.normal(size=(N, 20)), rng.normal(size=(3, 2))
    H = J @ J.T
    one, other = ink.alignment(H.reshape(3, 2, 3, 2), y), ink.alignment(H, y.reshape(-1))
    assert_allclose(one.shares, other.shares)


def test_several_columns(x64: None, rng: np.random.Generator, H: np.ndarray) -> None:
    """For a scalar output, taken together."""
    Y = rng.normal(size=(N, 2))
    found = ink.alignment(H, Y)
    Q = np.linalg.eigh(H)[1]
    assert_allclose(found.shares, ((Q.T @ Y) ** 2).sum(axis=1)[::-1] / np.sum(Y**2), rtol=1e-9)
    kernel_target = np.sum(H * (Y @ Y.T)) / (np.linalg.norm(H) * np.linalg.norm(Y @ Y.T))
    assert_allclose(found.kernel_target, kernel_target, rtol=1e-10)
    assert_allclose(ink.alignment(H, Y[:, :1]).shares, ink.alignment(H, Y[:, 0]).shares)


def test_what_is_unresolved(x64: None) -> None:
    found = ink.alignment(np.diag([1.0, 0.5, 1e-6]), np.array([1.0, 1.0, 2.0]), relative_residual=1e-5)
    assert list(found.resolved) == [True, True, False]
    assert_allclose(found.unresolved_share, 4 / 6)


def test_transformations(x64: None, H: np.ndarray) -> None:
    ys = jnp.eye(N)
    many = jax.jit(jax.vmap(lambda y: ink.alignment(H, y).shares))(ys)
    assert_allclose(many.sum(axis=0), np.ones(N))


BAD = {
    "shape": (np.ones(N + 1), None, ValueError, r"y must have shape \(6,\)"),
    "columns": (np.ones((N + 1, 2)), None, ValueError, r"y must have shape \(6, 2\)"),
    "zero": (np.zeros(N), None, ValueError, "y must not be all zero"),
    "NaN": (np.full(N, np.nan), None, ValueError, "y holds NaN"),
    "residual": (np.ones(N), -1.0, ValueError, "relative_residual must be >= 0"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, H: np.ndarray) -> None:
    y, residual, error, message = BAD[case]
    with pytest.raises(error, match=message):
        ink.alignment(H, y, residual)
    with pytest.raises(TypeError, match="H must be an array, got list"):
        ink.alignment([[1.0]], y)
