"""The eigenvalues of a kernel, and how the targets lie along its eigenvectors."""

import dataclasses

import numpy as np
from jaxtyping import Float

from implicit_ntk.experiments._targets import Targets
from implicit_ntk.kernel import Alignment, Spectrum, alignment, spectrum


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
    one = y.ndim == H.ndim // 2
    found = alignment(H, y if one else y[:, np.argmax(np.linalg.norm(y, axis=0))])
    aligned = Aligned(np.asarray(found.shares), float(found.kernel_target)) if one else _together(found, y)
    return Eigen(Spectrum(found.eigenvalues[::-1], found.resolution), aligned)


def _together(found: Alignment, Y: Float[np.ndarray, "n k"]) -> Aligned:
    """Shares and alignment of the columns, in the eigenbasis that was found for one of them."""
    squares = np.sum((np.asarray(found.eigenvectors, np.float64).T @ Y) ** 2, axis=1)
    eigenvalues = np.asarray(found.eigenvalues, np.float64)
    target = eigenvalues @ squares / (np.linalg.norm(eigenvalues) * np.linalg.norm(Y.T @ Y))
    return Aligned(squares / squares.sum(), float(target))
