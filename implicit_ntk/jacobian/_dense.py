"""`J` as a matrix, by reverse mode straight through the solve: for tests and tiny problems."""

import math
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk.equilibrium import Policy
from implicit_ntk.jacobian._linearization import Linearization
from implicit_ntk.jacobian._operator import AbstractJacobian, Blocks, Leaves
from implicit_ntk.networks import solve_injected, trained_leaves, with_leaves


class DenseJacobian(AbstractJacobian):
    """`J` itself: for each leaf an array (n, *leaf shape), from `jax.jacrev` of the implicit rule.

    Shares neither adjoint states nor factors with the other two, which makes it their oracle.
    """

    linearization: Linearization
    rows: Leaves

    def __init__(self, linearization: Linearization, policy: Policy):
        self.linearization = linearization
        leaves = trained_leaves(linearization.net)
        self.rows = jax.jacrev(lambda leaves: self._outputs(leaves, policy))(leaves)

    def _outputs(self, leaves: Leaves, policy: Policy) -> Float[Array, " n"]:
        at = self.linearization
        net = with_leaves(at.net, leaves)
        phi = net.inject(at.X)
        eq = solve_injected(net, phi, at.equilibrium.z, at.method, policy)
        return net.readout(eq.z, phi)

    def push(self, tangent: Leaves) -> Float[Array, " n"]:
        """A matrix-vector product a leaf."""
        products = {name: _flat(rows) @ jnp.ravel(tangent[name]) for name, rows in self.rows.items()}
        return jax.tree.reduce(operator.add, products)

    def pull(self, r: Float[Array, " n"]) -> Leaves:
        """A vector-matrix product a leaf."""
        return {name: (r @ _flat(rows)).reshape(rows.shape[1:]) for name, rows in self.rows.items()}

    def kernel_blocks(self, other: "DenseJacobian") -> Blocks:
        """A matrix product a leaf."""
        return {name: _flat(rows) @ _flat(other.rows[name]).T for name, rows in self.rows.items()}


def _flat(rows: Float[Array, "n ..."]) -> Float[Array, "n p"]:
    return rows.reshape(rows.shape[0], math.prod(rows.shape[1:]))
