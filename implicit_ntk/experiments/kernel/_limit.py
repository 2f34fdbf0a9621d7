"""The limit of a kernel as the width grows, set beside it where one is known."""

import dataclasses
import warnings

import numpy as np
from jaxtyping import Float

from implicit_ntk.experiments.kernel._eigen import Eigen, decompose
from implicit_ntk.experiments.kernel._targets import Targets
from implicit_ntk.kernel import infinite_width
from implicit_ntk.networks import AbstractNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class Limit:
    """The limit's eigenvalues, and how far a network's kernel is from it."""

    eigen: Eigen
    distance: float
    """`||H - H_inf||_F / ||H_inf||_F`."""


def compare(
    net: AbstractNetwork,
    X: Float[np.ndarray, "n d"],
    H: Float[np.ndarray, "n *rest"],
    y: Targets | None,
) -> Limit | str:
    """The kernel `H` beside its limit; or the reason: none is known, none exists, or it does not fit."""
    try:
        with warnings.catch_warnings():
            # The warning says that the weights are not of the kind that the limit is for.
            warnings.simplefilter("error", UserWarning)
            limit = np.asarray(infinite_width.ntk(net, X))
    except (ValueError, MemoryError, UserWarning) as reason:
        return f"none: {reason}"
    return Limit(decompose(limit, y), _norm(H - limit) / _norm(limit))


def _norm(H: Float[np.ndarray, "n *rest"]) -> float:
    return float(np.linalg.norm(H.ravel()))
