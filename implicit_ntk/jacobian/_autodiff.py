"""`J` by autodiff, for any network: the derivative of the Lagrangian `l_i` at frozen states."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from implicit_ntk._memory import memory_limit
from implicit_ntk.jacobian._linearization import Linearization
from implicit_ntk.jacobian._operator import AbstractJacobian, Blocks, Leaves
from implicit_ntk.networks import AbstractNetwork, trained_leaves, with_leaves


class AutodiffJacobian(AbstractJacobian):
    """`J v` by `jax.jvp`, `J^T r` by `jax.vjp`, Grams from tiles of per-sample gradients.

    No solve is repeated: the states of the linearisation serve every product. A Gram costs n^2
    products of two gradients, in tiles that fit the memory.
    """

    linearization: Linearization

    def push(self, tangent: Leaves) -> Float[Array, " n"]:
        """One `jax.jvp` of the whole batch."""
        leaves = trained_leaves(self.net)
        return jax.jvp(self._lagrangian, (leaves,), (tangent,))[1]

    def pull(self, r: Float[Array, " n"]) -> Leaves:
        """One `jax.vjp` of the whole batch."""
        return jax.vjp(self._lagrangian, trained_leaves(self.net))[1](r)[0]

    def kernel_blocks(self, other: "AutodiffJacobian") -> Blocks:
        """Tiles of this batch's gradients against tiles of the other's."""
        tile = self._tile()

        def against_other(row: Leaves) -> dict[str, Float[Array, " n2"]]:
            return lax.map(
                lambda i: _inner(row, other._gradient(i)), jnp.arange(other.shape[0]), batch_size=tile
            )

        return lax.map(lambda i: against_other(self._gradient(i)), jnp.arange(self.shape[0]), batch_size=tile)

    def _tile(self) -> int:
        """As many gradients as a sixteenth of the memory limit holds, on each side."""
        leaf = jnp.result_type(*trained_leaves(self.net).values())
        return max(1, min(self.shape[0], memory_limit() // (16 * self.shape[1] * leaf.itemsize)))

    def _lagrangian(self, leaves: Leaves) -> Float[Array, " n"]:
        at = self.linearization
        return _lagrangian(at.net, leaves, at.X, at.equilibrium.z, at.adjoint.z)

    def _gradient(self, i: Array) -> Leaves:
        """The gradient of sample i's output."""
        at = self.linearization
        X, z, p = jax.tree.map(
            lambda leaf: lax.dynamic_slice_in_dim(leaf, i, 1), (at.X, at.equilibrium.z, at.adjoint.z)
        )
        return jax.grad(lambda leaves: _lagrangian(at.net, leaves, X, z, p)[0])(trained_leaves(at.net))


def _lagrangian(
    net: AbstractNetwork, leaves: Leaves, X: Array, z: PyTree[Array], p: PyTree[Array]
) -> Float[Array, " n"]:
    """`p_i . cell(z_i, phi_i) + readout(z_i, phi_i)` as a function of the trained leaves."""
    net = with_leaves(net, leaves)
    phi = net.inject(X)
    dots = jax.tree.map(lambda a, b: jnp.sum((a * b).reshape(a.shape[0], -1), axis=1), p, net.cell(z, phi))
    return sum(jax.tree.leaves(dots)) + net.readout(z, phi)


def _inner(a: Leaves, b: Leaves) -> dict[str, Array]:
    return {name: jnp.vdot(a[name], b[name]) for name in a}
