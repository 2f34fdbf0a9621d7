"""`J` by its factors: gradients are sums of outer products, Grams sums of Hadamard products."""

import functools
import operator
from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk.jacobian._linearization import Linearization
from implicit_ntk.jacobian._operator import AbstractJacobian, Blocks, Leaves
from implicit_ntk.networks import GradientFactors, HasGradientFactors, OuterProduct


class OuterProductJacobian(AbstractJacobian):
    """`J_i = sum_k left_ik right_ik^T`, stored as factors of n rows; what a dense cell has.

    `J J'^T = sum_kl (L_k L'_l^T) o (R_k R'_l^T)`: 4 n^2 m flops for a rank-one gradient, and no
    array larger than the factors and the Gram.
    """

    linearization: Linearization
    factors: GradientFactors

    def __init__(self, linearization: Linearization):
        self.linearization = at = linearization
        core = at.net.core
        if not isinstance(core, HasGradientFactors):
            raise TypeError(f"{type(core).__name__} has no gradient factors; use kind='autodiff'")
        self.factors = core.gradient_factors(at.X, at.phi, at.equilibrium.z, at.adjoint.z)

    def push(self, tangent: Leaves) -> Float[Array, " n"]:
        """`sum_k left_ik^T V right_ik` over the leaves."""
        return _total(
            _push_one(term, tangent[name]) for name, terms in self.factors.items() for term in terms
        )

    def pull(self, r: Float[Array, " n"]) -> Leaves:
        """`sum_k L_k^T diag(r) R_k` for each leaf: `gamma Z^T diag(r) Lam` for GG22."""
        return {name: _total(_pull_one(term, r) for term in terms) for name, terms in self.factors.items()}

    def kernel_blocks(self, other: "OuterProductJacobian") -> Blocks:
        """One block a leaf."""
        return {
            name: _total(_gram_of_pair(a, b) for a in terms for b in other.factors[name])
            for name, terms in self.factors.items()
        }


def _push_one(term: OuterProduct, V: Float[Array, "..."]) -> Float[Array, " n"]:
    if term.right is None:
        return term.left @ V
    return jnp.sum((term.left @ V) * term.right, axis=1)


def _pull_one(term: OuterProduct, r: Float[Array, " n"]) -> Float[Array, "..."]:
    if term.right is None:
        return r @ term.left
    return term.left.T @ (r[:, None] * term.right)


def _gram_of_pair(a: OuterProduct, b: OuterProduct) -> Float[Array, "n1 n2"]:
    left = a.left @ b.left.T
    return left if a.right is None or b.right is None else left * (a.right @ b.right.T)


def _total(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)
