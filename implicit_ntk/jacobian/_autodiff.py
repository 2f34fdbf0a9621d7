"""`J` by autodiff, for any network: the derivative of the Lagrangian `l_i` at frozen states."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk._memory import memory_limit
from implicit_ntk.jacobian._linearization import Linearization, adjoint_products
from implicit_ntk.jacobian._operator import AbstractJacobian, Blocks, Leaves
from implicit_ntk.networks import AbstractNetwork, trained_leaves, with_leaves


class AutodiffJacobian(AbstractJacobian):
    """`J v` by `jax.jvp`, `J^T r` by `jax.vjp`, Grams from tiles of per-sample gradients.

    No solve is repeated: the states of the linearisation serve every product. A Gram costs (n k)^2
    products of two gradients, in tiles that fit the memory.
    """

    linearization: Linearization

    def push(self, tangent: Leaves) -> Float[Array, "n *out"]:
        """One `jax.jvp` of the whole batch."""
        leaves = trained_leaves(self.net)
        return jax.jvp(self._lagrangian, (leaves,), (tangent,))[1]

    def pull(self, r: Float[Array, "n *out"]) -> Leaves:
        """One `jax.vjp` of the whole batch."""
        return jax.vjp(self._lagrangian, trained_leaves(self.net))[1](r)[0]

    def kernel_blocks(self, other: "AutodiffJacobian") -> Blocks:
        """Tiles of this batch's gradients against tiles of the other's."""
        blocks = self._blocks_of(other, jnp.arange(self.shape[0]), jnp.arange(other.shape[0]))
        shape = (*self.linearization.shape, *other.linearization.shape)
        return {name: block.reshape(shape) for name, block in blocks.items()}

    def output_blocks(self, other: "AutodiffJacobian", c: Int[Array, ""]) -> Blocks:
        """The rows of output c of both."""
        n1, k = self.linearization.shape
        n2, _ = other.linearization.shape
        return self._blocks_of(other, k * jnp.arange(n1) + c, k * jnp.arange(n2) + c)

    def _blocks_of(
        self, other: "AutodiffJacobian", rows: Int[Array, " r"], columns: Int[Array, " s"]
    ) -> dict[str, Float[Array, "r s"]]:
        """The kernel of some outputs with some of the other's, both counted sample by sample."""
        tile = self._tile()

        def against_other(row: Leaves) -> dict[str, Float[Array, " s"]]:
            return lax.map(lambda j: _inner(row, other._gradient(j)), columns, batch_size=tile)

        return lax.map(lambda i: against_other(self._gradient(i)), rows, batch_size=tile)

    def _tile(self) -> int:
        """As many gradients as a sixteenth of the memory limit holds, on each side."""
        leaf = jnp.result_type(*trained_leaves(self.net).values())
        return max(1, min(self.shape[0], memory_limit() // (16 * self.shape[1] * leaf.itemsize)))

    def _lagrangian(self, leaves: Leaves) -> Float[Array, "n *out"]:
        at = self.linearization
        return _lagrangian(at.net, leaves, at.X, at.equilibrium.z, at.adjoint.z)

    def _gradient(self, i: Array) -> Leaves:
        """The gradient of output i, counted sample by sample."""
        at = self.linearization
        sample, output = divmod(i, math.prod(at.shape[1:]))
        X, z, p = jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, sample, 1), (at.X, at.equilibrium.z, at.adjoint.z)
        )

        def of_one(leaves: Leaves) -> Float[Array, ""]:
            return jnp.ravel(_lagrangian(at.net, leaves, X, z, p))[output]

        return jax.grad(of_one)(trained_leaves(at.net))


def _lagrangian(
    net: AbstractNetwork, leaves: Leaves, X: Array, z: PyTree[Array], p: PyTree[Array]
) -> Float[Array, "n *out"]:
    """`p_ic . cell(z_i, phi_i) + readout_c(z_i, phi_i)` as a function of the trained leaves."""
    net = with_leaves(net, leaves)
    phi = net.inject(X)
    return adjoint_products(p, net.cell(z, phi)) + net.readout(z, phi)


def _inner(a: Leaves, b: Leaves) -> dict[str, Array]:
    return {name: jnp.vdot(a[name], b[name]) for name in a}
