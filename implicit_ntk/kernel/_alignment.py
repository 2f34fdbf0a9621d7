"""How targets lie in the eigenvectors of a kernel: what is learnt fast, what slowly, what is unknown."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicit_ntk._checks import AnyArray, check_targets
from implicit_ntk._tracing import is_traced
from implicit_ntk.kernel._spectrum import check_kernel, check_relative_residual, resolution_of


class Alignment(eqx.Module):
    """Targets in the eigenbasis of a kernel, largest eigenvalue first.

    - `eigenvalues` (N,), descending; `eigenvectors` (N, N), columns in that order.
    - `shares` (N,): `(q_i . y)^2 / ||y||^2`, which sum to one. Along `q_i` gradient flow decays as
      `e^{-lam_i t}`.
    - `kernel_target`: `<H, y y^T> / (||H||_F ||y||^2)`, at most one (Cristianini et al., NIPS 2001).
    - `resolution`: eigenvalues below it, and so their eigenvectors, are noise; see `Spectrum`.

    A share is that of one vector only where its eigenvalue is apart from the next; `cumulative` is known
    wherever there is a gap.
    """

    eigenvalues: Float[Array, " N"]
    eigenvectors: Float[Array, "N N"]
    shares: Float[Array, " N"]
    kernel_target: Float[Array, ""]
    resolution: Float[Array, ""]

    @property
    def cumulative(self) -> Float[Array, " N"]:
        """The share of `y` in the first i eigenvectors."""
        return jnp.cumsum(self.shares)

    @property
    def resolved(self) -> Bool[Array, " N"]:
        """Which eigenvalues are above the resolution."""
        return self.eigenvalues > self.resolution

    @property
    def unresolved_share(self) -> Float[Array, ""]:
        """The share of `y` along eigenvectors whose rate of learning is not known."""
        return jnp.sum(jnp.where(self.resolved, 0, self.shares))


def alignment(
    H: Float[AnyArray, "..."],
    y: Float[AnyArray, "n *out"],
    relative_residual: float | int | None = None,
) -> Alignment:
    """The share of targets (or of a residual `u - y`) along each eigenvector of a kernel.

    **Arguments:** `H` (n, n), or (n, k, n, k) with k outputs, symmetric; `y` (n,), or (n, k);
    `relative_residual` as in `spectrum`.

    **Raises:** as `spectrum`; `ValueError` for targets of another shape, or that are all zero.
    """
    shape = tuple(H.shape[: H.ndim // 2]) if hasattr(H, "shape") else ()
    H = check_kernel(H)
    check_relative_residual(relative_residual)
    y = check_targets(y, shape).astype(H.dtype).reshape(-1)
    if not is_traced(y) and not y.any():
        raise ValueError("y must not be all zero: it points nowhere")
    eigenvalues, eigenvectors = jnp.linalg.eigh(H)
    products = jnp.matmul(y, eigenvectors, precision="highest")
    shares = products**2 / jnp.sum(products**2)
    kernel_target = jnp.sum(shares * eigenvalues) / jnp.linalg.norm(eigenvalues)
    resolution = resolution_of(eigenvalues, relative_residual)
    return Alignment(eigenvalues[::-1], eigenvectors[:, ::-1], shares[::-1], kernel_target, resolution)
