"""Elementwise activations by name, or any function of the user's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._checks import check_choice

Activation = str | Callable[[Array], Array]

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,  # relu'(0) = 0, as everywhere in this package
    "identity": lambda x: x,
    "tanh": jnp.tanh,
}
NAMES = tuple(_FUNCTIONS)


def check_activation(activation: Activation, name: str) -> None:
    """Raise `ValueError` unless it is a known name or a callable."""
    if not callable(activation):
        check_choice(activation, NAMES, name)


def function(activation: Activation) -> Callable[[Array], Array]:
    """The activation as a function."""
    return activation if callable(activation) else _FUNCTIONS[activation]


def is_projection(activation: Activation) -> bool:
    """Is it the projection onto a convex set, as relu and the identity are?"""
    return activation in ("relu", "identity")


def apply(activation: Activation, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The activation's values."""
    return function(activation)(x)


def slope(activation: Activation, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The derivative at each element of the input.

    From the input, never from an equilibrium: only an undamped iteration leaves a unit that is off at
    exactly zero, and the sign of a number that has merely shrunk is no slope.
    """
    return jax.jvp(lambda x: apply(activation, x), (x,), (jnp.ones_like(x),))[1]
