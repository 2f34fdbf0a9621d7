"""Newton's method for scalar equations that are convex or concave, elementwise, with its derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

MOST = 60
Values = Float[Array, "..."]


def newton(step: Callable[[Values, Any], Values], start: Values, args: PyTree[Array]) -> Values:
    """The limit of `x <- step(x, args)`, each element by itself, a Newton step of its equation.

    The equations here are convex or concave and `start` lies where Newton's method is monotone, so it
    cannot fail. It runs on stopped gradients until a step is below the square root of rounding; two more
    steps, differentiated, give the digits that are left and the derivatives up to the third, for each
    step doubles the order to which they are right.
    """
    frozen = lax.stop_gradient(args)
    small = float(jnp.finfo(start.dtype).eps) ** 0.5

    def unfinished(state: tuple[Values, Values, Array]) -> Bool[Array, ""]:
        x, before, count = state
        return (count < MOST) & jnp.any(jnp.abs(x - before) > small * jnp.abs(x))

    def advance(state: tuple[Values, Values, Array]) -> tuple[Values, Values, Array]:
        x, _, count = state
        return step(x, frozen), x, count + 1

    start = lax.stop_gradient(start)
    first = (step(start, frozen), start, jnp.ones((), jnp.int32))
    x = lax.stop_gradient(jax.lax.while_loop(unfinished, advance, first)[0])
    return step(step(x, args), args)
