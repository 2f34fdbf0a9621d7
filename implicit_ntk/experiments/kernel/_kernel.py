"""The kernel of one network on one set of samples, and what its spectrum says."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from implicit_ntk._memory import require_memory
from implicit_ntk.experiments.kernel._assemble import Solves, assemble, solved_tiles, solves_of_all
from implicit_ntk.experiments.kernel._eigen import Eigen, decompose
from implicit_ntk.experiments.kernel._limit import Limit, compare
from implicit_ntk.experiments.kernel._subject import KernelConfig, Progress, Subject, subject_of, timed

Kernel = Float[np.ndarray, "n *rest"]
Allocate = Callable[[tuple[int, ...], np.dtype], Kernel]
"""Makes the array that the kernel is written to."""


@dataclasses.dataclass(frozen=True, eq=False)
class KernelResult:
    """A kernel, what made it, and what is known of it."""

    subject: Subject
    solves: Solves
    H: Kernel
    """(n, n), or (n, k, n, k) with k outputs."""
    block_traces: dict[str, float]
    """The trace of each trained leaf's part of the kernel."""
    eigen: Eigen | None
    """None where no eigenvalues were asked for."""
    limit: Limit | str
    """The limit kernel beside this one, or why there is none."""
    seconds: dict[str, float]

    @property
    def trace(self) -> float:
        """The sum of the squared gradient norms of all outputs."""
        return sum(self.block_traces.values())


def run_kernel(
    config: KernelConfig,
    progress: Progress = lambda share, what: None,
    allocate: Allocate = np.empty,
) -> KernelResult:
    """Read the samples, draw the network, solve, form the kernel in tiles, and examine it.

    `allocate(shape, dtype)` makes the array that the kernel is written to, in memory or of a file.
    float64 needs `jax_enable_x64`, which the command sets and a script must.

    **Raises:** as `subject_of`; `MemoryError`; `ConvergenceError` where a solve fails.
    """
    subject, seconds = subject_of(config), {}
    net, X, method = subject.net, subject.samples.X, subject.choice.method
    if config.decomposed:
        _require_room(len(X) * math.prod(net.out_shape), X.dtype)
    with timed("solving", seconds, progress):
        tiles = solved_tiles(net, X, method, lambda share: progress(share, "solving"))
        solves = solves_of_all(tiles)
    with timed("kernel", seconds, progress):
        H = allocate(2 * solves.u.shape, X.dtype)
        traces = assemble(tiles, H, lambda share: progress(share, "kernel"))
    del tiles  # nothing more is asked of the factors of all rows
    eigen, limit = None, "not compared"
    if config.decomposed:
        with timed("spectrum", seconds, progress):
            eigen, limit = decompose(H, subject.y), compare(net, X, H, subject.y)
    return KernelResult(subject, solves, H, traces, eigen, limit, seconds)


def _require_room(rows: int, dtype: np.dtype) -> None:
    """Raise `MemoryError`, before hours of work, where the eigenvectors would not fit in the end."""
    what = f"the kernel of {rows} rows and its eigenvectors"
    require_memory(4 * rows**2 * dtype.itemsize, what, "take --memmap or --matrix-free, or fewer samples")
