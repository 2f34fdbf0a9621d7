"""`J` by its factors: gradients are sums of outer products, Grams sums of Hadamard products.

Factors broadcast over the axes `(n, *out)` of the outputs. What does not depend on the output, such as
`gamma z_i` beside k adjoint states, is multiplied once and not k times, or k^2 times in a Gram.
"""

import functools
import math
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from implicit_ntk.jacobian._linearization import Linearization
from implicit_ntk.jacobian._operator import AbstractJacobian, Blocks, Kernel, Leaves
from implicit_ntk.networks import GradientFactors, OuterProduct


class OuterProductJacobian(AbstractJacobian):
    """`J_ic = sum_t left_ict right_ict^T`, stored as factors of n (k) rows; what a dense cell has.

    `J J'^T = sum_ts (L_t L'_s^T) o (R_t R'_s^T)`: 4 n^2 m flops for a rank-one gradient, and no
    array larger than the factors and the Gram. With k outputs a factor of the adjoint states has a Gram
    (n, k, n, k), one of the equilibria (n, 1, n, 1).
    """

    linearization: Linearization
    factors: GradientFactors

    def __init__(self, linearization: Linearization):
        self.linearization = at = linearization
        factored = at.net.factored
        if factored is None:
            raise TypeError(f"{type(at.net).__name__} has no gradient factors; use kind='autodiff'")
        self.factors = factored.gradient_factors(at.X, at.phi, at.equilibrium.z, at.adjoint.z)

    def push(self, tangent: Leaves) -> Float[Array, "n *out"]:
        """`sum_t left_ict^T V right_ict` over the leaves."""
        terms = (_push_one(term, tangent[name]) for name, terms in self.factors.items() for term in terms)
        return jnp.broadcast_to(_total(terms), self.linearization.shape)

    def pull(self, r: Float[Array, "n *out"]) -> Leaves:
        """`sum_t L_t^T diag(r) R_t` for each leaf: `gamma Z^T diag(r) Lam` for GG22."""
        return {name: _total(_pull_one(term, r) for term in terms) for name, terms in self.factors.items()}

    def kernel_blocks(self, other: "OuterProductJacobian") -> Blocks:
        """One block a leaf."""
        shape = (*self.linearization.shape, *other.linearization.shape)
        blocks = _blocks_of(self.factors, other.factors)
        return {name: jnp.broadcast_to(block, shape) for name, block in blocks.items()}

    def output_blocks(self, other: "OuterProductJacobian", c: Int[Array, ""]) -> Blocks:
        """Those of the factors of output c."""
        shape = (self.linearization.shape[0], other.linearization.shape[0])
        blocks = _blocks_of(_of_output(self.factors, c), _of_output(other.factors, c))
        return {name: jnp.broadcast_to(block, shape) for name, block in blocks.items()}


def _blocks_of(factors: GradientFactors, other: GradientFactors) -> Blocks:
    return {
        name: _total(_gram_of_pair(a, b) for a in terms for b in other[name])
        for name, terms in factors.items()
    }


def _of_output(factors: GradientFactors, c: Int[Array, ""]) -> GradientFactors:
    """The factors of output c: those of a network with a scalar output."""
    return jax.tree.map(
        lambda x: lax.dynamic_index_in_dim(x, c if x.shape[1] > 1 else 0, axis=1, keepdims=False), factors
    )


def _push_one(term: OuterProduct, V: Float[Array, "..."]) -> Float[Array, "..."]:
    if term.right is None:
        return term.left @ V
    return jnp.sum((term.left @ V) * term.right, axis=-1)


def _pull_one(term: OuterProduct, r: Float[Array, "n *out"]) -> Float[Array, "..."]:
    left, right, weights = term.left, term.right, r[..., None]
    if right is None:
        return _contract(left, weights)[:, 0]
    if math.prod(right.shape[:-1]) < math.prod(left.shape[:-1]):
        return _contract(right, weights * left).T
    return _contract(left, weights * right)


def _contract(factor: Float[Array, "... p"], weighted: Float[Array, "... q"]) -> Float[Array, "p q"]:
    """`sum_ic factor_ic weighted_ic^T`, summed first over the axes that the factor does not depend on."""
    same = tuple(axis for axis, size in enumerate(factor.shape[:-1]) if size < weighted.shape[axis])
    weighted = jnp.sum(weighted, axis=same, keepdims=True) if same else weighted
    rows = factor.reshape(-1, factor.shape[-1])
    return rows.T @ weighted.reshape(-1, weighted.shape[-1])


def _gram_of_pair(a: OuterProduct, b: OuterProduct) -> Kernel:
    left = _gram(a.left, b.left)
    return left if a.right is None or b.right is None else left * _gram(a.right, b.right)


def _gram(a: Float[Array, "... p"], b: Float[Array, "... p"]) -> Kernel:
    """Inner products of the rows of one factor with those of another, size one where they broadcast."""
    return jnp.tensordot(a, b, axes=(-1, -1))


def _total(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)
