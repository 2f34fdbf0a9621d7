"""The operator `J`: the Jacobian of the outputs of a batch with respect to the trained parameters."""

import abc
import math
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from implicit_ntk._checks import AnyArray, check_floating
from implicit_ntk._hosts import held_rows
from implicit_ntk._memory import require_memory
from implicit_ntk.jacobian._linearization import Linearization
from implicit_ntk.networks import AbstractNetwork, as_tangent, check_tangent, forms, trained_leaves

Leaves = dict[str, Float[Array, "..."]]
Kernel = Float[Array, "..."]
"""A kernel (n1, *out, n2, *out): (n1, n2), or (n1, k, n2, k) with k outputs."""

Blocks = dict[str, Kernel]


class AbstractJacobian(eqx.Module):
    """`J = du/dtheta` (a row an output, a column a trained parameter), applied but never formed.

    Tangents and gradients have the network's own structure, None where nothing is trained: they go
    straight into `eqx.apply_updates(net, ...)`.
    """

    linearization: eqx.AbstractVar[Linearization]

    @property
    def net(self) -> AbstractNetwork:
        """The network that was linearised."""
        return self.linearization.net

    @property
    def shape(self) -> tuple[int, int]:
        """(number of outputs, number of trained parameters)."""
        leaves = trained_leaves(self.net).values()
        return math.prod(self.linearization.shape), sum(leaf.size for leaf in leaves)

    def mv(self, tangent: PyTree) -> Float[Array, "n *out"]:
        """`J v`: the first-order change of the outputs, (n,) or (n, k), along a tangent of the network.

        Raises `ValueError` for a tangent that has not the form of the trained leaves.
        """
        check_tangent(self.net, tangent)
        return _mv(self, trained_leaves_of(self.net, tangent))

    def rmv(self, r: Float[AnyArray, "n *out"]) -> AbstractNetwork:
        """`J^T r`, a gradient in the network's structure; `r = u - y` gives that of the square loss.

        Raises `ValueError` for a cotangent that has not the outputs' shape, (n,) or (n, k),
        or is not finite, `TypeError` for one of
        another dtype than the outputs.
        """
        r = check_floating(r, "r")
        shape = self.linearization.shape
        if r.shape != shape:
            raise ValueError(f"r must have shape {shape}, one number an output, got {r.shape}")
        dtype = self.linearization.X.dtype
        if r.dtype != dtype:
            raise TypeError(f"r is {r.dtype} but the outputs are {dtype}; cast r with .astype('{dtype}')")
        return as_tangent(self.net, _rmv(self, r))

    def gram(self, other: "AbstractJacobian | None" = None) -> Kernel:
        """`J J'^T` (n1, *out, n2, *out): the kernel of this batch with itself, or with that of `other`."""
        return _total(self.blocks(other))

    def blocks(self, other: "AbstractJacobian | None" = None) -> Blocks:
        """The kernel of each trained leaf; they sum to `gram`.

        Raises `ValueError` where `other` is of another kind, or has trained leaves of other names,
        shapes or dtypes, or other outputs; `MemoryError` past the limit.
        """
        if other is not None and (type(other) is not type(self) or _columns(other) != _columns(self)):
            raise ValueError(
                "other must be a Jacobian of the same kind, of as many outputs, with trained leaves of the "
                "same names, shapes and dtypes; build it by jacobian(net, X2, kind=...)"
            )
        n2 = (self if other is None else other).linearization.X.shape[0]
        matrices = len(self.net.trained) * math.prod(self.linearization.shape[1:]) ** 2
        require_gram(matrices, held_rows(self.linearization.X), n2, self.linearization.X.dtype)
        return _blocks(self, other)

    def kernel_diagonal(self, other: "AbstractJacobian") -> Float[Array, "k n1 n2"]:
        """Each output's own kernel, `H[:, c, :, c]`: k of the k^2 blocks, at the cost of k. Traceable."""
        if len(self.linearization.shape) == 1:
            return _total(self.kernel_blocks(other))[None]
        return lax.map(lambda c: _total(self.output_blocks(other, c)), self._each_output())

    def kernel_trace(self, other: "AbstractJacobian") -> Float[Array, "n1 n2"]:
        """The kernel summed over the outputs, `sum_c H[:, c, :, c]`, in the memory of one. Traceable."""
        if len(self.linearization.shape) == 1:
            return _total(self.kernel_blocks(other))

        def add(total: Array, c: Array) -> tuple[Array, None]:
            return total + _total(self.output_blocks(other, c)), None

        sizes = self.linearization.X.shape[0], other.linearization.X.shape[0]
        return lax.scan(add, jnp.zeros(sizes, self.linearization.X.dtype), self._each_output())[0]

    def _each_output(self) -> Int[Array, " k"]:
        return jnp.arange(self.linearization.shape[1])

    @abc.abstractmethod
    def push(self, tangent: Leaves) -> Float[Array, "n *out"]:
        """`mv` on arrays by name, traceable."""

    @abc.abstractmethod
    def pull(self, r: Float[Array, "n *out"]) -> Leaves:
        """`rmv` to arrays by name, traceable."""

    @abc.abstractmethod
    def kernel_blocks(self, other: "AbstractJacobian") -> Blocks:
        """`blocks`, traceable."""

    @abc.abstractmethod
    def output_blocks(self, other: "AbstractJacobian", c: Int[Array, ""]) -> Blocks:
        """The kernel of output c alone, (n1, n2), of k: a block a leaf. Traceable."""


def require_gram(matrices: int, n1: int, n2: int, dtype: DTypeLike) -> None:
    """`MemoryError` unless so many kernels (n1, n2) fit, beside what they are made of."""
    nbytes = 3 * matrices * n1 * n2 * np.dtype(dtype).itemsize
    require_memory(nbytes, "the kernel", "pass fewer samples")


def _columns(J: AbstractJacobian) -> tuple:
    """What the columns of `J` stand for, and the outputs: what two must share to have a cross kernel."""
    return J.net.trained, forms(trained_leaves(J.net)), J.linearization.shape[1:]


def _total(blocks: Blocks) -> Array:
    return jax.tree.reduce(operator.add, blocks)


def trained_leaves_of(net: AbstractNetwork, tangent: PyTree) -> Leaves:
    """The arrays of a tangent by name."""
    return {name: jnp.asarray(leaf) for name, leaf in trained_leaves(tangent).items()}


@eqx.filter_jit
def _mv(J: AbstractJacobian, tangent: Leaves) -> Array:
    with J.linearization.method.products():
        return J.push(tangent)


@eqx.filter_jit
def _rmv(J: AbstractJacobian, r: Array) -> Leaves:
    with J.linearization.method.products():
        return J.pull(r)


@eqx.filter_jit
def _blocks(J: AbstractJacobian, other: AbstractJacobian | None) -> Blocks:
    with J.linearization.method.products():
        return J.kernel_blocks(J if other is None else other)
