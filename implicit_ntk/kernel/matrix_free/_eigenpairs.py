"""The largest and the smallest eigenpairs of a kernel from products with it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from implicit_ntk._memory import require_memory
from implicit_ntk.kernel.matrix_free._davidson import Problem, Ritz, davidson
from implicit_ntk.kernel.matrix_free._estimates import Eigenpairs
from implicit_ntk.kernel.matrix_free._preconditioner import Preconditioner
from implicit_ntk.kernel.matrix_free._products import KernelProducts

BASIS = 48
"""Vectors that a search keeps beside those asked for: longer bases saved few products and cost more."""


def require_basis(products: KernelProducts, k: int) -> None:
    """`MemoryError` unless the basis of a search for k eigenpairs fits, its image, and those of a restart."""
    rows, itemsize = min(_basis_size(k), products.size), jnp.dtype(products.dtype).itemsize
    nbytes = 4 * rows * products.size * itemsize
    require_memory(nbytes, f"a search for {k} eigenpairs", "ask for fewer, or decompose op.to_dense()")


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
        problem = Problem(products.apply, lambda v: v, done, -1.0)
        search = davidson(problem, start, _basis_size(k), max_products)
        ritz = _measured(products, search.ritz, -1.0)
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
        problem = Problem(products.apply, inverse, done, 1.0)
        search = davidson(problem, start, _basis_size(k), max_products)
        ritz = _measured(products, search.ritz, 1.0)
        return _pairs(products, ritz, bounds(ritz), preconditioner.largest, rtol, search.products)


def _basis_size(k: int) -> int:
    return BASIS + 2 * k


def _energy_bounds(preconditioner: Preconditioner, ritz: Ritz) -> Float[Array, " k"]:
    """`|lam_i - theta| <= s sqrt(lam_i)` for some i, `s = ||r||_{H^-1}` as the preconditioner bounds it.

    The first by expanding `r` in eigenvectors; at worst `lam_i` lies above `theta`. `s` follows from
    `||r||_{H^-1}^2 <= (1 + shift / lam_min) r.P^-1 r`, because `P <= H + shift I`; `lam_min` is that of the
    space beside the smaller pairs, to which `r` is orthogonal: the value itself. Near the bottom rounding
    spoils the Euclidean residual by `eps lam_max`, this bound by `eps sqrt(lam lam_max)`.
    """
    inverse = jax.vmap(lambda r: preconditioner.power(-1.0, r))(ritz.residuals)
    squares = jnp.maximum(jnp.sum(inverse * ritz.residuals, axis=1), 0)
    values = jnp.maximum(ritz.values, 0)
    s = jnp.sqrt(
        squares + preconditioner.shift * (squares / jnp.maximum(values, jnp.finfo(values.dtype).tiny))
    )
    return s * (s / 2 + jnp.sqrt(values + (s / 2) ** 2))


def _done(
    products: KernelProducts, bounds: Array, values: Array, largest: Array, rtol: Array
) -> Bool[Array, " k"]:
    """Within the tolerance, or as close as rounding lets them come, or zero as far as can be told."""
    rounding = products.rounding
    zero = (jnp.abs(values) <= jnp.finfo(values.dtype).eps * largest) & (bounds <= rounding * largest)
    return zero | (bounds <= jnp.maximum(rtol * values, products.noise(values, largest, rounding)))


def _measured(products: KernelProducts, ritz: Ritz, sign: float) -> Ritz:
    """Rayleigh quotients and residuals of the vectors, from products of their own; `sign` values ascend.

    `||J^T q||^2` has a relative error of `eps sqrt(lambda_max / lam)` and no more.
    """

    def of_one(q: Float[Array, " N"]) -> tuple[Array, Array, Array]:
        q = q / jnp.linalg.norm(q)
        tangent = products.pull(q)
        value = sum((jnp.sum(leaf**2) for leaf in tangent.values()), start=jnp.zeros((), q.dtype))
        return value, q, products.push(tangent) - value * q

    measured = Ritz(*jax.lax.map(of_one, ritz.vectors))
    order = jnp.argsort(sign * measured.values)
    return Ritz(*(leaf[order] for leaf in measured))


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
