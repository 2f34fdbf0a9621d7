"""What the tests of the solver share: cells as module-level functions, so that they are compiled once."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import pytest


def linear(z, args):
    A, phi = args
    return z @ A + phi


def tanh(z, args):
    return jnp.tanh(linear(z, args))


def relu(z, args):
    return jax.nn.relu(linear(z, args))


@pytest.fixture(autouse=True)
def quick_compilation() -> Iterator[None]:
    """The programs here are many and small and run once: do without LLVM's optimisations."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def cells() -> dict[str, Callable]:
    """`z -> sigma(z A + phi)`, `args = (A, phi)`, by the name of sigma."""
    return {"linear": linear, "tanh": tanh, "relu": relu}


@pytest.fixture
def arguments(key) -> Callable:
    """`(n, m, norm) -> (A, phi)` with `||A||_2 = norm`, in JAX's default float type."""

    def make(n: int = 3, m: int = 5, norm: float = 0.5) -> tuple[jax.Array, jax.Array]:
        key_A, key_phi = jax.random.split(key)
        A = jax.random.normal(key_A, (m, m))
        return norm * A / jnp.linalg.norm(A, 2), jax.random.normal(key_phi, (n, m))

    return make
