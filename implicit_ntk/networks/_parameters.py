"""The trained leaves of a network, as a dictionary of arrays and as a tangent of the network's form."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from implicit_ntk.networks._forms import same_form
from implicit_ntk.networks._network import AbstractNetwork


def trainable(net: AbstractNetwork) -> PyTree[bool]:
    """The filter that is true on the leaves named in `net.trained`.

    `params, frozen = eqx.partition(net, trainable(net))` splits a network for `jax.grad`; tangents
    and gradients of this package have the structure of `params`.
    """
    nothing = jax.tree.map(lambda _: False, net)
    return eqx.tree_at(_named(net.trained), nothing, replace=[True] * len(net.trained))


def trained_leaves(net: AbstractNetwork) -> dict[str, Float[Array, "..."]]:
    """The trained arrays by name (also of a tangent)."""
    return {name: net.core.leaf(name) for name in net.trained}


def as_tangent(net: AbstractNetwork, leaves: dict[str, Float[Array, "..."]]) -> AbstractNetwork:
    """A tangent of the network from arrays by name: the network's form, None where nothing is trained."""
    nothing = jax.tree.map(lambda _: None, net)
    return eqx.tree_at(
        _named(net.trained), nothing, [leaves[name] for name in net.trained], is_leaf=lambda x: x is None
    )


def with_leaves(net: AbstractNetwork, leaves: dict[str, Float[Array, "..."]]) -> AbstractNetwork:
    """The network with its trained arrays replaced."""
    return eqx.tree_at(_named(net.trained), net, [leaves[name] for name in net.trained])


def check_tangent(net: AbstractNetwork, tangent: PyTree) -> None:
    """Raise `ValueError` unless `tangent` has the structure, shapes and dtypes of the trained leaves."""
    if not same_form(tangent, eqx.filter(net, trainable(net))):
        raise ValueError(
            "tangent must have the structure, shapes and dtypes of the trained leaves; build it from "
            "eqx.filter(net, trainable(net))"
        )


def _named(names: tuple[str, ...]) -> Callable[[AbstractNetwork], list]:
    return lambda net: [net.core.leaf(name) for name in names]
