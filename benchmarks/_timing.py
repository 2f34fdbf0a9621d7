"""What the benchmarks share: interleaved timing, and peak memory from the compiler."""

import time
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call, its result awaited."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def interleaved(runs: list[Callable[[], object]], repeats: int) -> Float[np.ndarray, "repeats runs"]:
    """Times of several runs taken in turn, A B C A B C, after one warm-up of each."""
    for run in runs:
        seconds(run)
    return np.array([[seconds(run) for run in runs] for _ in range(repeats)])


def describe(ratios: Float[np.ndarray, " repeats"]) -> str:
    """Median and quartiles of ratios taken pair by pair."""
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{median:.3f} (quartiles {low:.3f} to {high:.3f}, {ratios.size} pairs)"


def device() -> str:
    """The device and the version that a figure was taken with."""
    first = jax.devices()[0]
    return f"{first.device_kind} ({first.platform}), {len(jax.devices())} device(s), jax {jax.__version__}"
