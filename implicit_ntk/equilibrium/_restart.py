"""When an accelerated iteration has lost its way, and where it begins again."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

BLOW_UP = 100.0
"""A residual this many times the least one seen is not a detour any more."""


class Refuge(eqx.Module):
    """Per problem, the least residual seen and the plain step `z + damping (f(z) - z)` from its iterate."""

    least: Float[Array, "*batch"]
    plain: Float[Array, "*batch dim"]

    @classmethod
    def init(cls, z: Float[Array, "*batch dim"]) -> "Refuge":
        """Nothing seen yet."""
        return cls(jnp.full(z.shape[:-1], jnp.inf, z.dtype), z)

    def seen(
        self, residual: Float[Array, "*batch"], plain: Float[Array, "*batch dim"]
    ) -> tuple["Refuge", Bool[Array, "*batch"]]:
        """After one more evaluation; and which problems must begin again from the refuge."""
        better = residual < self.least
        refuge = Refuge(jnp.minimum(residual, self.least), jnp.where(better[..., None], plain, self.plain))
        return refuge, residual > BLOW_UP * self.least
