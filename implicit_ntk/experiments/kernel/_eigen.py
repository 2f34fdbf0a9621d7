"""The eigenvalues of a kernel, and how the targets lie along its eigenvectors."""

import dataclasses

import numpy as np
from jaxtyping import Float

from implicit_ntk.experiments.kernel._targets import Targets
from implicit_ntk.kernel import Spectrum, alignment, spectrum


@dataclasses.dataclass(frozen=True, eq=False)
class Aligned:
    """The targets seen from a kernel."""

    shares: Float[np.ndarray, " N"]
    """The share of `||y||^2` along each eigenvector, from the largest eigenvalue to the smallest."""
    target: float
    """`<H, y y^T>_F / (||H||_F ||y y^T||_F)`, the kernel-target alignment."""

    @property
    def cumulative(self) -> Float[np.ndarray, " N"]:
        """The share in the span of the top 1, 2, ..., N eigenvectors."""
        return np.cumsum(self.shares)


@dataclasses.dataclass(frozen=True, eq=False)
class Eigen:
    """The spectrum of a kernel and, where there are targets, their alignment."""

    spectrum: Spectrum
    aligned: Aligned | None

    @property
    def descending(self) -> Float[np.ndarray, " N"]:
        """The eigenvalues from the largest to the smallest."""
        return np.asarray(self.spectrum.eigenvalues)[::-1]


def decompose(H: Float[np.ndarray, "n *rest"], y: Targets | None) -> Eigen:
    """The spectrum of a kernel and, where there are targets, their shares along its eigenvectors.

    Targets have the outputs' shape, or several columns for a scalar output: a share is then that of all of
    them together. Decomposes once. Raises as `alignment`.
    """
    if y is None:
        return Eigen(spectrum(H), None)
    found = alignment(H, y)
    aligned = Aligned(np.asarray(found.shares), float(found.kernel_target))
    return Eigen(Spectrum(found.eigenvalues[::-1], found.resolution), aligned)
