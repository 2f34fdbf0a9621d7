"""What an implicit network is: an injection, a cell, and a read-out of the cell's equilibrium.

    phi = inject(X),    z = cell(z, phi),    u = readout(z, phi) - baseline(X)

Everything else (solving, the Jacobian, kernels, training) is written against this interface.
"""

import abc
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray, check_batch, check_floating
from implicit_ntk.equilibrium import (
    FORWARD,
    AffineMap,
    Auto,
    Equilibrium,
    Method,
    Policy,
    checked,
    solve_fixed_point,
)
from implicit_ntk.networks._choice import Choice, affine_cell, put_choice, unknown_cell, value_of
from implicit_ntk.networks._factors import HasGradientFactors
from implicit_ntk.networks._forms import forms, same_form


class AbstractNetwork(eqx.Module):
    """An implicit network. Samples are rows; the leaves named in `trained` are what training moves."""

    trained: eqx.AbstractVar[tuple[str, ...]]

    @property
    @abc.abstractmethod
    def in_size(self) -> int:
        """The number d of input features."""

    @property
    def width(self) -> int:
        """The number m of units of the cell: of numbers in one sample's state. Computes nothing."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_of_one(self)[0]))

    @abc.abstractmethod
    def inject(self, X: Float[Array, "n d"]) -> PyTree[Array]:
        """Everything of the cell that does not change while the equilibrium is sought.

        Mostly its input, a row a sample; what is formed of the weights once a solve may stand beside it.
        """

    @property
    def injection_is_fixed(self) -> bool:
        """Does `inject` use none of the trained leaves? Training then injects once, not every step."""
        return False

    @abc.abstractmethod
    def initial_state(self, phi: PyTree[Array]) -> PyTree[Float[Array, "n ..."]]:
        """Where a solve starts when no guess is given."""

    @abc.abstractmethod
    def cell(self, z: PyTree[Float[Array, "n ..."]], phi: PyTree[Array]) -> PyTree[Float[Array, "n ..."]]:
        """One application of the implicit layer."""

    def affine(self, phi: PyTree[Array]) -> AffineMap | None:
        """The cell as an affine map followed by an elementwise one; None where it has not that form.

        Solvers such as `Chord` and `PeacemanRachford` live on it. A cell that has the form should be
        written as `self.affine(phi)(z)`, so that there is one formula.
        """
        return None

    def cell_pullback(
        self, z: PyTree[Float[Array, "n ..."]], phi: PyTree[Array]
    ) -> Callable[[PyTree[Array]], PyTree[Array]]:
        """`p_i -> (d cell/dz)_i^T p_i` at an equilibrium `z`.

        By `jax.vjp`, at the price of one application of the cell; a network that knows its slopes
        from `z` itself can save that.
        """
        _, pull = jax.vjp(lambda z: self.cell(z, phi), z)
        return lambda p: pull(p)[0]

    @abc.abstractmethod
    def readout(self, z: PyTree[Float[Array, "n ..."]], phi: PyTree[Array]) -> Float[Array, "n *out"]:
        """The outputs, given the equilibrium: (n,), or (n, k) for k outputs."""

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of one sample's output: `()`, or `(k,)` for k outputs. Computes nothing."""
        return _of_one(self)[1].shape[1:]

    def contraction(self) -> Float[Array, ""]:
        """An upper bound of the cell's Lipschitz constant in `z`; below one it certifies the network.

        Infinite where no bound is known.
        """
        return jnp.asarray(jnp.inf)

    def default_method(self) -> Method:
        """The method that `method=None` stands for."""
        return Method()

    def choose(self) -> Choice:
        """The solvers that suit this network, with the reason: see `implicit_ntk.choose`."""
        if _form_of_one(self) is None:
            return unknown_cell()
        return affine_cell(value_of(self.contraction()))

    def resolve(self, method: Method | None) -> Method:
        """The method that an entry was given: the default for None, the choice where it says `Auto()`.

        Raises `TypeError` for what is no method.
        """
        method = self.default_method() if method is None else method
        if not isinstance(method, Method):
            raise TypeError(f"method must be a Method such as Method(solver=Picard()), got {method!r}")
        return put_choice(method, method.solver, self.choose()) if isinstance(method.solver, Auto) else method

    def equilibrium(
        self, phi: PyTree[Array], z0: PyTree[Array] | None, method: Method, policy: Policy
    ) -> Equilibrium:
        """The state for a given injection, with its derivatives, from a guess if there is one. Traceable.

        For networks whose state is found in another way than by iterating the cell, as `WeightTied`.
        """
        z0 = self.initial_state(phi) if z0 is None else z0
        return solve_fixed_point(cell_of, z0, (self, phi), 1, method, policy, self.affine(phi))

    def baseline(
        self, X: Float[Array, "n d"], method: Method | None = None
    ) -> Float[Array, "n *out"] | float:
        """What is subtracted from the outputs: fixed, whatever is trained. Nothing, but for `Centred`."""
        return 0.0

    @property
    def core(self) -> "AbstractNetwork":
        """The network that owns the trained leaves: this one, but for wrappers."""
        return self

    def leaf(self, name: str) -> Any:
        """The leaf of that name, of a network or of a tangent: an attribute, if nothing else is said."""
        return getattr(self, name)

    @property
    def factored(self) -> "HasGradientFactors | None":
        """Who knows the gradients of the outputs as outer products: this network if it does, or nobody."""
        return self if isinstance(self, HasGradientFactors) else None

    def __call__(self, X: Float[AnyArray, "n d"], method: Method | None = None) -> Float[Array, "n *out"]:
        """The outputs `u` on a batch of rows, (n,) or (n, k); raises as `solve` does."""
        method = self.resolve(method)
        eq = solve(self, X, method)
        X = jnp.asarray(X)
        with method.products():
            return self.readout(eq.z, self.inject(X)) - self.baseline(X, method)


def _of_one(net: AbstractNetwork) -> tuple[PyTree[jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """What the state and the outputs of a batch of one row look like."""
    arrays, static = eqx.partition(net, eqx.is_array)
    # The module itself has no hash where a field of it is a dictionary; its structure has.
    leaves, structure = jax.tree.flatten(static)
    return _start_and_outputs.eval_shape(arrays, _row(net), (tuple(leaves), structure))


@functools.partial(jax.jit, static_argnums=2)
def _start_and_outputs(arrays: PyTree, X: Array, static: tuple) -> tuple[PyTree[Array], Array]:
    """Where a solve starts and what is read off there. Under `jit` for the sake of its trace cache."""
    leaves, structure = static
    net = eqx.combine(arrays, jax.tree.unflatten(structure, leaves))
    phi = net.inject(X)
    z = net.initial_state(phi)
    return z, net.readout(z, phi)


def _form_of_one(net: AbstractNetwork) -> AffineMap | None:
    """The affine form of the cell on a batch of one row, without its numbers."""
    return eqx.filter_eval_shape(lambda net, X: net.affine(net.inject(X)), net, _row(net))


def _row(net: AbstractNetwork) -> jax.ShapeDtypeStruct:
    """A batch of one row, in the dtype of the network."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(net) if eqx.is_inexact_array(leaf)]
    return jax.ShapeDtypeStruct((1, net.in_size), jnp.result_type(float, *dtypes))


def cell_of(z: PyTree[Array], args: tuple[AbstractNetwork, PyTree[Array]]) -> PyTree[Array]:
    """The fixed-point function of a network: `args = (net, phi)`."""
    net, phi = args
    return net.cell(z, phi)


def choose(net: AbstractNetwork) -> Choice:
    """The forward solver and the linear solver that suit a network, and why.

    By the form of the cell (affine and elementwise, monotone, or unknown) and by its certificate
    (`net.contraction()`, the monotonicity): a `Choice` with `solver`, `linear_solver`, `reason`, and the
    `method` of both. It prints as a sentence. `Method(solver=Auto())` asks for it at every call.
    """
    check_network(net)
    return net.choose()


def check_network(net: object) -> None:
    """Raise `TypeError` for what is no network."""
    if not isinstance(net, AbstractNetwork):
        raise TypeError(f"net must be a network such as ReluImplicit.init(...), got {net!r}")


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
    check_network(net)
    method = net.resolve(method)
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
    return net.equilibrium(phi, z0, method, policy)
