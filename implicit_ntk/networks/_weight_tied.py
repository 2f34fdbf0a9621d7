"""The weight-tied twin of an implicit network: its cell applied a given number of times, from zero."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import check_positive
from implicit_ntk.equilibrium import (
    Equilibrium,
    ImplicitAdjoint,
    Method,
    Neumann,
    Picard,
    Policy,
    Status,
    guard_forward,
    norms,
)
from implicit_ntk.networks._centred import Centred
from implicit_ntk.networks._choice import Choice
from implicit_ntk.networks._network import AbstractNetwork
from implicit_ntk.networks._wrapper import AbstractWrapper, unwrapped


class WeightTied(AbstractWrapper):
    """`u = readout(z^L)`, `z^{l+1} = cell(z^l, phi)`, `z^0 = 0`: "repeat-L" of N22, chapter 4.

    Its derivatives are those of the L applications, not of an equilibrium, which it tends to as L grows
    where the cell contracts. Nothing is solved for: of a method only the policy and the precision
    matter. Accepted wherever a network is; memory grows with L wherever it is differentiated.

    **Arguments:** `net`, the implicit network, whose leaves and `trained` these are; `depth`, L.

    **Raises:** `TypeError` for what is no network and for a `Centred` one: `Centred(WeightTied(net, L))`
    subtracts the outputs of the right network; and for another `WeightTied`. `ValueError` for a depth below
    one.
    """

    net: AbstractNetwork
    depth: int = eqx.field(static=True)

    def __init__(self, net: AbstractNetwork, depth: int):
        if not isinstance(net, AbstractNetwork):
            raise TypeError(f"net must be a network, got {type(net).__name__}")
        inside = tuple(unwrapped(net))
        if any(isinstance(each, Centred) for each in inside):
            raise TypeError("net must not be Centred; pass Centred(WeightTied(net, depth))")
        if any(isinstance(each, WeightTied) for each in inside):
            raise TypeError(
                "net must not be WeightTied, whose cell ignores its state; pass the network inside"
            )
        check_positive(depth, "depth")
        self.net = net
        self.depth = int(depth)

    @property
    def factored(self) -> None:
        """Nobody: the factors of the network inside are those of its equilibrium."""
        return None

    def initial_state(self, phi: PyTree[Array]) -> PyTree[Float[Array, "n ..."]]:
        """Zero."""
        form = eqx.filter_eval_shape(lambda net, phi: net.initial_state(phi), self.net, phi)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)

    def cell(self, z: PyTree[Array], phi: PyTree[Array]) -> PyTree[Array]:
        """The L applications from zero, whatever `z`: a map whose fixed point is `z^L`."""
        start = self.initial_state(phi)
        return lax.scan(lambda z, _: (self.net.cell(z, phi), None), start, length=self.depth)[0]

    def cell_pullback(self, z: PyTree[Array], phi: PyTree[Array]) -> Callable[[PyTree[Array]], PyTree[Array]]:
        """Zero, so that the adjoint states are `d readout/dz`."""
        return lambda p: jax.tree.map(jnp.zeros_like, p)

    def equilibrium(
        self, phi: PyTree[Array], z0: PyTree[Array] | None, method: Method, policy: Policy
    ) -> Equilibrium:
        """The state `z^L` in `depth` steps. A guess is of no use; `NONFINITE` is the one way to fail."""
        z = self.cell(None, phi)
        finite = jnp.isfinite(lax.stop_gradient(norms(z, 1)))
        residual = jnp.where(finite, 0.0, jnp.inf).astype(norms(z, 1).dtype)
        status = jnp.where(finite, jnp.int32(Status.CONVERGED), jnp.int32(Status.NONFINITE))
        steps = jnp.full(finite.shape, self.depth, jnp.int32)
        return guard_forward(Equilibrium(z, residual, residual, steps, status), policy)

    def contraction(self) -> Float[Array, ""]:
        """Zero: the state exists and is unique whatever the weights."""
        return jnp.zeros(())

    def default_method(self) -> Method:
        """That of the network inside, but for its solvers, which there is nothing to do for."""
        return dataclasses.replace(self.net.default_method(), solver=Picard(), adjoint=ImplicitAdjoint())

    def resolve(self, method: Method | None) -> Method:
        """The policy and the precision of the method: a solver that wants an affine cell would find none."""
        method = AbstractNetwork.resolve(self, method)  # not the wrapped network's, whose choice may cost
        return dataclasses.replace(method, solver=Picard(), adjoint=ImplicitAdjoint())

    def choose(self) -> Choice:
        """Nothing is solved for."""
        return Choice(Picard(), Neumann(), "nothing is solved for: the cell is applied depth times")
