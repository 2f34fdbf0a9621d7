"""Another draw of a network's architecture, at another width."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from implicit_ntk.networks import AbstractNetwork, Centred, ReluImplicit, ReluImplicitFull, WeightTied


def redraw(net: AbstractNetwork, key: Key[Array, ""], width: int) -> AbstractNetwork:
    """A network of this architecture and `gamma0`, with i.i.d. Gaussian weights and the width asked for.

    `Centred` is left off: it has no part in the kernel.
    """
    if isinstance(net, Centred):
        return redraw(net.net, key, width)
    if isinstance(net, WeightTied):
        return WeightTied(redraw(net.net, key, width), net.depth)
    assert isinstance(net, ReluImplicit | ReluImplicitFull)
    return type(net).init(
        key,
        net.in_size,
        width,
        gamma0=net.gamma0,
        injection_activation=net.injection_activation,
        activation=net.activation,
        trained=net.trained,
        dtype=jnp.result_type(*jax.tree.leaves(net)),
        outputs=net.out_shape[0] if net.out_shape else None,
    )
