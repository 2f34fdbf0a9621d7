"""Lanczos' tridiagonalisation with full reorthogonalisation."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Apply = Callable[[Float[Array, " N"]], Float[Array, " N"]]

ROUNDING = 1e2
"""Couplings of so many eps of the largest are rounding, and dropped."""


def tridiagonal(apply: Apply, start: Float[Array, " N"], steps: int) -> tuple[Array, Array]:
    """The diagonal (steps,) and the off-diagonal (steps,) of `Q^T A Q`, whose last entry couples to the rest.

    Written here because the library's (matfree 0.6) divides by the off-diagonal entries, which vanish
    where the space is exhausted (few samples, equal samples), and goes on with rounding: the identity has
    other eigenvalues than one there. Here both then end in zeros; otherwise the two agree.
    """

    def step(carry: tuple[Array, Array, Array], i: Int[Array, ""]) -> tuple[tuple, tuple[Array, Array]]:
        basis, v, scale = carry
        basis = basis.at[i].set(v)
        image = apply(v)
        w = image
        for _ in range(2):  # once leaves components of the size of the rounding that it removes
            w = w - (basis @ w) @ basis
        length = jnp.linalg.norm(w)
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        length = jnp.where(length > ROUNDING * jnp.finfo(v.dtype).eps * scale, length, 0)
        v_next = jnp.where(length > 0, w / jnp.where(length > 0, length, 1), 0)
        return (basis, v_next, scale), (v @ image, length)

    basis = jnp.zeros((steps, start.size), start.dtype)
    first = start / jnp.linalg.norm(start)
    carry = (basis, first, jnp.zeros((), start.dtype))
    return lax.scan(step, carry, jnp.arange(steps))[1]


def quadrature(
    diagonal: Float[Array, " s"], off_diagonal: Float[Array, " s"]
) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    """Nodes and weights of the Gauss rule of the start's spectral measure (Golub and Welsch)."""
    beside = off_diagonal[:-1]
    T = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    nodes, vectors = jnp.linalg.eigh(T)
    return nodes, vectors[0] ** 2
