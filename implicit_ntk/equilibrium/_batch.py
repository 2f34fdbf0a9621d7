"""Batches of independent problems: the leading axes that all leaves of a state share."""

import math
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree


def batch_shape(tree: PyTree[Array], batch_ndim: int) -> tuple[int, ...]:
    """The leading `batch_ndim` axes, which index the problems.

    Raises `ValueError` where the leaves do not share them, or where they index no problem at all.
    """
    shapes = {jnp.shape(leaf)[:batch_ndim] for leaf in jax.tree.leaves(tree)}
    if len(shapes) != 1 or any(len(shape) < batch_ndim for shape in shapes):
        raise ValueError(
            f"z0: its leaves must share {batch_ndim} leading batch axes (batch_ndim={batch_ndim}), "
            f"got leading shapes {sorted(shapes)}; reshape the leaves or pass another batch_ndim"
        )
    shape = shapes.pop()
    if 0 in shape:
        raise ValueError(f"z0 is an empty batch, leading shape {shape}; pass at least one problem")
    return shape


def norms(tree: PyTree[Array], batch_ndim: int) -> Float[Array, "..."]:
    """The Euclidean norm of each problem's state, over all leaves: shape = the batch axes."""
    squares = [_sum_of_squares(leaf, batch_ndim) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jax.tree.reduce(operator.add, squares)).astype(real_dtype(tree))


def magnitudes(tree: PyTree[Array], batch_ndim: int) -> Float[Array, "..."]:
    """The power of two below each problem's largest entry; one where that is zero or not finite.

    Dividing by it is exact and keeps the squares in `norms` from under- and overflowing.
    """
    dtype = real_dtype(tree)
    peaks = [_flat(jnp.abs(leaf), batch_ndim).max(axis=-1, initial=0) for leaf in jax.tree.leaves(tree)]
    peak = jax.tree.reduce(jnp.maximum, peaks)
    _, exponent = jnp.frexp(jnp.maximum(peak, jnp.finfo(dtype).tiny))
    # Not the very largest, whose reciprocal is not a normal number: compilers divide by multiplying.
    power = jnp.ldexp(jnp.ones_like(peak), jnp.minimum(exponent - 1, jnp.finfo(dtype).maxexp - 2))
    return jnp.where((peak > 0) & jnp.isfinite(peak), power, jnp.ones_like(power)).astype(dtype)


def is_zero(tree: PyTree[Array], batch_ndim: int) -> Bool[Array, "..."]:
    """Which problems have nothing but zeros for a state."""
    nothing = [jnp.all(_flat(leaf, batch_ndim) == 0, axis=-1) for leaf in jax.tree.leaves(tree)]
    return jax.tree.reduce(operator.and_, nothing)


def select(mask: Bool[Array, "..."], on_true: PyTree[Array], on_false: PyTree[Array]) -> PyTree[Array]:
    """Leafwise `where`, the mask of shape (batch axes) broadcast over each problem's state."""
    return jax.tree.map(lambda a, b: jnp.where(_expand(mask, a.ndim), a, b), on_true, on_false)


def multiply(factor: Float[Array, "..."], tree: PyTree[Array]) -> PyTree[Array]:
    """Each problem's state times its own factor, of shape (batch axes)."""
    return jax.tree.map(lambda leaf: leaf * _expand(factor, leaf.ndim).astype(leaf.dtype), tree)


def divide(tree: PyTree[Array], divisor: Float[Array, "..."]) -> PyTree[Array]:
    """Each problem's state by its own divisor, of shape (batch axes)."""
    return jax.tree.map(lambda leaf: leaf / _expand(divisor, leaf.ndim).astype(leaf.dtype), tree)


def subtract(left: PyTree[Array], right: PyTree[Array]) -> PyTree[Array]:
    """Leafwise difference."""
    return jax.tree.map(operator.sub, left, right)


def real_dtype(tree: PyTree[Array]) -> jnp.dtype:
    """The dtype in which a state's norms are given: that of its least precise leaf."""
    kinds = [jnp.finfo(leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return max(kinds, key=lambda kind: float(kind.eps)).dtype


def _sum_of_squares(leaf: Array, batch_ndim: int) -> Float[Array, "..."]:
    flat = _flat(leaf, batch_ndim)
    squares = jnp.real(flat * jnp.conj(flat)) if jnp.iscomplexobj(flat) else flat * flat
    return jnp.sum(squares, axis=-1)


def _flat(leaf: Array, batch_ndim: int) -> Array:
    """One row a problem, in at least float32: squares of smaller floats overflow beyond 255."""
    flat = leaf.reshape(*leaf.shape[:batch_ndim], math.prod(leaf.shape[batch_ndim:]))
    return flat.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _expand(mask: Array, ndim: int) -> Array:
    return mask.reshape(mask.shape + (1,) * (ndim - mask.ndim))
