"""What of a network its limit depends on, and the refusal where no limit is known."""

import dataclasses
import warnings

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._tracing import is_traced
from implicit_ntk.kernel.infinite_width._interpolation import over_angles
from implicit_ntk.kernel.infinite_width._layers import KNOWN, AbstractLayer, injection, layer
from implicit_ntk.kernel.infinite_width._pairs import norms_and_angles
from implicit_ntk.kernel.infinite_width._propagate import Propagated, equilibrium, unrolled
from implicit_ntk.networks import AbstractNetwork, Centred, ReluImplicit, ReluImplicitFull, WeightTied

Blocks = dict[str, Float[Array, "n1 n2"]]
INSTEAD = "infinite_width.monte_carlo(make, X1) estimates it from finite networks"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network without its weights and its width."""

    full: bool
    """GLL22's network, whose read-out sees the injection, or else GG22's."""
    activation: str
    injection_activation: str
    depth: int | None
    """The number of layers of a weight-tied network, None for the equilibrium."""
    trained: tuple[str, ...]

    @property
    def layer(self) -> AbstractLayer:
        """One layer in the limit."""
        return layer(self.activation, self.injection_activation)

    def check(self, square: Float[Array, ""]) -> Float[Array, ""]:
        """`gamma0^2`, below the edge from which on there is no equilibrium in the limit.

        Raises `ValueError`, or inside a transformation Equinox's runtime error.
        """
        if self.depth is not None:
            return square
        edge = self.layer.edge
        message = (
            f"gamma0 must be below sqrt({edge:g}), from where on the variance of the state has no fixed "
            "point, for a limit to exist; lower gamma0, or ask for a WeightTied network's"
        )
        if is_traced(square):
            return eqx.error_if(square, ~(square < edge), message)
        if not square < edge:
            raise ValueError(f"{message} (gamma0^2 is {float(square):.4g})")
        return square

    def blocks(self, square: Float[Array, ""], X1: Float[Array, "n1 d"], X2: Float[Array, "n2 d"]) -> Blocks:
        """The limit kernel of each trained leaf, for one output."""
        norms, theta = norms_and_angles(X1, X2)
        end = self._propagated(square, theta)
        g = injection(self.injection_activation, theta)
        XX = norms * jnp.cos(theta)
        if self.full:
            # The read-out v reaches W past the cell, on top of what the adjoint state brings.
            found = {"A": norms * end.A, "W": XX * (end.W + g.T), "u": norms * end.K}
            found["v"] = norms * g.q * (1 - g.e)
        else:
            found = {"A": norms * end.A, "W": XX * end.W, "b": norms * end.K}
        return {name: found[name] for name in self.trained}

    def _propagated(self, square: Float[Array, ""], theta: Float[Array, "n1 n2"]) -> Propagated:
        layer, depth = self.layer, self.depth

        def propagate(theta: Float[Array, "..."]) -> Propagated:
            if depth is None:
                return equilibrium(layer, square, theta)
            return unrolled(layer, square, theta, depth)

        return over_angles(propagate, theta) if layer.costly else propagate(theta)


def architecture_of(net: AbstractNetwork) -> tuple[Architecture, Float[Array, ""]]:
    """The architecture and `gamma0` of a network, `Centred` or not.

    Raises `TypeError` for what is no network, `ValueError` where no limit is known. Warns where the
    weights, if they are not traced, are plainly not of mean zero and variance one.
    """
    if not isinstance(net, AbstractNetwork):
        raise TypeError(f"net must be a network, got {type(net).__name__}")
    while isinstance(net, Centred):
        net = net.net
    depth = net.depth if isinstance(net, WeightTied) else None
    core = net.net if isinstance(net, WeightTied) else net
    if not isinstance(core, ReluImplicit | ReluImplicitFull):
        raise ValueError(
            f"net must be a ReluImplicit or a ReluImplicitFull, got {type(core).__name__}, whose limit is "
            f"not known; {INSTEAD}"
        )
    for name in ("activation", "injection_activation"):
        if getattr(core, name) not in KNOWN:
            raise ValueError(
                f"{name} must be one of {KNOWN} for a limit that is known, got {getattr(core, name)!r}; "
                f"{INSTEAD}"
            )
    _warn_if_not_standard(core.A)
    full = isinstance(core, ReluImplicitFull)
    activation, phi = str(core.activation), str(core.injection_activation)
    return Architecture(full, activation, phi, depth, core.trained), core.gamma0


def _warn_if_not_standard(A: Float[Array, "m m"]) -> None:
    """Half-normal and diagonal weights, among others, have other limits."""
    mean, square = jnp.mean(A), jnp.mean(A**2)
    if is_traced(mean):
        return
    mean, square = float(mean), float(square)
    # In standard deviations, of the squares' mean for a kurtosis of 10.
    if max(abs(mean), abs(square - 1) / 3) * A.size**0.5 > 10:
        warnings.warn(
            f"the entries of A have the mean {mean:.2g} and the mean square {square:.2g}, so they are not "
            "of mean zero and variance one as the limit assumes; for half-normal and diagonal weights see "
            f"half_normal and diagonal, for others {INSTEAD}",
            UserWarning,
            stacklevel=4,
        )
