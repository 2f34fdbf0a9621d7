"""How many seeds share a program: as many as pay and fit."""

import numpy as np

from implicit_ntk._memory import memory_limit, require_memory
from implicit_ntk.experiments.sweep._config import SweepConfig

PAYS = 2**18
"""Weights of all seeds together up to which one program is the faster way on a CPU."""

WEIGHTS, STATES = 24, 40
"""Arrays (m, m) and (n, m) that a run holds at once: weights at both ends of the last and of the tried step,
gradients, and the copies that loops make; equilibria and adjoint states of the same."""


def seeds_together(config: SweepConfig, width: int) -> int:
    """As asked for, or as many as pay; fewer where the memory limit is near.

    Raises `MemoryError` where one run, or as many as were asked for, are past it.
    """
    nbytes = bytes_of_run(config, width)
    asked, runs = config.together, config.seeds + 1  # seed 0 twice
    if asked is not None:
        require_memory(asked * nbytes, f"together={asked} runs of width {width}", "pass fewer together")
        return min(asked, runs)
    require_memory(nbytes, f"a run of width {width}", "pass smaller widths")
    return min(runs, max(1, PAYS // width**2), memory_limit() // nbytes)


def bytes_of_run(config: SweepConfig, width: int) -> int:
    """About what one run holds at its peak."""
    numbers = WEIGHTS * width**2 + STATES * (config.n_train + config.n_test) * width
    return np.dtype(config.precision).itemsize * numbers
