"""What a kernel of finite width has that the limit has not: a spread over draws, and a bias of their mean."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Bias(eqx.Module):
    """What the mean kernel has over the limit: `value`, and its standard error `stderr`, entry by entry."""

    value: Float[Array, "..."]
    stderr: Float[Array, "..."]

    @property
    def z(self) -> Float[Array, "..."]:
        """`value / stderr`: how many standard errors from zero; zero where the value is zero."""
        return jnp.where(self.value == 0, 0, self.value / self.stderr)


class FiniteWidth(eqx.Module):
    """Kernels of one width about the limit: the `std` of one draw, and the `bias` of their mean."""

    std: Float[Array, "..."]
    bias: Bias
