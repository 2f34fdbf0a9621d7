"""What an implicit network is: an injection, a cell, and a read-out of the cell's equilibrium.

    phi = inject(X),    z = cell(z, phi),    u = readout(z, phi) - baseline(X)

Everything else (solving, the Jacobian, kernels, training) is written against this interface.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray, check_batch, check_floating
from implicit_ntk.equilibrium import (
    FORWARD,
    AffineMap,
    Equilibrium,
    Method,
    Policy,
    checked,
    solve_fixed_point,
)
from implicit_ntk.networks._forms import forms, same_form


class AbstractNetwork(eqx.Module):
    """An implicit network. Samples are rows; the leaves named in `trained` are what training moves."""

    trained: eqx.AbstractVar[tuple[str, ...]]

    @property
    @abc.abstractmethod
    def in_size(self) -> int:
        """The number d of input features."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """The number m of units of the cell."""

    @abc.abstractmethod
    def inject(self, X: Float[Array, "n d"]) -> PyTree[Float[Array, "n ..."]]:
        """The part of the cell's input that does not change while the equilibrium is sought."""

    @property
    def injection_is_fixed(self) -> bool:
        """Does `inject` use none of the trained leaves? Training then injects once, not every step."""
        return False

    @abc.abstractmethod
    def initial_state(self, phi: PyTree[Float[Array, "n ..."]]) -> PyTree[Float[Array, "n ..."]]:
        """Where a solve starts when no guess is given."""

    @abc.abstractmethod
    def cell(
        self, z: PyTree[Float[Array, "n ..."]], phi: PyTree[Float[Array, "n ..."]]
    ) -> PyTree[Float[Array, "n ..."]]:
        """One application of the implicit layer."""

    def affine(self, phi: PyTree[Array]) -> AffineMap | None:
        """The cell as an affine map followed by an elementwise one; None where it has not that form.

        Solvers such as `Chord` and `PeacemanRachford` live on it. A cell that has the form should be
        written as `self.affine(phi)(z)`, so that there is one formula.
        """
        return None

    def cell_pullback(
        self, z: PyTree[Float[Array, "n ..."]], phi: PyTree[Float[Array, "n ..."]]
    ) -> Callable[[PyTree[Array]], PyTree[Array]]:
        """`p_i -> (d cell/dz)_i^T p_i` at an equilibrium `z`.

        By `jax.vjp`, at the price of one application of the cell; a network that knows its slopes
        from `z` itself can save that.
        """
        _, pull = jax.vjp(lambda z: self.cell(z, phi), z)
        return lambda p: pull(p)[0]

    @abc.abstractmethod
    def readout(
        self, z: PyTree[Float[Array, "n ..."]], phi: PyTree[Float[Array, "n ..."]]
    ) -> Float[Array, " n"]:
        """The outputs, given the equilibrium."""

    @abc.abstractmethod
    def contraction(self) -> Float[Array, ""]:
        """An upper bound of the cell's Lipschitz constant in `z`; below one it certifies the network."""

    def default_method(self) -> Method:
        """The method that `method=None` stands for."""
        return Method()

    def baseline(self, X: Float[Array, "n d"], method: Method | None = None) -> Float[Array, " n"] | float:
        """What is subtracted from the outputs: fixed, whatever is trained. Nothing, but for `Centred`."""
        return 0.0

    @property
    def core(self) -> "AbstractNetwork":
        """The network that owns the trained leaves: this one, but for wrappers."""
        return self

    def __call__(self, X: Float[AnyArray, "n d"], method: Method | None = None) -> Float[Array, " n"]:
        """The outputs `u` on a batch of rows; raises as `solve` does."""
        method = self.default_method() if method is None else method
        eq = solve(self, X, method)
        X = jnp.asarray(X)
        with method.products():
            return self.readout(eq.z, self.inject(X)) - self.baseline(X, method)


def cell_of(z: PyTree[Array], args: tuple[AbstractNetwork, PyTree[Array]]) -> PyTree[Array]:
    """The fixed-point function of a network: `args = (net, phi)`."""
    net, phi = args
    return net.cell(z, phi)


def solve(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    method: Method | None = None,
    z0: PyTree[Float[AnyArray, "n ..."]] | None = None,
) -> Equilibrium:
    """The equilibria of a batch: `z_i = cell(z_i, phi_i)`, `phi = inject(X)`.

    **Arguments:** `X` (n, d), rows are samples; `method`, None for `net.default_method()`; `z0` (n, m),
    a guess such as an earlier equilibrium.

    **Returns:** an `Equilibrium`, `z` of shape (n, m), differentiable in the network and in `X`.

    **Raises:** as `fixed_point`; `ValueError` or `TypeError` for a batch or a guess of the wrong form.
    """
    method = net.default_method() if method is None else method
    X = check_batch(X, net.in_size, jax.tree.leaves(net))

    z0 = None if z0 is None else _check_guess(net, X, z0)

    def run(policy: Policy) -> Equilibrium:
        return _solve(net, X, z0, method, policy)

    return checked(run, lambda eq: {FORWARD: eq}, method.on_failure, (net, X, z0))


def _check_guess(net: AbstractNetwork, X: Array, z0: PyTree) -> PyTree[Array]:
    """A guess of the state's form and of finite values."""
    state = eqx.filter_eval_shape(lambda net, X: net.initial_state(net.inject(X)), net, X)
    if not same_form(z0, state):
        raise ValueError(
            f"z0 must have the structure, shapes and dtypes of the state, {forms(state)}, got {forms(z0)}; "
            "pass the .z of an earlier equilibrium of as many rows"
        )
    return jax.tree.map(lambda leaf: check_floating(leaf, "z0"), z0)


@eqx.filter_jit
def _solve(
    net: AbstractNetwork, X: Array, z0: PyTree[Array] | None, method: Method, policy: Policy
) -> Equilibrium:
    with method.products():
        phi = net.inject(X)
        return solve_injected(net, phi, z0, method, policy)


def solve_injected(
    net: AbstractNetwork, phi: PyTree[Array], z0: PyTree[Array] | None, method: Method, policy: Policy
) -> Equilibrium:
    """`solve` without its door: traceable, from the injection on."""
    z0 = net.initial_state(phi) if z0 is None else z0
    return solve_fixed_point(cell_of, z0, (net, phi), 1, method, policy, net.affine(phi))
