"""The largest and the smallest eigenpairs of a kernel from products with it."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from implicit_ntk.kernel._davidson import Problem, Ritz, davidson
from implicit_ntk.kernel._estimates import Eigenpairs
from implicit_ntk.kernel._preconditioner import Preconditioner
from implicit_ntk.kernel._products import KernelProducts

BASIS = 48
"""Vectors that a search keeps beside those asked for: longer bases saved few products and cost more."""

Bounds = Callable[[Ritz], Float[Array, " k"]]


@eqx.filter_jit
def largest_pairs(
    products: KernelProducts, k: int, rtol: Array, max_products: Int[Array, ""], key: Key[Array, ""]
) -> Eigenpairs:
    """Lanczos with full reorthogonalisation and thick restarts."""

    def bounds(ritz: Ritz) -> Float[Array, " k"]:
        return jnp.linalg.norm(ritz.residuals, axis=1)

    def done(ritz: Ritz) -> Bool[Array, " k"]:
        return _done(products, bounds(ritz), ritz.values, ritz.values[0], rtol)

    with jax.default_matmul_precision("highest"):
        start = jax.random.normal(key, (k, products.size), products.dtype)
        search = davidson(
            Problem(products.apply, lambda v: v, done, -1.0), start, BASIS + 2 * k, max_products
        )
        ritz = _measured(products, search.ritz)
        return _pairs(products, ritz, bounds(ritz), ritz.values[0], rtol, search.products)


@eqx.filter_jit
def smallest_pairs(
    products: KernelProducts,
    preconditioner: Preconditioner,
    k: int,
    rtol: Array,
    max_products: Int[Array, ""],
    key: Key[Array, ""],
) -> Eigenpairs:
    """Davidson's method: residuals through the preconditioner extend the basis, no inner solves."""

    def inverse(v: Float[Array, " N"]) -> Float[Array, " N"]:
        return preconditioner.power(-1.0, v)

    def bounds(ritz: Ritz) -> Float[Array, " k"]:
        return jnp.minimum(jnp.linalg.norm(ritz.residuals, axis=1), _energy_bounds(preconditioner, ritz))

    def done(ritz: Ritz) -> Bool[Array, " k"]:
        return _done(products, bounds(ritz), ritz.values, preconditioner.largest, rtol)

    with jax.default_matmul_precision("highest"):
        start = jax.random.normal(key, (k, products.size), products.dtype)
        start = jax.vmap(inverse)(start)
        search = davidson(Problem(products.apply, inverse, done, 1.0), start, BASIS + 2 * k, max_products)
        ritz = _measured(products, search.ritz)
        return _pairs(products, ritz, bounds(ritz), preconditioner.largest, rtol, search.products)


def _energy_bounds(preconditioner: Preconditioner, ritz: Ritz) -> Float[Array, " k"]:
    """`min_i |lam_i - theta| <= sqrt(lam_i) ||r||_{H^-1}`, the norm as the preconditioner bounds it.

    The first by expanding `r` in eigenvectors. `||r||_{H^-1}^2 <= (1 + shift / lam_min) r.P^-1 r`, because
    `P <= H + shift I`. Near the bottom rounding spoils the Euclidean
    residual by `eps lam_max`, this bound by `eps sqrt(lam lam_max)`.
    """
    inverse = jax.vmap(lambda r: preconditioner.power(-1.0, r))(ritz.residuals)
    squares = jnp.maximum(jnp.sum(inverse * ritz.residuals, axis=1), 0)
    values = jnp.maximum(ritz.values, 0)
    least = jnp.maximum(values[0], jnp.finfo(values.dtype).tiny)
    return jnp.sqrt(values * (1 + preconditioner.shift / least) * squares)


def _done(
    products: KernelProducts, bounds: Array, values: Array, largest: Array, rtol: Array
) -> Bool[Array, " k"]:
    """Within the tolerance, or as close as rounding lets them come, or zero as far as can be told."""
    rounding = products.rounding
    zero = (jnp.abs(values) <= jnp.finfo(values.dtype).eps * largest) & (bounds <= rounding * largest)
    return zero | (bounds <= jnp.maximum(rtol * values, products.noise(values, largest, rounding)))


def _measured(products: KernelProducts, ritz: Ritz) -> Ritz:
    """Rayleigh quotients and residuals of the vectors, from products of their own."""

    def of_one(q: Float[Array, " N"]) -> tuple[Array, Array, Array]:
        q = q / jnp.linalg.norm(q)
        tangent = products.pull(q)
        value = sum((jnp.sum(leaf**2) for leaf in tangent.values()), start=jnp.zeros((), q.dtype))
        return value, q, products.push(tangent) - value * q

    return Ritz(*jax.lax.map(of_one, ritz.vectors))


def _pairs(
    products: KernelProducts, ritz: Ritz, bounds: Array, largest: Array, rtol: Array, spent: Int[Array, ""]
) -> Eigenpairs:
    k = bounds.size
    return Eigenpairs(
        values=ritz.values,
        vectors=ritz.vectors.reshape(k, products.samples, *products.out_shape),
        bounds=bounds,
        errors=bounds + products.noise(ritz.values, largest, products.error),
        converged=_done(products, bounds, ritz.values, largest, 1.5 * rtol),
        products=spent + k,
    )
