"""One relu unit with a relu injection, `u = h + relu(g)`: its moments over a pair of inputs.

`(g, g')` are unit Gaussians at the angle theta and `(h, h')`, independent of them, Gaussians of variance
s at the angle psi. As `u = max(h, h + g)`, both `P(u > 0, u' > 0)` and `P(u > 0, u' > 0, g > 0, g' > 0)`
are probabilities that four Gaussians have one sign, and Plackett's identity gives the derivative
of such a probability along the path `(t theta, t psi)` in arctangents. By Price's theorem
`dE[relu(u) relu(u')]` is `S dE[hh'] + T dE[gg']` along it. So all three moments are integrals over
t from 0, where the inputs coincide, to 1: smooth, of one dimension, and exact as the angles vanish.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_ntk.kernel.infinite_width._arc_cosine import gap

NODES = 48
"""Gauss-Legendre nodes in t: rounding in float64 for s >= 0.01; 16 do for inputs that are not antipodal."""

Pairs = Float[Array, "..."]
Scalar = Float[Array, ""]
Sums = tuple[Pairs, Pairs, Pairs]


def same_input(s: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """`E[relu(u)^2]`, `P(u > 0)` and `P(u > 0, g > 0)` of one input; `s > 0`."""
    root = jnp.sqrt(s)
    both = 0.5 - jnp.arctan(root) / (2 * math.pi)
    variance = s / 4 + (1 + s) * both + root / (2 * math.pi)
    return variance, both + 0.25, both


def pair_of_inputs(theta: Pairs, psi: Pairs, s: Scalar) -> tuple[Pairs, Pairs, Pairs]:
    """`E[relu(u)^2] - E[relu(u) relu(u')]`, `S = P(u, u' > 0)` and `T = P(u, u', g, g' > 0)`."""
    _, S0, T0 = same_input(s)
    of_g, of_h = 1 / (1 + s), s / (1 + s)  # shares in the variance of h + g
    end_g, end_h = gap(theta), gap(psi)

    def add(sums: Sums, node: Float[Array, "2"]) -> tuple[Sums, None]:
        t, weight = node
        dT = weight * orthant_slope(t, theta, psi, of_g, of_h)
        dS = weight * orthant_slope(t, psi, theta, of_h, of_g)
        S, T, loss = sums
        # By parts: the loss of covariance still to come weighs the change of its price.
        to_come = s * (end_h - gap(t * psi)) * dS + (end_g - gap(t * theta)) * dT
        return (S + dS, T + dT, loss + to_come), None

    zero = jnp.zeros_like(theta + psi)
    nodes = jnp.asarray(_unit_nodes(), zero.dtype)
    S, T, loss = jax.lax.scan(add, (zero, zero, zero), nodes)[0]
    return s * S0 * end_h + T0 * end_g + loss, S0 + S, T0 + T


def orthant_slope(t: Scalar, angle: Pairs, other: Pairs, share: Scalar, rest: Scalar) -> Pairs:
    """The derivative in t of `P(v, v', w, w' > 0)`, with `w = sqrt(share) v + sqrt(rest) o`.

    v, v' are unit Gaussians at the angle `t angle`, and o, o', independent of them, at `t other`;
    `share + rest = 1`. Plackett: the derivative in a correlation is the density of that pair at zero times
    the probability of the other two there; the pairs are (v, v'), (w, w') and, twice, (v, w').
    """
    a, o = t * angle, t * other
    sin_half = jnp.sqrt(share * jnp.sin(a / 2) ** 2 + rest * jnp.sin(o / 2) ** 2)
    cos_half = jnp.sqrt(share * jnp.cos(a / 2) ** 2 + rest * jnp.cos(o / 2) ** 2)
    # w and w' stand at the angle 2 arcsin(sin_half), which grows at this rate.
    rate = (share * angle * jnp.sin(a) + rest * other * jnp.sin(o)) / (2 * sin_half * cos_half)
    given_w = jnp.arctan2(
        jnp.sin(a / 2) * jnp.sin(o / 2) * cos_half, jnp.cos(a / 2) * jnp.cos(o / 2) * sin_half
    )
    spread = jnp.sqrt(rest + share * jnp.sin(a) ** 2)
    root = jnp.sqrt(share)
    given_v_and_w = jnp.arctan2(jnp.sin(o) * spread, root * jnp.cos(o) * jnp.sin(a))
    pairs = angle * (0.5 - o / (2 * math.pi)) + rate * (0.5 - given_w / math.pi)
    return -(pairs + root * angle * jnp.sin(a) * given_v_and_w / (math.pi * spread)) / (2 * math.pi)


def _unit_nodes() -> Float[np.ndarray, "nodes 2"]:
    """Nodes and weights on (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    return np.stack([(x + 1) / 2, w / 2], axis=1)
