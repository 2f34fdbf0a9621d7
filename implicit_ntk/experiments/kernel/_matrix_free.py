"""Both ends of a kernel's spectrum, its density, trace and determinant, without the kernel."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from implicit_ntk.experiments.kernel._subject import KernelConfig, Progress, Subject, subject_of, timed
from implicit_ntk.kernel import Eigenpairs, Estimate, KernelOperator, SpectralDensity, kernel_operator

LARGEST, SMALLEST, POINTS = 20, 4, 200
"""Eigenpairs at the top and at the bottom, and points of the density."""


@dataclasses.dataclass(frozen=True, eq=False)
class MatrixFreeResult:
    """What is known of a kernel that was never formed, each number with its error."""

    subject: Subject
    size: int
    """N, the number of rows of the kernel."""
    trace: float
    largest: Eigenpairs
    smallest: Eigenpairs
    logdet: Estimate
    density: SpectralDensity
    seconds: dict[str, float]

    @property
    def counts(self) -> Float[np.ndarray, " p"]:
        """How many eigenvalues lie above each point of the density, by its integral from the top."""
        logs, density = np.log(self.density.points), np.asarray(self.density.density)
        steps = np.diff(logs) * (density[1:] + density[:-1]) / 2
        return self.size * np.append(np.cumsum(steps[::-1])[::-1], 0)

    @property
    def share(self) -> float | None:
        """The share of `||y||^2` along the largest eigenvectors; None without targets."""
        if self.subject.y is None:
            return None
        vectors = np.asarray(self.largest.vectors, np.float64).reshape(-1, self.size)
        columns = self.subject.y.reshape(self.size, -1)
        return float(np.sum((vectors @ columns) ** 2) / np.sum(columns**2))


def run_matrix_free(config: KernelConfig, progress: Progress = lambda share, what: None) -> MatrixFreeResult:
    """Read, draw, solve, and examine the kernel by its products with vectors.

    **Raises:** as `run_kernel`; `ConvergenceError` also where an eigenpair is not found.
    """
    subject, seconds = subject_of(config), {}
    with timed("solving", seconds, progress):
        op = kernel_operator(subject.net, jnp.asarray(subject.samples.X), subject.choice.method)
        trace = float(op.trace())
    with timed("largest", seconds, progress):
        largest = op.largest(min(LARGEST, op.shape[0]))
    with timed("smallest", seconds, progress):
        factor = op.preconditioner()
        smallest = op.smallest(min(SMALLEST, op.shape[0]), preconditioner=factor)
    with timed("determinant", seconds, progress):
        logdet = op.logdet(factor)
    with timed("density", seconds, progress):
        density = op.density(_points(op, largest, smallest))
    return MatrixFreeResult(subject, op.shape[0], trace, largest, smallest, logdet, density, seconds)


def _points(op: KernelOperator, largest: Eigenpairs, smallest: Eigenpairs) -> Float[np.ndarray, " p"]:
    """From below the smallest eigenvalue that is a number to above the largest."""
    top = float(largest.values[0])
    bottom = max(float(smallest.values[0]), float(smallest.errors[0]), top * np.finfo(np.float32).eps)
    return np.geomspace(bottom / 3, 3 * top, POINTS).astype(op.products.dtype)
