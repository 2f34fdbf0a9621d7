"""Per-sample gradients as sums of outer products, which is how a dense cell's Jacobian is stored."""

import equinox as eqx
from jaxtyping import Array, Float


class OuterProduct(eqx.Module):
    """Per-sample gradients `left_i right_i^T` of a matrix, or `left_i` of a vector (`right` None)."""

    left: Float[Array, "n p"]
    right: Float[Array, "n q"] | None = None


GradientFactors = dict[str, tuple[OuterProduct, ...]]
"""For each trained leaf, the outer products whose sum is the gradient of each sample's output."""
