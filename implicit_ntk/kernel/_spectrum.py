"""The spectrum of a kernel, and whether its smallest eigenvalue is a number or noise."""

import math
from collections.abc import Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float

from implicit_ntk._checks import AnyArray, check_array, check_floating
from implicit_ntk._hosts import on_host
from implicit_ntk._memory import require_memory
from implicit_ntk._tracing import is_traced
from implicit_ntk.equilibrium import default_rtol


class Spectrum(eqx.Module):
    """Eigenvalues of a symmetric kernel in ascending order, and the size below which they are noise.

    `resolution = lambda_max max(n eps, 4 relative_residual)`: rounding, and the solver's tolerances
    (the kernel's relative error is a small multiple of the sum of both relative residuals).
    """

    eigenvalues: Float[Array, " n"]
    resolution: Float[Array, ""]

    @property
    def lambda_min(self) -> Float[Array, ""]:
        """The smallest eigenvalue, which every rate hangs on; trust it only where `resolved`."""
        return self.eigenvalues[0]

    @property
    def lambda_max(self) -> Float[Array, ""]:
        """The largest eigenvalue: Euler is stable for steps below `2 / lambda_max`."""
        return self.eigenvalues[-1]

    @property
    def condition(self) -> Float[Array, ""]:
        """`lambda_max / lambda_min`; infinite where `lambda_min` is not resolved."""
        return jnp.where(self.resolved, self.lambda_max / self.lambda_min, jnp.inf)

    @property
    def resolved(self) -> Bool[Array, ""]:
        """Is `lambda_min` above the resolution?"""
        return self.lambda_min > self.resolution

    @property
    def rank(self) -> Array:
        """How many eigenvalues are above the resolution."""
        return jnp.sum(self.eigenvalues > self.resolution)

    @property
    def effective_rank(self) -> Float[Array, ""]:
        """`exp(-sum_i p_i log p_i)`, `p_i = lam_i / tr H` (Roy and Vetterli, EUSIPCO 2007): 1 to n."""
        p = self._shares
        return jnp.exp(-jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1))))

    @property
    def stable_rank(self) -> Float[Array, ""]:
        """`tr H / lambda_max`: 1 to n."""
        return 1 / self._shares[-1]

    @property
    def participation_ratio(self) -> Float[Array, ""]:
        """`(tr H)^2 / ||H||_F^2`: 1 to n."""
        return 1 / jnp.sum(self._shares**2)

    @property
    def _shares(self) -> Float[Array, " n"]:
        """Each eigenvalue over the trace; those that rounding made negative are zero."""
        positive = jnp.maximum(self.eigenvalues, 0)
        return positive / jnp.sum(positive)


def spectrum(H: Float[AnyArray, "..."], relative_residual: float | int | None = None) -> Spectrum:
    """Eigenvalues of a kernel, `lambda_min`, `lambda_max`, condition number, resolved or not.

    **Arguments:** `H` (n, n), or (n, k, n, k) with k outputs, symmetric; `relative_residual`, the
    sum of the forward and the adjoint solve's relative residuals with which `H` was computed, None for
    twice the default tolerance of its dtype.

    **Raises:** `ValueError` where `H` is not square, not symmetric or not finite, or `relative_residual` is
    negative; `MemoryError` past the limit.
    """
    return _spectrum(H, relative_residual, "H")


def block_spectra(
    blocks: Mapping[str, Float[AnyArray, "..."]], relative_residual: float | int | None = None
) -> dict[str, Spectrum]:
    """The spectrum of the kernel of each trained leaf, `{"A": ..., "W": ...}`.

    **Arguments:** `blocks`, from `ntk_blocks(net, X)`; `relative_residual` as in `spectrum`.

    **Raises:** as `spectrum`, naming the block.
    """
    return {name: _spectrum(H, relative_residual, f"blocks[{name!r}]") for name, H in blocks.items()}


def _spectrum(H: Float[AnyArray, "..."], relative_residual: float | int | None, name: str) -> Spectrum:
    H = check_kernel(H, name)
    check_relative_residual(relative_residual)
    eigenvalues = jnp.linalg.eigvalsh(H)
    return Spectrum(eigenvalues, resolution_of(eigenvalues, relative_residual))


def check_relative_residual(value: float | int | None) -> None:
    """Raise `ValueError` unless it is None or not negative."""
    if value is not None and not value >= 0:
        raise ValueError(f"relative_residual must be >= 0, got {value}; 0 is an exact kernel")


def resolution_of(
    eigenvalues: Float[Array, " n"], relative_residual: float | int | None = None
) -> Float[Array, ""]:
    """The size below which an eigenvalue of a kernel with this spectrum is noise."""
    return eigenvalues[-1] * relative_resolution(eigenvalues.size, eigenvalues.dtype, relative_residual)


def relative_resolution(rows: int, dtype: DTypeLike, relative_residual: float | int | None = None) -> float:
    """`max(n eps, 4 relative_residual)`, the resolution over the largest eigenvalue."""
    if relative_residual is None:
        relative_residual = 2 * default_rtol(dtype)
    return max(rows * float(jnp.finfo(dtype).eps), 4 * relative_residual)


def check_kernel(H: Float[AnyArray, "..."], name: str = "H") -> Float[Array, "N N"]:
    """A finite, symmetric kernel (n, n) or (n, k, n, k) as a matrix (n k, n k) that will be decomposed.

    Raises `ValueError` for what is not that; `MemoryError` where the decomposition is past the limit.
    """
    check_array(H, name)
    half = H.ndim // 2
    if H.ndim not in (2, 4) or H.shape[:half] != H.shape[half:] or H.size == 0:
        raise ValueError(f"{name} must be a square matrix, (n, n) or (n, k, n, k), got {H.shape}")
    rows = math.prod(H.shape[:half])
    require_decomposition(rows, H.dtype)
    H = check_floating(H, name).reshape(rows, rows)
    if not is_traced(H):
        _check_symmetric(on_host(H), name)
    return H


def require_decomposition(rows: int, dtype: DTypeLike) -> None:
    """`MemoryError` unless a matrix of so many rows, its eigenvectors and their workspace fit."""
    nbytes = 4 * rows**2 * np.dtype(dtype).itemsize
    require_memory(nbytes, f"the eigendecomposition of {rows} rows", "pass fewer samples")


def _check_symmetric(H: Float[np.ndarray, "N N"], name: str) -> None:
    """A decomposition reads one triangle or the mean of both: what else there was would be lost silently."""
    if np.max(np.abs(H - H.T)) > float(jnp.finfo(H.dtype).eps) ** 0.5 * np.max(np.abs(H)):
        raise ValueError(
            f"{name} must be symmetric up to rounding; pass {name} = ntk(net, X), for a cross kernel is not"
        )
