"""A network minus its own outputs at initialisation: the same kernel, trained from `u(0) = 0`."""

import equinox as eqx
from jax import lax
from jaxtyping import Array, Float

from implicit_ntk.equilibrium import Method
from implicit_ntk.networks._factors import HasGradientFactors
from implicit_ntk.networks._network import AbstractNetwork
from implicit_ntk.networks._wrapper import AbstractOutputWrapper


class Centred(AbstractOutputWrapper):
    """`f - f_0`, with `f_0` the frozen network that `Centred` was built from.

    Same Jacobian and same kernel as `f`; training it is training `f` on `y + f_0(X)`, so GG22's
    Theorem 3.1 applies with `||u(0) - y|| = ||y||`. Costs one stored copy of the initial network.
    Accepted wherever a network is.

    **Arguments:** `net`, which is trained; `initial`, whose outputs are subtracted, None for `net` as it is.

    **Raises:** `TypeError` for what is no network, `ValueError` for an `initial` of other inputs or outputs.
    """

    net: AbstractNetwork
    initial: AbstractNetwork

    def __init__(self, net: AbstractNetwork, initial: AbstractNetwork | None = None):
        self.net = net
        self.initial = net if initial is None else initial
        for name in ("net", "initial"):
            found = getattr(self, name)
            if not isinstance(found, AbstractNetwork):
                raise TypeError(f"{name} must be a network, got {type(found).__name__}")
        if initial is not None:
            _check_pair(net, initial)

    @property
    def factored(self) -> HasGradientFactors | None:
        """That of the network inside: the frozen outputs have no gradient."""
        return self.net.factored

    def baseline(self, X: Float[Array, "n d"], method: Method | None = None) -> Float[Array, "n *out"]:
        """`f_0(X)`, without derivatives with respect to the frozen copy.

        Plus what the network inside subtracts, for `readout` knows nothing of it.
        """
        arrays, static = eqx.partition(self.initial, eqx.is_array)
        frozen = eqx.combine(lax.stop_gradient(arrays), static)
        return self.net.baseline(X, method) + frozen(X, method)


def _check_pair(net: AbstractNetwork, initial: AbstractNetwork) -> None:
    """Outputs that only broadcast against each other would be subtracted without a word."""
    for name in ("in_size", "out_shape"):
        want, found = getattr(net, name), getattr(initial, name)
        if want != found:
            raise ValueError(
                f"initial must have the {name} of net, {want}, got {found}; leave it out to start from net"
            )
