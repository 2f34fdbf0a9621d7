"""A network linearised at the equilibria of a batch: the states `z`, and the adjoint states `p`.

    z_i = cell(z_i, phi_i),        p_i = (d cell/dz)_i^T p_i + (d readout/dz)_i

By the implicit function theorem the derivative of the outputs with respect to any parameter is that of

    l_i(theta) = p_i . cell_theta(z_i, phi_theta(x_i)) + readout_theta(z_i, phi_theta(x_i))

at frozen `z` and `p`: two solves a batch pay for every Jacobian product that follows. With k outputs a
sample has k adjoint states, one for each (`p` (n, k, m) for `z` (n, m)), and k functions `l_ic`.
"""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicit_ntk.equilibrium import (
    AbstractImplicitAdjoint,
    Equilibrium,
    GuardedSolve,
    LinearMap,
    Method,
    Policy,
    linear_equation,
)
from implicit_ntk.networks import AbstractNetwork, solve_injected


class Linearization(eqx.Module):
    """Equilibria and adjoint states of a batch, with the network and the method that made them."""

    net: AbstractNetwork
    X: Float[Array, "n d"]
    phi: PyTree[Array]
    equilibrium: Equilibrium
    adjoint: Equilibrium
    method: Method

    @property
    def outputs(self) -> Float[Array, "n *out"]:
        """The read-out at the equilibria, before any baseline is subtracted."""
        with self.method.products():
            return self.net.readout(self.equilibrium.z, self.phi)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the outputs, `(n,)` or `(n, k)`."""
        return self.adjoint.steps.shape


def linearize(
    net: AbstractNetwork,
    X: Float[Array, "n d"],
    method: Method,
    policy: Policy,
    z0: PyTree[Array] | None = None,
    p0: PyTree[Array] | None = None,
    phi: PyTree[Array] | None = None,
) -> Linearization:
    """Solve for `z` and `p`, from guesses where they are given. Traceable and differentiable."""
    phi = net.inject(X) if phi is None else phi
    method = method.prepared(net.affine(phi))  # what the solvers factor is shared by both solves
    eq = solve_injected(net, phi, z0, method, policy)
    return Linearization(net, X, phi, eq, adjoint_states(net, phi, eq.z, method, policy, p0), method)


def adjoint_states(
    net: AbstractNetwork,
    phi: PyTree[Array],
    z: PyTree[Array],
    method: Method,
    policy: Policy,
    p0: PyTree[Array] | None = None,
) -> Equilibrium:
    """The adjoint states (as `.z`) of the outputs: rows `p_i = b/sqrt(m) + gamma A D_i p_i` for GG22.

    Leaves (n, *out, ...): with k outputs k adjoint equations a sample, solved at once.
    """
    rhs, batch_ndim = _output_gradients(net, phi, z)
    pullback = net.cell_pullback(z, phi)
    # One linearisation, mapped over the outputs: their products are one product of n k rows.
    apply = pullback if batch_ndim == 1 else jax.vmap(pullback, in_axes=1, out_axes=1)

    guarded = GuardedSolve(implicit_adjoint(method).linear_solver, batch_ndim, policy, method.full_precision)
    guarded = guarded.near(net.affine(phi), z)

    def solve(apply: LinearMap, b: PyTree[Array], transposed: bool) -> tuple:
        eq = guarded.solve(apply, b, transposed, p0)
        return eq.z, (eq.residual, eq.error, eq.steps, eq.status)

    p, books = linear_equation(apply, rhs, solve, has_aux=True, transposed=True)
    return Equilibrium(p, *books)


def _output_gradients(
    net: AbstractNetwork, phi: PyTree[Array], z: PyTree[Array]
) -> tuple[PyTree[Array], int]:
    """`d readout_c/dz` of each sample, leaves (n, *out, ...), and the number of axes of `(n, *out)`."""
    outputs, pull = jax.vjp(lambda z: net.readout(z, phi), z)
    if outputs.ndim == 1:
        return pull(jnp.ones_like(outputs))[0], 1
    if outputs.ndim > 2:
        raise ValueError(f"readout must return (n,) or (n, k), got {outputs.shape}; flatten the outputs")
    unit = jnp.eye(outputs.shape[1], dtype=outputs.dtype)
    return jax.vmap(lambda e: pull(jnp.broadcast_to(e, outputs.shape))[0], out_axes=1)(unit), 2


def adjoint_products(p: PyTree[Array], y: PyTree[Array]) -> Float[Array, "n *out"]:
    """`p_ic . y_i` over all leaves: adjoint states `p` (n, *out, ...) times changes of state `y` (n, ...)."""

    def product(p: Array, y: Array) -> Array:
        shape = p.shape[: 1 + p.ndim - y.ndim]
        rows = y.reshape(y.shape[0], *(1,) * (len(shape) - 1), -1)
        return jnp.sum(p.reshape(*shape, -1) * rows, axis=-1)

    return jax.tree.reduce(operator.add, jax.tree.map(product, p, y))


def implicit_adjoint(method: Method) -> AbstractImplicitAdjoint:
    """The method's adjoint; raises `ValueError` for one that solves no linear equation."""
    if not isinstance(method.adjoint, AbstractImplicitAdjoint):
        raise ValueError(
            f"method.adjoint={type(method.adjoint).__name__}() gives no adjoint states; a Jacobian wants "
            "ImplicitAdjoint() or ReverseAdjoint()"
        )
    return method.adjoint
