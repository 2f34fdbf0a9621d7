"""A pair of inputs through a whole network in the limit: to the equilibrium, or through L layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk.kernel.infinite_width._layers import AbstractLayer, Moments
from implicit_ntk.kernel.infinite_width._newton import newton

Pairs = Float[Array, "..."]
Scalar = Float[Array, ""]


class Propagated(eqx.Module):
    """For unit inputs: `K = E[z z']` of the final state, and what reaches `A` and the injection.

    With `Pi^l` the covariance of the adjoint state of layer l: `A` is `gamma0^2 sum_l K^(l-1) S^l Pi^l`
    and `W` is `sum_l T^l Pi^l`; at equilibrium all layers are one and `Pi = 1 / (1 - gamma0^2 S)` has
    summed them.
    """

    K: Pairs
    A: Pairs
    W: Pairs


def equilibrium(layer: AbstractLayer, square: Scalar, theta: Pairs) -> Propagated:
    """At the fixed point of the layer, `square = gamma0^2` below its edge.

    The gap e of the state solves `e = layer(e)`, whose right-hand side has the slope `gamma0^2 S(e)` by
    Price's theorem and is concave: Newton descends to it from 1, where the states are uncorrelated.
    """
    q = layer.variance(square)
    # Below any gap of angles that are told apart: rounding must not make a gap negative.
    least = 1e-3 * float(jnp.finfo(theta.dtype).eps) ** 2

    def step(e: Pairs, args: tuple[Scalar, Pairs, Scalar]) -> Pairs:
        square, theta, q = args
        after = layer(square, theta, q, e)
        return jnp.maximum(e - (e - after.e) / (1 - square * after.S), least)

    end = layer(square, theta, q, newton(step, jnp.ones_like(theta), (square, theta, q)))
    K, adjoint = end.q * (1 - end.e), 1 / (1 - square * end.S)
    return Propagated(K, square * K * end.S * adjoint, end.T * adjoint)


def unrolled(layer: AbstractLayer, square: Scalar, theta: Pairs, depth: int) -> Propagated:
    """After `depth` applications from zero, which share their weights.

    Adjoint states of different layers are uncorrelated, so that the sums over layers are over l alone.
    """

    def apply(carry: tuple[Moments, Pairs, Pairs], _: None) -> tuple[tuple[Moments, Pairs, Pairs], None]:
        before, A, W = carry
        after = layer(square, theta, before.q, before.e)
        through = square * after.S  # what one layer does to the covariance of the adjoint state
        A = through * (A + before.q * (1 - before.e))
        return (after, A, through * W + after.T), None

    first = layer.first(theta)
    start = (first, jnp.zeros_like(theta), first.T)
    end, A, W = jax.lax.scan(apply, start, length=depth - 1)[0]
    return Propagated(end.q * (1 - end.e), A, W)
