"""The operator `J`: the Jacobian of the outputs of a batch with respect to the trained parameters."""

import abc
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray, check_floating
from implicit_ntk.jacobian._linearization import Linearization
from implicit_ntk.networks import AbstractNetwork, as_tangent, check_tangent, forms, trained_leaves

Leaves = dict[str, Float[Array, "..."]]
Blocks = dict[str, Float[Array, "n1 n2"]]


class AbstractJacobian(eqx.Module):
    """`J = du/dtheta` (n rows, one column a trained parameter), applied but never formed.

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
        return self.linearization.X.shape[0], sum(leaf.size for leaf in leaves)

    def mv(self, tangent: PyTree) -> Float[Array, " n"]:
        """`J v`: the first-order change of the outputs along a tangent of the network.

        Raises `ValueError` for a tangent that has not the form of the trained leaves.
        """
        check_tangent(self.net, tangent)
        return _mv(self, trained_leaves_of(self.net, tangent))

    def rmv(self, r: Float[AnyArray, " n"]) -> AbstractNetwork:
        """`J^T r`, a gradient in the network's structure; `r = u - y` gives that of the square loss.

        Raises `ValueError` for a cotangent that is not (n,) or not finite, `TypeError` for one of
        another dtype than the outputs.
        """
        r = check_floating(r, "r")
        if r.shape != self.shape[:1]:
            raise ValueError(f"r must have shape {self.shape[:1]}, one number a row, got {r.shape}")
        dtype = self.linearization.X.dtype
        if r.dtype != dtype:
            raise TypeError(f"r is {r.dtype} but the outputs are {dtype}; cast r with .astype('{dtype}')")
        return as_tangent(self.net, _rmv(self, r))

    def gram(self, other: "AbstractJacobian | None" = None) -> Float[Array, "n1 n2"]:
        """`J J'^T`: the kernel of this batch with itself, or with the batch of `other`."""
        return jax.tree.reduce(operator.add, self.blocks(other))

    def blocks(self, other: "AbstractJacobian | None" = None) -> Blocks:
        """The kernel of each trained leaf; they sum to `gram`.

        Raises `ValueError` where `other` is of another kind, or has trained leaves of other names,
        shapes or dtypes.
        """
        if other is not None and (type(other) is not type(self) or _columns(other) != _columns(self)):
            raise ValueError(
                "other must be a Jacobian of the same kind, of trained leaves of the same names, shapes and "
                "dtypes; build it by jacobian(net, X2, kind=...)"
            )
        return _blocks(self, other)

    @abc.abstractmethod
    def push(self, tangent: Leaves) -> Float[Array, " n"]:
        """`mv` on arrays by name, traceable."""

    @abc.abstractmethod
    def pull(self, r: Float[Array, " n"]) -> Leaves:
        """`rmv` to arrays by name, traceable."""

    @abc.abstractmethod
    def kernel_blocks(self, other: "AbstractJacobian") -> Blocks:
        """`blocks`, traceable."""


def _columns(J: AbstractJacobian) -> tuple:
    """What the columns of `J` stand for: names, shapes and dtypes of the trained leaves."""
    return J.net.trained, forms(trained_leaves(J.net))


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
