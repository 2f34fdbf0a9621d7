"""When a problem is solved: the residual test, its floor at the rounding of the dtype, the stall."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

ROUNDING = 4.0
"""No relative tolerance below this many eps is ever asked for: the residual itself is no better known."""

STALL_CEILING = 64.0
"""A residual that has stopped falling below this many eps of its scale has stalled at rounding."""

STALL_PATIENCE = 8
"""Evaluations without a new least residual after which it has stopped falling."""

BLOW_UP = 1e6
"""A linear iteration whose residual is this many times its scale, and its least residual, diverges."""


def default_rtol(dtype: DTypeLike) -> float:
    """The relative tolerance that `rtol=None` means: 1e-6 in float32, 1e-12 in float64, else 8 eps."""
    return {jnp.dtype("float32"): 1e-6, jnp.dtype("float64"): 1e-12}.get(
        jnp.dtype(dtype), 8 * float(jnp.finfo(dtype).eps)
    )


class Tolerance(eqx.Module):
    """The test `||f(z) - z|| <= atol + max(rtol, c eps) scale`, with `c = ROUNDING`.

    The scale is `||f(z)||` for a fixed point and the norm of the right-hand side for a linear
    equation, so that a zero right-hand side asks for exactly zero.
    """

    rtol: ArrayLike | None
    atol: ArrayLike

    def threshold(self, scale: Float[Array, "..."]) -> Float[Array, "..."]:
        """The largest residual that counts as converged."""
        dtype = scale.dtype
        rtol = default_rtol(dtype) if self.rtol is None else self.rtol
        floor = ROUNDING * float(jnp.finfo(dtype).eps)
        relative = jnp.maximum(jnp.asarray(rtol, dtype), jnp.asarray(floor, dtype))
        return jnp.asarray(self.atol, dtype) + relative * scale


def at_floor(residual: Float[Array, "..."], scale: Float[Array, "..."], size: Float[Array, "..."]) -> Array:
    """True where the residual of a linear equation is as small as it will get.

    Within rounding of the right-hand side (`scale`) and the solution (`size`), and yet small beside the
    right-hand side: the huge vector that a singular equation yields solves nothing.
    """
    eps = float(jnp.finfo(scale.dtype).eps)
    return at_rounding(residual, scale + size) & (residual <= eps ** (1 / 3) * scale)


def at_rounding(residual: Float[Array, "..."], scale: Float[Array, "..."]) -> Array:
    """True where a residual is within `STALL_CEILING` eps of its scale."""
    return residual <= STALL_CEILING * float(jnp.finfo(scale.dtype).eps) * scale
