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
    - `shares` (N,): `||q_i^T Y||^2 / ||Y||_F^2`, which sum to one: the columns of `Y` together. Along `q_i`
      gradient flow decays as `e^{-lam_i t}`.
    - `kernel_target`: `<H, Y Y^T> / (||H||_F ||Y Y^T||_F)`, at most one (Cristianini et al., NIPS 2001).
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
        """The share of the targets in the first i eigenvectors."""
        return jnp.cumsum(self.shares)

    @property
    def resolved(self) -> Bool[Array, " N"]:
        """Which eigenvalues are above the resolution."""
        return self.eigenvalues > self.resolution

    @property
    def unresolved_share(self) -> Float[Array, ""]:
        """The share of the targets along eigenvectors whose rate of learning is not known."""
        return jnp.sum(jnp.where(self.resolved, 0, self.shares))


def alignment(
    H: Float[AnyArray, "..."],
    y: Float[AnyArray, "n ..."],
    relative_residual: float | int | None = None,
) -> Alignment:
    """The share of targets (or of a residual `u - y`) along each eigenvector of a kernel.

    **Arguments:** `H` (n, n), or (n, k, n, k) with k outputs, symmetric; `y` of the outputs' shape, (n,) or
    (n, k), or with one more axis for several columns `Y` that are taken together, such as the classes
    (n, c) beside the kernel of a scalar output; `relative_residual` as in `spectrum`.

    **Raises:** as `spectrum`; `ValueError` for targets of another shape, or that are all zero.
    """
    shape = tuple(H.shape[: H.ndim // 2]) if hasattr(H, "shape") else ()
    H = check_kernel(H)
    check_relative_residual(relative_residual)
    columns = getattr(y, "shape", ())[len(shape) :][:1]
    y = check_targets(y, (*shape, *columns)).astype(H.dtype)
    if not is_traced(y) and not y.any():
        raise ValueError("y must not be all zero: it points nowhere")
    Y = (y / jnp.max(jnp.abs(y))).reshape(H.shape[0], -1)
    eigenvalues, eigenvectors = jnp.linalg.eigh(H)
    squares = jnp.sum(jnp.matmul(eigenvectors.T, Y, precision="highest") ** 2, axis=1)
    # ||Y Y^T||_F = ||Y^T Y||_F.
    size = jnp.linalg.norm(eigenvalues) * jnp.linalg.norm(jnp.matmul(Y.T, Y, precision="highest"))
    return Alignment(
        eigenvalues=eigenvalues[::-1],
        eigenvectors=eigenvectors[:, ::-1],
        shares=squares[::-1] / jnp.sum(squares),
        kernel_target=jnp.sum(squares * eigenvalues) / size,
        resolution=resolution_of(eigenvalues, relative_residual),
    )
