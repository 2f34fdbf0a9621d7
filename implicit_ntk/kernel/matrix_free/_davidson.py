"""A few extreme eigenpairs of a symmetric operator by Davidson's method with thick restarts.

The basis grows by one preconditioned residual a step, that of the first wanted pair which has not
converged; without a preconditioner that is Lanczos with full reorthogonalisation.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Apply = Callable[[Float[Array, " N"]], Float[Array, " N"]]


class Ritz(NamedTuple):
    """Approximate eigenpairs, their residuals, and the bounds that were made of these."""

    values: Float[Array, " k"]
    vectors: Float[Array, "k N"]
    residuals: Float[Array, "k N"]


class Problem(NamedTuple):
    """`sign` H is asked for its smallest eigenvalues; `done` tells which pairs will do."""

    apply: Apply
    precondition: Apply
    done: Callable[[Ritz], Bool[Array, " k"]]
    sign: float


class Search(NamedTuple):
    """An orthonormal basis (rows past `count` are zero), its image, and what it says of the pairs."""

    basis: Float[Array, "S N"]
    images: Float[Array, "S N"]
    count: Int[Array, ""]
    products: Int[Array, ""]
    ritz: Ritz
    done: Bool[Array, " k"]


def davidson(problem: Problem, start: Float[Array, "k N"], size: int, max_products: Int[Array, ""]) -> Search:
    """Search until all wanted pairs are done, the products are spent, or the basis spans everything."""
    k, N = start.shape
    size = min(size, N)

    def unfinished(search: Search) -> Bool[Array, ""]:
        exhausted = search.count >= N
        return ~jnp.all(search.done) & (search.products < max_products) & ~exhausted

    basis = jnp.zeros((size, N), start.dtype).at[:k].set(jnp.linalg.qr(start.T)[0].T)
    images = jnp.zeros_like(basis).at[:k].set(lax.map(problem.apply, basis[:k]))
    count = jnp.asarray(k)
    ritz = _ritz(problem, basis, images, count, k)
    search = Search(basis, images, count, count, ritz, problem.done(ritz))
    return lax.while_loop(unfinished, lambda search: _step(problem, search), search)


def _step(problem: Problem, search: Search) -> Search:
    size, N = search.basis.shape
    k = search.done.size
    basis, images, count = lax.cond(
        (search.count >= size) & (size < N),
        lambda: _restarted(problem, search, min(size - 1, k + size // 3)),
        lambda: (search.basis, search.images, search.count),
    )
    residual = search.ritz.residuals[jnp.argmin(search.done)]
    new = _orthogonal(basis, problem.precondition(residual), search.products)
    basis = basis.at[count].set(new)
    images = images.at[count].set(problem.apply(new))
    ritz = _ritz(problem, basis, images, count + 1, k)
    return Search(basis, images, count + 1, search.products + 1, ritz, problem.done(ritz))


def _ritz(
    problem: Problem, basis: Float[Array, "S N"], images: Float[Array, "S N"], count: Int[Array, ""], k: int
) -> Ritz:
    values, mixing = _projected(problem, basis, images, count)
    values, mixing = problem.sign * values[:k], mixing[:, :k]
    vectors = mixing.T @ basis
    return Ritz(values, vectors, mixing.T @ images - values[:, None] * vectors)


def _projected(
    problem: Problem, basis: Float[Array, "S N"], images: Float[Array, "S N"], count: Int[Array, ""]
) -> tuple[Float[Array, " S"], Float[Array, "S S"]]:
    """Eigenpairs of `sign H` on the basis, those of its empty rows last."""
    T = problem.sign * basis @ images.T
    empty = jnp.arange(T.shape[0]) >= count
    size = jnp.max(jnp.abs(T))
    last = jnp.where(empty, 2 * T.shape[0] * jnp.where(size > 0, size, 1), 0)
    return jnp.linalg.eigh((T + T.T) / 2 + jnp.diag(last))


def _restarted(problem: Problem, search: Search, keep: int) -> tuple[Array, Array, Array]:
    """The basis and its image reduced to the best Ritz vectors."""
    mixing = _projected(problem, search.basis, search.images, search.count)[1]
    mixing = jnp.where(jnp.arange(mixing.shape[1]) < keep, 1.0, 0.0).astype(mixing.dtype)[None] * mixing
    return mixing.T @ search.basis, mixing.T @ search.images, jnp.asarray(keep, search.count.dtype)


def _orthogonal(
    basis: Float[Array, "S N"], v: Float[Array, " N"], seed: Int[Array, ""]
) -> Float[Array, " N"]:
    """The part of `v` outside of the basis, normalised; a random direction where that is rounding."""

    def outside(v: Float[Array, " N"]) -> tuple[Array, Array]:
        v = v / jnp.linalg.norm(v)
        w = v
        for _ in range(3):  # the first leaves components of the size of the rounding that it removes
            w = w - (basis @ w) @ basis
        return w, jnp.linalg.norm(w)

    w, length = outside(v)
    other, other_length = outside(jax.random.normal(jax.random.key(seed), v.shape, v.dtype))
    known = length > 1e3 * jnp.finfo(v.dtype).eps
    return jnp.where(known, w / jnp.where(known, length, 1), other / other_length)
