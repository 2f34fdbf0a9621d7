"""Maps that are an affine map followed by an elementwise one, and what they are near a solution.

Most implicit layers have this form. Solvers that know it can take a product apart: they precondition
with the weights, split the affine part from the elementwise one, or update a product by increments.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class AffineMap(eqx.Module):
    """`z -> sigma(scale z weight + offset)`, a row a problem.

    `activation` acts elementwise; `projection` says that it is the proximal map of an indicator (relu,
    identity, a mask of zeros and ones), which the splittings need: such maps are the same at every step
    size.
    """

    weight: Float[Array, "m m"]
    scale: Float[Array, ""]
    offset: Float[Array, "... m"]
    activation: Callable[[Array], Array]
    projection: bool = eqx.field(static=True, default=False)

    def __call__(self, z: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """`sigma(scale z weight + offset)`."""
        return self.apply(self.product(z))

    def constant(self) -> "AffineMap":
        """The same without derivatives: what solvers factor is no function of the weights."""
        arrays, static = eqx.partition(self, eqx.is_array)
        return eqx.combine(lax.stop_gradient(arrays), static)

    def product(self, z: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """`scale z weight`."""
        return self.scale * (z @ self.weight)

    def apply(self, product: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """What the map makes of a product that is known."""
        return self.activation(product + self.offset)

    def slopes(self, z: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """`sigma'` at each pre-activation."""
        preactivation = self.product(z) + self.offset
        return jax.jvp(self.activation, (preactivation,), (jnp.ones_like(preactivation),))[1]

    def linearized(self, z: Float[Array, "... m"]) -> "LinearizedAffine":
        """The derivative of the map at `z`."""
        return LinearizedAffine(self.weight, self.scale, self.slopes(z), self.projection)


class LinearizedAffine(eqx.Module):
    """`x -> slopes o (scale x weight)`, the derivative of an `AffineMap`; or its transpose.

    Its equations are solved in the form of an affine map, so that one set of solvers serves both:

    - tangents, `x = D o (x W) + rhs`: with `x = rhs + y`, `y = D o (y W + rhs W)`;
    - cotangents, `p = (D o p) W^T + rhs`: with `lam = D o p`, `lam = D o (lam W^T + rhs)`.
    """

    weight: Float[Array, "m m"]
    scale: Float[Array, ""]
    slopes: Float[Array, "... m"]
    projection: bool = eqx.field(static=True, default=False)
    transposed: bool = eqx.field(static=True, default=False)

    def transpose(self) -> "LinearizedAffine":
        """The equation of the cotangents for that of the tangents, and back."""
        return LinearizedAffine(self.weight, self.scale, self.slopes, self.projection, not self.transposed)

    def equation(self, rhs: Float[Array, "... m"]) -> AffineMap:
        """The affine map whose fixed point gives the solution."""
        weight = self.weight.T if self.transposed else self.weight
        offset = rhs if self.transposed else self.scale * (rhs @ self.weight)
        return AffineMap(weight, self.scale, offset, Mask(self._slopes_for(rhs)), self.projection)

    def unknown(self, x: Float[Array, "... m"], rhs: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """The fixed point that belongs to a solution `x`."""
        return self._slopes_for(rhs) * x if self.transposed else x - rhs

    def solution(self, y: Float[Array, "... m"], rhs: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """The solution that belongs to a fixed point `y`.

        Of `p = y W^T + rhs` only what the slopes hide is taken from that formula, which magnifies the error
        of `y` by the weights; the rest is `y` itself. For slopes of zero and one the residual of `p` is
        then that of `y`.
        """
        if not self.transposed:
            return y + rhs
        slopes = self._slopes_for(rhs)
        seen = slopes > 0.5
        return jnp.where(seen, y / jnp.where(seen, slopes, 1), self.scale * (y @ self.weight.T) + rhs)

    def _slopes_for(self, rhs: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """The slopes, the same for all outputs where a right-hand side has an axis of outputs."""
        outputs = rhs.ndim - self.slopes.ndim
        return self.slopes.reshape(*self.slopes.shape[:-1], *(1,) * outputs, self.slopes.shape[-1])


class Mask(eqx.Module):
    """`a -> slopes o a`."""

    slopes: Float[Array, "... m"]

    def __call__(self, a: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """Each entry times its slope."""
        return self.slopes * a
