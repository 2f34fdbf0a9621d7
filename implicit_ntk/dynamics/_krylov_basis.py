"""The Krylov space of a kernel that begins at a residual, in which the linearised flow is all but solved.

Lanczos' vectors `Q` (N, k) from `r_0` satisfy `H Q = Q T + beta q e_k^T`. The approximation
`w(t) = ||r_0|| Q e^{-T t} e_1` obeys `w' = -H w + q l(t)`, where

    l(t) = beta ||r_0|| e_k^T e^{-T t} e_1

is what leaks into the next vector `q` of the space. So its error against `e^{-H t} r_0` is at most
`L(t) = int_0^t |l|`, and since `l` has one sign (the entries of `e^{-T t}`, the signs of every second row
and column changed, are positive) that is the absolute value of the integral, known from the Ritz values.

A time t takes about `sqrt(t lambda_max)` vectors, more by a factor that grows with the logarithm of the
accuracy. Nothing here has N^2 entries.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from implicit_ntk._memory import require_memory
from implicit_ntk.jacobian import AbstractJacobian
from implicit_ntk.kernel.matrix_free import Lanczos

Apply = Callable[[Float[Array, " N"]], Float[Array, " N"]]
Scalar = Float[Array, ""]
RitzPairs = tuple[Float[Array, " k"], Float[Array, "N k"], Float[Array, " k"]]
"""Ritz values, Ritz vectors, and the coefficients of `l(t)` in `e^{-theta t}`."""


class KrylovSpace(eqx.Module):
    """Lanczos' vectors from a start of the length `size`, `count` of them; the rows past them are zero."""

    lanczos: Lanczos
    size: Scalar
    count: Int[Array, ""]

    @classmethod
    def begun(cls, apply: Apply, start: Float[Array, " N"], most: int) -> "KrylovSpace":
        """The space of the start alone, with room for `most` vectors."""
        size = jnp.linalg.norm(start)
        first = start / jnp.where(size > 0, size, 1)
        return cls(Lanczos.begun(first, most), size, jnp.int32(0)).extended(apply)

    def extended(self, apply: Apply) -> "KrylovSpace":
        """The space with one vector more, for one product."""
        return KrylovSpace(self.lanczos.extended(apply, self.count), self.size, self.count + 1)

    @property
    def projected(self) -> Float[Array, "k k"]:
        """`Q^T H Q`, tridiagonal."""
        inner = jnp.arange(self.lanczos.diagonal.size) < self.count - 1
        beside = jnp.where(inner, self.lanczos.off_diagonal, 0)[:-1]
        return jnp.diag(self.lanczos.diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)

    def ritz(self) -> RitzPairs:
        """What the space knows of `H` and of `e^{-H t}` times its start."""
        values, mixing = jnp.linalg.eigh(self.projected)
        leakage = self.lanczos.off_diagonal[self.count - 1] * self.size * mixing[self.count - 1] * mixing[0]
        return values, self.lanczos.basis.T @ mixing, leakage


def grown(
    apply: Apply, start: Float[Array, " N"], most: int, enough: Callable[[KrylovSpace], Bool[Array, ""]]
) -> KrylovSpace:
    """The least space that is enough, or that of `most` vectors."""

    def unfinished(space: KrylovSpace) -> Bool[Array, ""]:
        return (space.count < most) & ~enough(space)

    return lax.while_loop(unfinished, lambda s: s.extended(apply), KrylovSpace.begun(apply, start, most))


def ritz_pairs(J: AbstractJacobian, residual: Float[Array, "n *out"], size: int) -> RitzPairs:
    """Of `J J^T`, in the space of `size` vectors, or N, that begins at the residual; and its leakage."""
    start = jnp.ravel(residual)
    with jax.default_matmul_precision("highest"):
        return grown(kernel_product(J), start, min(size, start.size), lambda _: jnp.asarray(False)).ritz()


def kernel_product(J: AbstractJacobian) -> Apply:
    """`v -> J (J^T v)`, outputs flattened; in full precision, for a basis keeps what rounding made of it."""
    shape = J.linearization.shape

    def apply(v: Float[Array, " N"]) -> Float[Array, " N"]:
        return jnp.ravel(J.push(J.pull(v.reshape(shape))))

    return apply


def require_bases(size: int, rows: int, dtype: DTypeLike) -> None:
    """`MemoryError` unless the bases of two steps fit: Lanczos' vectors, Ritz pairs, responses."""
    nbytes = 12 * size * rows * np.dtype(dtype).itemsize
    require_memory(nbytes, f"a Krylov space of {size} vectors", "pass a smaller krylov or fewer samples")
