"""What the tests of the solver share: cells as module-level functions, so that they are compiled once."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest


def linear(z, args):
    A, phi = args
    return z @ A + phi


def tanh(z, args):
    return jnp.tanh(linear(z, args))


def relu(z, args):
    return jax.nn.relu(linear(z, args))


@pytest.fixture(autouse=True)
def _quick_compilation(quick_compilation: None) -> None:
    """The programs here are many and small and run once."""


@pytest.fixture
def cells() -> dict[str, Callable]:
    """`z -> sigma(z A + phi)`, `args = (A, phi)`, by the name of sigma."""
    return {"linear": linear, "tanh": tanh, "relu": relu}


@eqx.filter_jit
def solve_rows(linear_solver, A, rhs, guess=None):
    return linear_solver.solve(lambda x: x @ A, rhs, 1, guess)


@pytest.fixture
def rows() -> Callable:
    """`(linear_solver, A, rhs, guess=None) ->` what solving `x = x A + rhs` row by row gives."""
    return solve_rows


@pytest.fixture
def arguments(key) -> Callable:
    """`(n, m, norm) -> (A, phi)` with `||A||_2 = norm`, in JAX's default float type."""

    def make(n: int = 3, m: int = 5, norm: float = 0.5) -> tuple[jax.Array, jax.Array]:
        random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        A, phi = random.normal(size=(m, m)), random.normal(size=(n, m))
        return jnp.asarray(norm * A / np.linalg.norm(A, 2)), jnp.asarray(phi)

    return make
