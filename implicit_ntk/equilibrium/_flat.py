"""States as vectors: one row of numbers a problem, whatever the tree that holds them."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class FlatView(eqx.Module):
    """The form of a batch of states, and the way from their trees to arrays `(*batch, dim)` and back."""

    form: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dtypes: tuple[jnp.dtype, ...] = eqx.field(static=True)
    batch_ndim: int = eqx.field(static=True)

    @classmethod
    def of(cls, tree: PyTree[Array], batch_ndim: int) -> "FlatView":
        """The form of this state. Raises `TypeError` for complex leaves."""
        leaves, form = jax.tree.flatten(tree)
        if any(jnp.iscomplexobj(leaf) for leaf in leaves):
            raise TypeError(
                "the state must be real for this solver, got a complex leaf; use Picard() and Neumann(), "
                "or keep real and imaginary parts as two leaves"
            )
        shapes = tuple(leaf.shape[batch_ndim:] for leaf in leaves)
        return cls(form, shapes, tuple(leaf.dtype for leaf in leaves), batch_ndim)

    @property
    def dim(self) -> int:
        """The number of unknowns of one problem."""
        return sum(map(math.prod, self.shapes))

    def flatten(self, tree: PyTree[Array]) -> Float[Array, "*batch dim"]:
        """One row a problem, in the widest dtype among the leaves."""
        dtype = jnp.result_type(*self.dtypes)
        rows = [
            leaf.reshape(*leaf.shape[: self.batch_ndim], math.prod(shape)).astype(dtype)
            for leaf, shape in zip(jax.tree.leaves(tree), self.shapes, strict=True)
        ]
        return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=-1)

    def restore(self, rows: Float[Array, "*batch dim"]) -> PyTree[Array]:
        """The tree of these rows."""
        leaves, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            stop = start + math.prod(shape)
            leaves.append(rows[..., start:stop].reshape(*rows.shape[:-1], *shape).astype(dtype))
            start = stop
        return jax.tree.unflatten(self.form, leaves)


def dot(a: Float[Array, "*batch dim"], b: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
    """The inner product of each problem's rows."""
    return jnp.sum(a * b, axis=-1)


def length(a: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
    """The Euclidean norm of each problem's row."""
    return jnp.sqrt(dot(a, a))


def components(
    basis: Float[Array, "*batch k dim"], a: Float[Array, "*batch dim"]
) -> Float[Array, "*batch k"]:
    """The inner products of each problem's row with its vectors."""
    return jnp.einsum("...kd,...d->...k", basis, a)


def combine(
    coefficients: Float[Array, "*batch k"], basis: Float[Array, "*batch k dim"]
) -> Float[Array, "*batch dim"]:
    """The sum of each problem's vectors with these coefficients."""
    return jnp.einsum("...k,...kd->...d", coefficients, basis)


def put(
    basis: Float[Array, "*batch k dim"], slot: Array, a: Float[Array, "*batch dim"]
) -> Float[Array, "*batch k dim"]:
    """The vectors with number `slot`, the same for all problems, replaced: one write, no scatter."""
    return jax.lax.dynamic_update_index_in_dim(basis, a, slot, basis.ndim - 2)
