"""`J` as a matrix, by reverse mode straight through the solve: for tests and tiny problems."""

import math
import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from implicit_ntk.equilibrium import Policy
from implicit_ntk.jacobian._linearization import Linearization
from implicit_ntk.jacobian._operator import AbstractJacobian, Blocks, Leaves
from implicit_ntk.networks import solve_injected, trained_leaves, with_leaves


class DenseJacobian(AbstractJacobian):
    """`J` itself: for each leaf an array (n, *out, *leaf shape), from `jax.jacrev` of the implicit rule.

    Shares neither adjoint states nor factors with the other two, which makes it their oracle.
    """

    linearization: Linearization
    rows: Leaves

    def __init__(self, linearization: Linearization, policy: Policy):
        self.linearization = linearization
        leaves = trained_leaves(linearization.net)
        self.rows = jax.jacrev(lambda leaves: self._outputs(leaves, policy))(leaves)

    def _outputs(self, leaves: Leaves, policy: Policy) -> Float[Array, "n *out"]:
        at = self.linearization
        net = with_leaves(at.net, leaves)
        phi = net.inject(at.X)
        eq = solve_injected(net, phi, at.equilibrium.z, at.method, policy)
        return net.readout(eq.z, phi)

    def push(self, tangent: Leaves) -> Float[Array, "n *out"]:
        """A matrix-vector product a leaf."""
        products = {name: rows @ jnp.ravel(tangent[name]) for name, rows in self._matrices().items()}
        return jax.tree.reduce(operator.add, products).reshape(self.linearization.shape)

    def pull(self, r: Float[Array, "n *out"]) -> Leaves:
        """A vector-matrix product a leaf."""
        leaves = trained_leaves(self.net)
        products = {name: jnp.ravel(r) @ rows for name, rows in self._matrices().items()}
        return {name: product.reshape(leaves[name].shape) for name, product in products.items()}

    def kernel_blocks(self, other: "DenseJacobian") -> Blocks:
        """A matrix product a leaf."""
        shape = (*self.linearization.shape, *other.linearization.shape)
        return {
            name: (a @ b.T).reshape(shape) for name, (a, b) in _pairs(self._matrices(), other._matrices())
        }

    def output_blocks(self, other: "DenseJacobian", c: Int[Array, ""]) -> Blocks:
        """A matrix product a leaf, of the rows of output c."""
        return {name: a @ b.T for name, (a, b) in _pairs(self._matrices(c), other._matrices(c))}

    def _matrices(self, c: Int[Array, ""] | None = None) -> dict[str, Float[Array, "r p"]]:
        """For each leaf a matrix with a row an output, of all or of output c."""
        axes = len(self.linearization.shape)
        chosen = self.rows if c is None else {name: rows[:, c] for name, rows in self.rows.items()}
        keep = axes if c is None else 1
        return {
            name: rows.reshape(math.prod(rows.shape[:keep]), math.prod(rows.shape[keep:]))
            for name, rows in chosen.items()
        }


def _pairs(a: Leaves, b: Leaves) -> Iterator[tuple[str, tuple[Array, Array]]]:
    return ((name, (a[name], b[name])) for name in a)
