"""Per-sample gradients as sums of outer products, which is how a dense cell's Jacobian is stored."""

from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, PyTree


class OuterProduct(eqx.Module):
    """Per-sample gradients `left_i right_i^T` of a matrix, or `left_i` of a vector (`right` None)."""

    left: Float[Array, "n p"]
    right: Float[Array, "n q"] | None = None


GradientFactors = dict[str, tuple[OuterProduct, ...]]
"""For each trained leaf, the outer products whose sum is the gradient of each sample's output."""


@runtime_checkable
class HasGradientFactors(Protocol):
    """A network that knows its per-sample gradients as outer products: it gets the fast kernel."""

    def gradient_factors(
        self,
        X: Float[Array, "n d"],
        phi: PyTree[Float[Array, "n ..."]],
        z: PyTree[Float[Array, "n ..."]],
        p: PyTree[Float[Array, "n ..."]],
    ) -> GradientFactors:
        """The factors, given inputs, injection, equilibria and adjoint states."""
        ...
