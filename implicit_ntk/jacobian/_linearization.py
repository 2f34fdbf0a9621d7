"""A network linearised at the equilibria of a batch: the states `z`, and the adjoint states `p`.

    z_i = cell(z_i, phi_i),        p_i = (d cell/dz)_i^T p_i + (d readout/dz)_i

By the implicit function theorem the derivative of the outputs with respect to any parameter is that of

    l_i(theta) = p_i . cell_theta(z_i, phi_theta(x_i)) + readout_theta(z_i, phi_theta(x_i))

at frozen `z` and `p`: two solves a batch pay for every Jacobian product that follows.
"""

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
    phi: PyTree[Float[Array, "n ..."]]
    equilibrium: Equilibrium
    adjoint: Equilibrium
    method: Method

    @property
    def outputs(self) -> Float[Array, " n"]:
        """The read-out at the equilibria, before any baseline is subtracted."""
        return self.net.readout(self.equilibrium.z, self.phi)


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
    """The adjoint states (as `.z`) of the outputs: rows `p_i = b/sqrt(m) + gamma A D_i p_i` for GG22."""
    outputs, pull_outputs = jax.vjp(lambda z: net.readout(z, phi), z)
    (rhs,) = pull_outputs(jnp.ones_like(outputs))

    guarded = GuardedSolve(implicit_adjoint(method).linear_solver, 1, policy)
    guarded = guarded.near(net.affine(phi), z)

    def solve(apply: LinearMap, b: PyTree[Array], transposed: bool) -> tuple:
        eq = guarded.solve(apply, b, transposed, p0)
        return eq.z, (eq.residual, eq.error, eq.steps, eq.status)

    p, books = linear_equation(net.cell_pullback(z, phi), rhs, solve, has_aux=True, transposed=True)
    return Equilibrium(p, *books)


def implicit_adjoint(method: Method) -> AbstractImplicitAdjoint:
    """The method's adjoint; raises `ValueError` for one that solves no linear equation."""
    if not isinstance(method.adjoint, AbstractImplicitAdjoint):
        raise ValueError(
            f"method.adjoint={type(method.adjoint).__name__}() gives no adjoint states; a Jacobian wants "
            "ImplicitAdjoint() or ReverseAdjoint()"
        )
    return method.adjoint
