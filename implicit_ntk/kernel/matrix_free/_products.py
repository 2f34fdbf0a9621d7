"""Products with `H = J J^T` of a batch whose rows of `J` are held in tiles. Traceable; vectors are flat.

Every tile has as many rows, the last ones repeated where the batch does not divide, so that one compiled
loop runs over them all. What the tiles share, the network above all, is held once.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from implicit_ntk.equilibrium import Equilibrium, Method
from implicit_ntk.jacobian import AbstractJacobian, AutodiffJacobian, OuterProductJacobian, slim
from implicit_ntk.networks import trained_leaves

Leaves = dict[str, Float[Array, "..."]]

CHUNK = 2**24
"""Entries of `H` that a loop over columns may hold at once."""


class KernelProducts(eqx.Module):
    """`H` of N = n k outputs by its products: with vectors, of single samples, on the diagonal.

    `relative_residual` is the largest sum of the forward and the adjoint solve's relative residuals.
    """

    tiles: AbstractJacobian
    samples: int = eqx.field(static=True)
    relative_residual: Float[Array, ""]

    @property
    def method(self) -> Method:
        """How the rows were solved for; every product has its precision."""
        return self.tiles.linearization.method

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the outputs of a sample."""
        return self._tiled_shape[2:]

    @property
    def outputs(self) -> int:
        """How many outputs a sample has, k."""
        return math.prod(self.out_shape)

    @property
    def size(self) -> int:
        """The number of rows of `H`, N = n k."""
        return self.samples * self.outputs

    @property
    def dtype(self) -> DTypeLike:
        """That of the trained leaves, and so of `H`."""
        return jnp.result_type(*self._leaves.values())

    @property
    def parameters(self) -> int:
        """The number of columns of `J`."""
        return sum(leaf.size for leaf in self._leaves.values())

    def apply(self, v: Float[Array, " N"]) -> Float[Array, " N"]:
        """`H v`, one product with `J^T` and one with `J`."""
        return self.push(self.pull(v))

    def pull(self, v: Float[Array, " N"]) -> Leaves:
        """`J^T v`, a tangent by the names of the trained leaves."""

        def add(total: Leaves, tile: tuple[PyTree, Array]) -> tuple[Leaves, None]:
            rows, part = tile
            return jax.tree.map(operator.add, total, eqx.combine(rows, shared).pull(part)), None

        rows, shared = _rows_and_shared(self.tiles)
        padded = jnp.pad(v, (0, math.prod(self._tiled_shape) - self.size))
        zero = {name: jnp.zeros_like(leaf) for name, leaf in self._leaves.items()}
        with self.method.products():
            return lax.scan(add, zero, (rows, padded.reshape(self._tiled_shape)))[0]

    def push(self, tangent: Leaves) -> Float[Array, " N"]:
        """`J t` of a tangent by name."""
        return self._map(lambda J: J.push(tangent)).reshape(-1)[: self.size]

    def noise(self, values: Float[Array, "..."], largest: Float[Array, ""], error: Array) -> Array:
        """How far an error of `error ||J||` in `J` moves eigenvalues, `2 sqrt(lam lam_max) e + lam_max e^2`.

        It moves each singular value by at most that much. Where the kernel is formed and then decomposed,
        rounding moves every eigenvalue by `lam_max e`, which near zero is far more.
        """
        return 2 * jnp.sqrt(jnp.maximum(values, 0) * largest) * error + largest * error**2

    @property
    def rounding(self) -> Float[Array, ""]:
        """What rounding makes of the relative error of `J` in its products: `sqrt(N) eps`."""
        return jnp.asarray(math.sqrt(self.size) * float(jnp.finfo(self.dtype).eps), self.dtype)

    @property
    def error(self) -> Float[Array, ""]:
        """The relative error of `J`: rounding, or twice the solves' relative residuals."""
        return jnp.maximum(self.rounding, 2 * self.relative_residual)

    def columns(self, samples: Int[Array, " B"]) -> Float[Array, "N Bk"]:
        """The columns of `H` that belong to these samples, all their outputs."""
        J = self._of(samples)
        blocks = self._map(lambda tile: _total(tile.kernel_blocks(J)))
        return blocks.reshape(-1, samples.size * self.outputs)[: self.size]

    def diagonal(self) -> Float[Array, " N"]:
        """The squared norms of the rows of `J`, one by one."""

        def of_one(sample: Int[Array, ""]) -> Float[Array, " k"]:
            J = self._of(sample[None])
            with self.method.products():
                return jnp.diagonal(_total(J.kernel_blocks(J)).reshape(self.outputs, self.outputs))

        batch = max(1, min(self.samples, CHUNK // (self.parameters * self.outputs)))
        return lax.map(of_one, jnp.arange(self.samples), batch_size=batch).reshape(-1)

    def wide(self, vectors: int) -> bool:
        """Is a block of so many vectors cheaper to multiply with columns of `H` than one by one with `J`?"""
        return self.size * (self._column_cost + vectors) < 2 * vectors * self.parameters

    @property
    def _column_cost(self) -> int:
        """Products of numbers that an entry of `H` takes."""
        if not isinstance(self.tiles, OuterProductJacobian):
            return self.parameters
        pairs = (a for terms in self.tiles.factors.values() for a in terms for _ in terms)
        return sum(a.left.shape[-1] + (0 if a.right is None else a.right.shape[-1]) for a in pairs)

    def over_columns(self, function: Callable[[Float[Array, "N Bk"]], Array]) -> Float[Array, "N b"]:
        """Rows of `function(H[:, S])`, (|S| k, b), for chunks S of the samples that fill all of them."""
        rows = max(1, min(self.samples, CHUNK // (self.size * self.outputs)))
        count = -(-self.samples // rows)
        chunks = jnp.minimum(jnp.arange(count * rows), self.samples - 1).reshape(count, rows)
        results = lax.map(lambda samples: function(self.columns(samples)), chunks)
        return results.reshape(count * rows * self.outputs, -1)[: self.size]

    def _of(self, samples: Int[Array, " B"]) -> AbstractJacobian:
        """The Jacobian of some of the samples."""
        rows, shared = _rows_and_shared(self.tiles)
        tile, row = jnp.divmod(samples, self._tiled_shape[1])
        # A factor that does not depend on the sample has one row in every tile.
        taken = jax.tree.map(lambda leaf: leaf[tile, jnp.minimum(row, leaf.shape[1] - 1)], rows)
        return eqx.combine(taken, shared)

    def _map(self, function: Callable[[AbstractJacobian], Array]) -> Array:
        rows, shared = _rows_and_shared(self.tiles)
        with self.method.products():
            return lax.map(lambda tile: function(eqx.combine(tile, shared)), rows)

    @property
    def _leaves(self) -> Leaves:
        return trained_leaves(self.tiles.net)

    @property
    def _tiled_shape(self) -> tuple[int, ...]:
        """(tiles, rows, *out)."""
        return self.tiles.linearization.shape


def held(jacobians: Iterable[AbstractJacobian], samples: int) -> KernelProducts:
    """Tiles of as many rows each, whose first `samples` rows are the batch, as one operator."""
    kept = [(relative_residual(J), *_rows_and_shared(_kept(J))) for J in jacobians]
    residuals, rows, shared = zip(*kept, strict=True)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    return KernelProducts(eqx.combine(stacked, shared[0]), samples, jnp.stack(residuals).max())


def relative_residual(J: AbstractJacobian) -> Float[Array, ""]:
    """The largest relative residual of the forward solves plus that of the adjoint ones."""
    at = J.linearization
    return _worst(at.equilibrium) + _worst(at.adjoint)


def _kept(J: AbstractJacobian) -> AbstractJacobian:
    """What products read: beyond `slim`, only autodiff reads the inputs."""
    J = slim(J)
    if isinstance(J, AutodiffJacobian):
        return J
    return eqx.tree_at(lambda J: J.linearization.X, J, None)


def _rows_and_shared(J: AbstractJacobian) -> tuple[PyTree, PyTree]:
    """The leaves that have a row a sample, and what all tiles have in common."""
    shared = eqx.tree_at(
        lambda J: (J.linearization.net, J.linearization.method),
        jax.tree.map(lambda _: True, J),
        replace_fn=lambda tree: jax.tree.map(lambda _: False, tree),
    )
    return eqx.partition(J, shared)


def _worst(solve: Equilibrium) -> Float[Array, ""]:
    """The largest residual over the norm of its state; NaN where a state is."""
    states = jax.tree.leaves(solve.z)
    axes = solve.residual.shape
    squares = [jnp.sum(z.reshape(*axes, -1) ** 2, axis=-1) for z in states]
    norms = jnp.sqrt(functools.reduce(operator.add, squares))
    exact = solve.residual == 0  # as where a state is zero
    return jnp.max(jnp.where(exact, 0, solve.residual / jnp.where(exact, 1, norms)))


def _total(blocks: Leaves) -> Array:
    return jax.tree.reduce(operator.add, blocks)
