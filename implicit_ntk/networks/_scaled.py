"""A network whose outputs are scaled: from lazy training, where the scale is large, to rich."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import Number, check_positive_number
from implicit_ntk.equilibrium import Method
from implicit_ntk.networks._factors import GradientFactors, HasGradientFactors, OuterProduct
from implicit_ntk.networks._network import AbstractNetwork
from implicit_ntk.networks._wrapper import AbstractOutputWrapper


class Scaled(AbstractOutputWrapper):
    """`alpha f`: the larger `alpha`, the less the parameters move to fit the same targets.

    The kernel of `alpha f` is `alpha^2 H`, so that time runs `alpha^2` faster: what `f` does by t, `alpha f`
    does by `t / alpha^2`. The way covered, and with it the drift of the kernel, fall like `1 / alpha` as
    `alpha` grows (Chizat, Oyallon and Bach, NeurIPS 2019, who also divide the loss by `alpha^2`, which leaves
    t as it is). Of a network that does not start at zero `u(0)` grows as well: scale a centred one,
    `Scaled(Centred(net), alpha)`, which is `Centred(Scaled(net, alpha))`. Accepted wherever a network is, but
    its infinite width has no limit kernel here.

    **Arguments:** `net`, whose leaves and `trained` these are; `alpha`, held in the dtype of the network.

    **Raises:** `TypeError` for what is no network or no number, `ValueError` for an `alpha` that is not
    positive and finite.
    """

    net: AbstractNetwork
    alpha: Float[Array, ""]

    def __init__(self, net: AbstractNetwork, alpha: Number):
        if not isinstance(net, AbstractNetwork):
            raise TypeError(f"net must be a network, got {type(net).__name__}")
        check_positive_number(alpha, "alpha")
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(net) if eqx.is_inexact_array(leaf)]
        self.net = net
        self.alpha = jnp.asarray(alpha, jnp.result_type(float, *dtypes))

    def readout(self, z: PyTree[Array], phi: PyTree[Array]) -> Float[Array, "n *out"]:
        """`alpha` times that of the network inside."""
        return self.alpha * self.net.readout(z, phi)

    def baseline(
        self, X: Float[Array, "n d"], method: Method | None = None
    ) -> Float[Array, "n *out"] | float:
        """`alpha` times that of the network inside."""
        inside = self.net.baseline(X, method)
        return inside if isinstance(inside, float) else self.alpha * inside

    @property
    def factored(self) -> HasGradientFactors | None:
        """This network, where the network inside has gradient factors."""
        return None if self.net.factored is None else self

    def gradient_factors(
        self,
        X: Float[Array, "n d"],
        phi: PyTree[Array],
        z: PyTree[Float[Array, "n ..."]],
        p: PyTree[Float[Array, "n ..."]],
    ) -> GradientFactors:
        """`alpha` times those of the network inside, whose adjoint states are `p / alpha`."""
        inside = self.net.factored
        assert inside is not None
        factors = inside.gradient_factors(X, phi, z, jax.tree.map(lambda p: p / self.alpha, p))
        return {name: tuple(map(self._scaled, terms)) for name, terms in factors.items()}

    def _scaled(self, term: OuterProduct) -> OuterProduct:
        return OuterProduct(self.alpha * term.left, term.right)
