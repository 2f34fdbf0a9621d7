"""Lanczos' tridiagonalisation with full reorthogonalisation."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Apply = Callable[[Float[Array, " N"]], Float[Array, " N"]]

ROUNDING = 1e2
"""Couplings of so many eps of the largest are rounding, and dropped."""


class Lanczos(eqx.Module):
    """`Q^T A Q` as far as it is known, `A Q = Q T + beta q e^T`: rows that are still to come are zero.

    `following` is `q`, `off_diagonal[i]` couples row i to the next, the last of them to `q`; `largest` is
    the largest norm of an image.
    """

    basis: Float[Array, "s N"]
    following: Float[Array, " N"]
    diagonal: Float[Array, " s"]
    off_diagonal: Float[Array, " s"]
    largest: Float[Array, ""]

    @classmethod
    def begun(cls, first: Float[Array, " N"], steps: int) -> "Lanczos":
        """Before the first product, from a vector of length one."""
        row = jnp.zeros(steps, first.dtype)
        return cls(jnp.zeros((steps, first.size), first.dtype), first, row, row, jnp.zeros((), first.dtype))

    def extended(self, apply: Apply, i: Int[Array, ""]) -> "Lanczos":
        """Row i, for one product."""
        v = self.following
        basis = self.basis.at[i].set(v)
        image = apply(v)
        w = image
        for _ in range(2):  # once leaves components of the size of the rounding that it removes
            w = w - (basis @ w) @ basis
        length = jnp.linalg.norm(w)
        largest = jnp.maximum(self.largest, jnp.linalg.norm(image))
        length = jnp.where(length > ROUNDING * jnp.finfo(v.dtype).eps * largest, length, 0)
        following = jnp.where(length > 0, w / jnp.where(length > 0, length, 1), 0)
        diagonal, beside = self.diagonal.at[i].set(v @ image), self.off_diagonal.at[i].set(length)
        return Lanczos(basis, following, diagonal, beside, largest)


def tridiagonal(apply: Apply, start: Float[Array, " N"], steps: int) -> tuple[Array, Array]:
    """The diagonal (steps,) and the off-diagonal (steps,) of `Q^T A Q`, whose last entry couples to the rest.

    Written here because the library's (matfree 0.6) divides by the off-diagonal entries, which vanish
    where the space is exhausted (few samples, equal samples), and goes on with rounding: the identity has
    other eigenvalues than one there. Here both then end in zeros; otherwise the two agree.
    """
    begun = Lanczos.begun(start / jnp.linalg.norm(start), steps)
    whole = lax.fori_loop(0, steps, lambda i, lanczos: lanczos.extended(apply, i), begun)
    return whole.diagonal, whole.off_diagonal


def quadrature(
    diagonal: Float[Array, " s"], off_diagonal: Float[Array, " s"]
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    """Nodes and weights of the Gauss rule of the start's spectral measure (Golub and Welsch)."""
    beside = off_diagonal[:-1]
    T = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    nodes, vectors = jnp.linalg.eigh(T)
    return nodes, vectors[0] ** 2
