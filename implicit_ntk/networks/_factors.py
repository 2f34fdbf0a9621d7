"""Per-sample gradients as sums of outer products, which is how a dense cell's Jacobian is stored.

With k outputs the outputs follow the samples: `*out` is `(k,)`, and `()` for a scalar output.
"""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class OuterProduct(eqx.Module):
    """Gradients `left_ic right_ic^T` of a matrix, or `left_ic` of a vector (`right` None).

    The leading axes are those of the outputs, `(n, *out)`, and the last is the parameter's. A factor
    that does not depend on the sample or on the output has size one there, which the Grams make use of.
    """

    left: Float[Array, "... p"]
    right: Float[Array, "... q"] | None = None


GradientFactors = dict[str, tuple[OuterProduct, ...]]
"""For each trained leaf, the outer products whose sum is the gradient of each sample's outputs."""


@runtime_checkable
class HasGradientFactors(Protocol):
    """A network that knows its per-sample gradients as outer products: it gets the fast kernel."""

    def gradient_factors(
        self,
        X: Float[Array, "n d"],
        phi: PyTree[Array],
        z: PyTree[Float[Array, "n ..."]],
        p: PyTree[Float[Array, "n ..."]],
    ) -> GradientFactors:
        """The factors, given inputs, injection, equilibria and adjoint states `p` (n, *out, ...)."""
        ...


def per_output(x: Float[Array, "n p"], like: Float[Array, "n ... q"]) -> Float[Array, "n ... p"]:
    """A per-sample array with output axes of size one, so that it broadcasts against `like` (n, *out, q)."""
    return x.reshape(x.shape[0], *(1,) * (like.ndim - 2), x.shape[-1])


def unit_outputs(like: Float[Array, "n ... q"]) -> Float[Array, "1 k k"] | None:
    """The right factor of a read-out (m, k), whose gradient is `z_i e_c^T`; None for a vector (m,)."""
    return jnp.eye(like.shape[1], dtype=like.dtype)[None] if like.ndim > 2 else None
