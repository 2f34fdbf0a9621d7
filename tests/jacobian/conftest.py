"""What the tests of this folder share."""

import zlib
from collections.abc import Iterator

import jax
import jaxtyping
import numpy as np
import pytest


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator of the test's own. Inputs come from NumPy: XLA compiles a draw for every shape."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(autouse=True)
def quick_compilation() -> Iterator[None]:
    """Small programs that run once: do without LLVM's optimisations."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations unchecked, as outside the test suite: arguments of the wrong form reach the door."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
