"""A partial Cholesky factor of the kernel with random pivots, as a preconditioner."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from implicit_ntk._checks import AnyArray
from implicit_ntk._memory import memory_limit, require_memory
from implicit_ntk.kernel.matrix_free._products import KernelProducts

BLOCK = 64
"""Samples chosen at once."""


class Preconditioner(eqx.Module):
    """`P = U diag(eigenvalues) U^T + shift (I - U U^T)`, near `H` where it is large, on average in the rest.

    `U` (N, r) is an orthonormal basis of the columns of `H` that were chosen, `eigenvalues` those of the
    partial Cholesky factor `L L^T`, descending, and `shift` the mean eigenvalue of what remains. None is
    smaller than the shift, so that `P <= L L^T + shift I <= H + shift I`.
    """

    basis: Float[Array, "N r"]
    eigenvalues: Float[Array, " r"]
    shift: Float[Array, ""]

    @property
    def rank(self) -> int:
        """How many columns of the kernel it was made of."""
        return self.eigenvalues.size

    @property
    def largest(self) -> Float[Array, ""]:
        """The largest eigenvalue of `P`, next to that of `H`."""
        return self.eigenvalues[0]

    def power(self, exponent: float, v: Float[AnyArray, " N"]) -> Float[Array, " N"]:
        """`P^exponent v`."""
        inside = self.eigenvalues**exponent
        outside = self.shift**exponent
        return outside * v + self.basis @ ((inside - outside) * (v @ self.basis))

    def logdet(self) -> Float[Array, ""]:
        """`log det P`."""
        rest = self.basis.shape[0] - self.rank
        return jnp.sum(jnp.log(self.eigenvalues)) + rest * jnp.log(self.shift)


def rank_in_memory(products: KernelProducts, rank: int | None) -> int:
    """The samples whose columns the factor is made of.

    None stands for a tenth of the columns, or all of the first 512, that a sixteenth of the memory limit has
    room for. Raises `MemoryError` where so many as asked for do not fit.
    """
    k, itemsize = products.outputs, jnp.dtype(products.dtype).itemsize
    if rank is None:
        fits = memory_limit() // (16 * products.size * itemsize)
        rank = min(fits, max(512, products.size // 10))
    samples = max(1, min(products.samples, -(-rank // k)))
    # The factor, its QR decomposition and the basis.
    nbytes = 4 * products.size * samples * k * itemsize
    require_memory(nbytes, f"a preconditioner of rank {samples * k}", "ask for a lower rank")
    return samples


@eqx.filter_jit
def partial_cholesky(products: KernelProducts, samples: int, key: Key[Array, ""]) -> Preconditioner:
    """From the columns of so many samples, drawn in proportion to what is left of the diagonal.

    Random pivots (Chen, Epperly, Tropp and Webber, arXiv:2207.06503) come near the best approximation of
    their rank, where greedy ones chase outliers; a block of columns is one product with the factors.
    """
    block = min(BLOCK, samples)
    blocks = -(-samples // block)
    width = block * products.outputs

    def step(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        factor, left = carry
        i, key = at
        chosen = _draw(left.reshape(products.samples, -1).sum(axis=1), block, key)
        new = _new_columns(products, factor, chosen)
        left = jnp.maximum(left - jnp.sum(new**2, axis=1), 0)
        return (lax.dynamic_update_slice_in_dim(factor, new, i * width, axis=1), left), None

    diagonal = products.diagonal()
    factor = jnp.zeros((products.size, blocks * width), diagonal.dtype)
    at = jnp.arange(blocks), jax.random.split(key, blocks)
    (factor, left), _ = lax.scan(step, (factor, diagonal), at)
    return _spectral(factor, left, diagonal)


def _draw(weights: Float[Array, " n"], count: int, key: Key[Array, ""]) -> Int[Array, " count"]:
    """Different samples in proportion to their weights: the largest of so many Gumbel variables."""
    return lax.top_k(jnp.log(weights) + jax.random.gumbel(key, weights.shape, weights.dtype), count)[1]


def _new_columns(
    products: KernelProducts, factor: Float[Array, "N r"], samples: Int[Array, " B"]
) -> Float[Array, "N Bk"]:
    """Columns `G W^(-1/2)` of the Cholesky factor, `G` those of what is left of `H`, `W` their pivot block.

    Directions of the pivot block that are rounding, as between near duplicates, are left out.
    """
    k = products.outputs
    rows = (samples[:, None] * k + jnp.arange(k)[None]).reshape(-1)
    full = products.columns(samples)
    left = full - factor @ factor[rows].T
    values, vectors = jnp.linalg.eigh(left[rows])
    noise = rows.size * jnp.finfo(left.dtype).eps * jnp.trace(full[rows])
    known = values > noise
    return left @ (vectors * jnp.where(known, lax.rsqrt(jnp.where(known, values, 1)), 0)[None])


def _spectral(
    factor: Float[Array, "N r"], left: Float[Array, " N"], diagonal: Float[Array, " N"]
) -> Preconditioner:
    """`P` by the singular vectors of `L`.

    Where the shift is too small beside the trace, rounding in `I - U U^T` over it would drown the rest. A
    factor of full rank leaves nothing to shift.
    """
    Q, R = jnp.linalg.qr(factor)
    vectors, values, _ = jnp.linalg.svd(R, full_matrices=False)
    values, rest = values**2, factor.shape[0] - values.size
    mean = jnp.sum(left) / rest if rest else values[-1]
    shift = jnp.maximum(mean, 100 * jnp.finfo(factor.dtype).eps * jnp.sum(diagonal))
    shift = jnp.where(shift > 0, shift, 1)
    return Preconditioner(Q @ vectors, jnp.maximum(values, shift), shift)
