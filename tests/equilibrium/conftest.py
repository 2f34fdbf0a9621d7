"""What the tests of the solver share: cells, an independent reference, and a precise method."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from implicit_ntk.equilibrium import ImplicitAdjoint, Method, Neumann, Picard


def _linear(z, args):
    A, phi = args
    return z @ A + phi


def _tanh(z, args):
    return jnp.tanh(_linear(z, args))


def _relu(z, args):
    return jax.nn.relu(_linear(z, args))


CELLS = {"linear": _linear, "tanh": _tanh, "relu": _relu}


@pytest.fixture
def cells() -> dict[str, Callable]:
    """`z -> sigma(z A + phi)`, `args = (A, phi)`, by the name of sigma; module-level functions."""
    return CELLS


@pytest.fixture
def arguments() -> Callable:
    """`(key, n, m, norm) -> (A, phi)` with `||A||_2 = norm`, in JAX's default float type."""

    def make(key: jax.Array, n: int = 3, m: int = 5, norm: float = 0.5) -> tuple:
        key_A, key_phi = jax.random.split(key)
        A = jax.random.normal(key_A, (m, m))
        return norm * A / jnp.linalg.norm(A, 2), jax.random.normal(key_phi, (n, m))

    return make


@pytest.fixture
def unrolled() -> Callable:
    """The reference: `f` applied 150 times, with nothing of the library in it."""

    def run(f: Callable, z0, args):
        return jax.lax.scan(lambda z, _: (f(z, args), None), z0, length=150)[0]

    return run


@pytest.fixture
def precise() -> Method:
    """Solves to rounding, forward and adjoint."""
    return Method(Picard(rtol=0.0), ImplicitAdjoint(Neumann(rtol=0.0)))
