"""What every test shares: a strict JAX, precisions, keys, tolerances, and the image data.

Test files take what they need from here by fixture; nothing imports this module.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# For the tests and for the processes they start: no window, and no worker takes a whole GPU.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import chex
import jax
import jaxtyping
import numpy as np
import pytest

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")

# How far two routes to one number may differ, by what they have in common.
TOLERANCES = {
    # The same algebra in another order: only rounding differs.
    "algebra": {"float32": 1e-5, "float64": 1e-12},
    # Through a fixed-point solve at its default tolerance, 1e-6 or 1e-12, amplified.
    "solve": {"float32": 1e-4, "float64": 1e-10},
    # Against central finite differences, whose own error is eps^(2/3) at the very best.
    "difference": {"float32": 2e-2, "float64": 1e-6},
}


def pytest_report_header() -> str:
    data = os.environ.get("IMPLICIT_NTK_DATA", "not set")
    return f"jax: {jax.__version__}, IMPLICIT_NTK_DATA: {data}"


@pytest.fixture(autouse=True)
def _trace_counts() -> None:
    """Count traces from zero in each test, or `chex.assert_max_traces` would add up its cases."""
    chex.clear_trace_counter()


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module() -> Iterator[None]:
    """Let go of the compiled programs of each file: thousands in one process exhaust its memory maps."""
    yield
    jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[np.dtype]:
    """Each precision in turn, as a NumPy dtype; x64 is on for float64 only."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.fixture(autouse=True)
def _precision_of_the_process() -> Iterator[None]:
    """A command sets 64 bits for its process; here that is the tests', which go on without."""
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def x64() -> Iterator[None]:
    """Enable x64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A PRNG key of the test's own: the same in every run, order and process, x64 or not."""
    return jax.random.key(zlib.crc32(request.node.nodeid.encode()) >> 1)


def _tolerance(request: pytest.FixtureRequest, kind: str) -> dict[str, float]:
    """The entry of the table for the precision that the test runs in."""
    if "dtype" in request.fixturenames:
        precision = str(request.getfixturevalue("dtype"))
    else:
        precision = "float64" if "x64" in request.fixturenames else "float32"
    value = TOLERANCES[kind][precision]
    return {"rtol": value, "atol": value}


@pytest.fixture
def tol(request: pytest.FixtureRequest) -> dict[str, float]:
    """`rtol` and `atol` for two routes of exact algebra: `assert_allclose(a, b, **tol)`."""
    return _tolerance(request, "algebra")


@pytest.fixture
def tol_solve(request: pytest.FixtureRequest) -> dict[str, float]:
    """`rtol` and `atol` for numbers that come through a fixed-point solve."""
    return _tolerance(request, "solve")


@pytest.fixture
def tol_difference(request: pytest.FixtureRequest) -> dict[str, float]:
    """`rtol` and `atol` for a derivative against finite differences."""
    return _tolerance(request, "difference")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator of the test's own. Inputs come from NumPy: XLA compiles a draw for every shape."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def quick_compilation() -> Iterator[None]:
    """Small programs that run once: do without LLVM's optimisations."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations unchecked, as for users: arguments of the wrong form reach our own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def products() -> Callable[[Any], list[Any]]:
    """From a jaxpr to its matrix products and convolutions, those in loops and calls included."""

    def found(jaxpr: Any) -> Iterator[Any]:
        for eqn in getattr(jaxpr, "eqns", None) or jaxpr.jaxpr.eqns:
            if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
                yield eqn
            for leaf in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns")):
                if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"):
                    yield from found(leaf)

    return lambda jaxpr: list(found(jaxpr))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real image data that IMPLICIT_NTK_DATA names."""
    if not os.environ.get("IMPLICIT_NTK_DATA"):
        pytest.skip("IMPLICIT_NTK_DATA names no folder of real image data")
    folder = Path(os.environ["IMPLICIT_NTK_DATA"])
    if not folder.is_dir():
        pytest.fail(f"IMPLICIT_NTK_DATA names {folder}, which is not a folder")
    return folder
