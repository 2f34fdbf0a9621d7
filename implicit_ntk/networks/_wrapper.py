"""What networks that hold a network share: its leaves, its injection, its read-out."""

from collections.abc import Callable, Iterator

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from implicit_ntk.equilibrium import AffineMap, Equilibrium, Method, Policy
from implicit_ntk.networks._choice import Choice
from implicit_ntk.networks._network import AbstractNetwork


class AbstractWrapper(AbstractNetwork):
    """A network that is another one, `net`, but for what a subclass says."""

    net: eqx.AbstractVar[AbstractNetwork]

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the trained leaves, those of the network inside."""
        return self.net.trained

    @property
    def core(self) -> AbstractNetwork:
        """The network whose leaves are trained."""
        return self.net.core

    @property
    def in_size(self) -> int:
        """The number d of input features."""
        return self.net.in_size

    @property
    def width(self) -> int:
        """The number m of units."""
        return self.net.width

    def inject(self, X: Float[Array, "n d"]) -> PyTree[Array]:
        """That of the network inside."""
        return self.net.inject(X)

    @property
    def injection_is_fixed(self) -> bool:
        """That of the network inside."""
        return self.net.injection_is_fixed

    def readout(self, z: PyTree[Array], phi: PyTree[Array]) -> Float[Array, "n *out"]:
        """That of the network inside."""
        return self.net.readout(z, phi)

    def default_method(self) -> Method:
        """That of the network inside."""
        return self.net.default_method()

    def resolve(self, method: Method | None) -> Method:
        """That of the network inside."""
        return self.net.resolve(method)

    def choose(self) -> Choice:
        """That of the network inside."""
        return self.net.choose()

    def baseline(
        self, X: Float[Array, "n d"], method: Method | None = None
    ) -> Float[Array, "n *out"] | float:
        """That of the network inside."""
        return self.net.baseline(X, method)


class AbstractOutputWrapper(AbstractWrapper):
    """A wrapper that changes the outputs alone: states, and how they are solved for, are those inside."""

    def initial_state(self, phi: PyTree[Array]) -> PyTree[Float[Array, "n ..."]]:
        """That of the network inside."""
        return self.net.initial_state(phi)

    def cell(self, z: PyTree[Array], phi: PyTree[Array]) -> PyTree[Array]:
        """That of the network inside."""
        return self.net.cell(z, phi)

    def affine(self, phi: PyTree[Array]) -> AffineMap | None:
        """That of the network inside."""
        return self.net.affine(phi)

    def cell_pullback(self, z: PyTree[Array], phi: PyTree[Array]) -> Callable[[PyTree[Array]], PyTree[Array]]:
        """That of the network inside."""
        return self.net.cell_pullback(z, phi)

    def equilibrium(
        self, phi: PyTree[Array], z0: PyTree[Array] | None, method: Method, policy: Policy
    ) -> Equilibrium:
        """That of the network inside, which may know another way to it than the cell's iteration."""
        return self.net.equilibrium(phi, z0, method, policy)

    def contraction(self) -> Float[Array, ""]:
        """That of the network inside."""
        return self.net.contraction()


def unwrapped(net: AbstractNetwork) -> Iterator[AbstractNetwork]:
    """The network and those that it wraps, from the outside in."""
    yield net
    while isinstance(net, AbstractWrapper):
        net = net.net
        yield net
