"""One layer in the limit: how the second moments of the state over a pair of inputs pass through a cell.

Both activations are positively homogeneous, so unit inputs tell everything: a pair is its angle theta.
The state `z` of unit inputs has the variance `q = E[z^2]` and the gap `e`, `E[z z'] = q (1 - e)`: what
the limits hang on near parallel inputs is `e`, which has all its digits where `1 - e` has none.
"""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._checks import check_choice
from implicit_ntk.kernel.infinite_width._arc_cosine import angle_of, decorrelation, gap, half_line
from implicit_ntk.kernel.infinite_width._newton import newton
from implicit_ntk.kernel.infinite_width._orthant import pair_of_inputs, same_input

Pairs = Float[Array, "..."]
Scalar = Float[Array, ""]
KNOWN = ("relu", "identity")


class Moments(eqx.Module):
    """What a layer leaves of a pair: `E[z^2] = q`, `E[z z'] = q (1 - e)` and the moments of the slopes.

    `S = E[sigma'(u) sigma'(u')]`, and `T = E[sigma'(u) sigma'(u') phi'(g) phi'(g')]`.
    """

    q: Scalar
    e: Pairs
    S: Pairs
    T: Pairs


class AbstractLayer(eqx.Module):
    """`z = sigma(h + phi(g))`, with g of unit variance and h of the covariance `gamma0^2 E[z z']`."""

    edge: eqx.AbstractClassVar[float]
    """From this `gamma0^2` on the variance of the state has no fixed point."""

    costly: ClassVar[bool] = False
    """Does a pair cost a quadrature? Then many pairs are interpolated from a few angles."""

    @abc.abstractmethod
    def variance(self, square: Scalar) -> Scalar:
        """The fixed point of q, for `square = gamma0^2` below the edge."""

    @abc.abstractmethod
    def first(self, theta: Pairs) -> Moments:
        """The moments of `sigma(phi(g))`: the layer at `h = 0`."""

    @abc.abstractmethod
    def __call__(self, square: Scalar, theta: Pairs, q: Scalar, e: Pairs) -> Moments:
        """The moments of the layer after a state with the moments q and e."""


class Gaussian(AbstractLayer):
    """A relu cell, phi the identity: the pre-activation is Gaussian, of the covariance `gamma0^2 K + XX`."""

    edge: ClassVar[float] = 2.0

    def variance(self, square: Scalar) -> Scalar:
        """`1 / (2 - gamma0^2)`."""
        return 1 / (2 - square)

    def first(self, theta: Pairs) -> Moments:
        """The arc-cosine kernels."""
        both = half_line(theta)
        return Moments(jnp.full((), 0.5, theta.dtype), decorrelation(theta), both, both)

    def __call__(self, square: Scalar, theta: Pairs, q: Scalar, e: Pairs) -> Moments:
        """The arc-cosine kernels at the angle of the pre-activations."""
        variance = 1 + square * q
        psi = angle_of((gap(theta) + square * q * e) / variance)
        both = half_line(psi)
        return Moments(variance / 2, decorrelation(psi), both, both)


class Shifted(AbstractLayer):
    """A relu cell, phi relu: the pre-activation is a Gaussian shifted by a half-normal, `_orthant.py`."""

    edge: ClassVar[float] = 2.0
    costly: ClassVar[bool] = True

    def variance(self, square: Scalar) -> Scalar:
        """By Newton from above, where the equation is convex."""

        def step(q: Scalar, square: Scalar) -> Scalar:
            after, slope, _ = same_input(_positive(square * q))
            return q - (q - after) / (1 - square * slope)

        # E[relu(h + relu(g))^2] <= E[(relu(h) + relu(g))^2], whose fixed point this is.
        room, root = 1 - square / 2, jnp.sqrt(square) / math.pi
        above = ((root + jnp.sqrt(root**2 + 2 * room)) / (2 * room)) ** 2
        return newton(step, above, square)

    def first(self, theta: Pairs) -> Moments:
        """The arc-cosine kernels: relu of relu is relu."""
        return Gaussian().first(theta)

    def __call__(self, square: Scalar, theta: Pairs, q: Scalar, e: Pairs) -> Moments:
        """By quadrature."""
        s = _positive(square * q)
        lost, S, T = pair_of_inputs(theta, angle_of(e), s)
        after = same_input(s)[0]
        return Moments(after, lost / after, S, T)


class Linear(AbstractLayer):
    """A linear cell: `K = gamma0^2 K + E[phi(g) phi(g')]`."""

    phi: str = eqx.field(static=True)
    edge: ClassVar[float] = 1.0

    def variance(self, square: Scalar) -> Scalar:
        """`E[phi(g)^2] / (1 - gamma0^2)`."""
        return injection(self.phi, jnp.zeros_like(square)).q / (1 - square)

    def first(self, theta: Pairs) -> Moments:
        """Those of the injection."""
        return injection(self.phi, theta)

    def __call__(self, square: Scalar, theta: Pairs, q: Scalar, e: Pairs) -> Moments:
        """The covariances add."""
        g = injection(self.phi, theta)
        after = square * q + g.q
        return Moments(after, (square * q * e + g.q * g.e) / after, g.S, g.T)


def injection(phi: str, theta: Pairs) -> Moments:
    """The moments of `phi(g)` as those of a linear cell without feedback, of slope `S = 1`."""
    one = jnp.ones_like(theta)
    if phi == "identity":
        return Moments(jnp.ones((), theta.dtype), gap(theta), one, one)
    return Moments(jnp.full((), 0.5, theta.dtype), decorrelation(theta), one, half_line(theta))


def layer(activation: str, phi: str) -> AbstractLayer:
    """The layer of a cell with this activation and this injection, both "relu" or "identity"."""
    check_choice(activation, KNOWN, "activation")
    check_choice(phi, KNOWN, "injection_activation")
    if activation == "identity":
        return Linear(phi)
    return Gaussian() if phi == "identity" else Shifted()


def _positive(s: Scalar) -> Scalar:
    """Away from zero, where the slope of a square root is infinite, by less than rounding."""
    return jnp.maximum(s, float(jnp.finfo(s.dtype).eps) ** 2)
