"""A training problem: network, data and method, with the kernel at initialisation."""

import dataclasses
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from implicit_ntk.dynamics._krylov_basis import ritz_pairs
from implicit_ntk.equilibrium import Equilibrium, Method, Policy
from implicit_ntk.jacobian import (
    AbstractJacobian,
    Linearization,
    adjoint_products,
    build,
    default_kind,
    from_linearization,
    implicit_adjoint,
    linearize,
)
from implicit_ntk.networks import AbstractNetwork, trained_leaves, with_leaves

Leaves = dict[str, Float[Array, "..."]]


class Data(eqx.Module):
    """Inputs, and what training does not change there.

    `baseline` is what the network subtracts from its outputs, `phi` its injection (None where that
    depends on what is trained).
    """

    X: Float[Array, "n d"]
    baseline: Float[Array, "n *out"] | float
    phi: PyTree[Array] | None

    @classmethod
    def of(cls, net: AbstractNetwork, X: Float[Array, "n d"], method: Method) -> "Data":
        """The inputs as this network sees them; raises as `net(X)` where a baseline is solved for."""
        with method.products():
            phi = net.inject(X) if net.injection_is_fixed else None
            return cls(X, net.baseline(X, method), phi)

    def injected(self, net: AbstractNetwork) -> PyTree[Array]:
        """The injection, which is computed anew only where training changes it."""
        return net.inject(self.X) if self.phi is None else self.phi


class States(eqx.Module):
    """Equilibria and adjoint states of the training data."""

    equilibrium: Equilibrium
    adjoint: Equilibrium

    @property
    def status(self) -> Array:
        """The worst status of all the solves."""
        return jnp.maximum(jnp.max(self.equilibrium.status), jnp.max(self.adjoint.status))


class FlowProblem(eqx.Module):
    """Train `net` on `train`, `y` under the square loss `||u - y||^2 / 2`, watching `test`, `y_test`.

    `net` is the network at initialisation, `start` its states and `initial_residual` its `u(0) - y`
    there, `eigenvalues` and `eigenvectors` those of its kernel `H(0)`, with k outputs as a matrix of
    N = n k rows: all of them, K = N, or the Ritz pairs of a Krylov space that begins at the residual
    (`_krylov_basis`). Then `leakage` says at what rates the residual leaves that space; None otherwise.
    """

    net: AbstractNetwork
    train: Data
    y: Float[Array, "n *out"]
    test: Data | None
    y_test: Float[Array, "q *out"] | None
    method: Method
    start: States
    initial_residual: Float[Array, "n *out"]
    eigenvalues: Float[Array, " K"]
    eigenvectors: Float[Array, "N K"]
    leakage: Float[Array, " K"] | None

    @classmethod
    def pose(
        cls,
        net: AbstractNetwork,
        train: Data,
        y: Float[Array, "n *out"],
        test: Data | None,
        y_test: Float[Array, "q *out"] | None,
        method: Method,
        policy: Policy,
        krylov_size: int | None,
    ) -> "FlowProblem":
        """Solve at initialisation and decompose `H(0)`, (n k)^3 flops; or multiply by it so many times."""
        J = build(net, train.X, method, policy, default_kind(net))
        at = J.linearization
        start, residual = States(at.equilibrium, at.adjoint), _residual(at, train, y)
        spectrum = _decomposed(J) if krylov_size is None else ritz_pairs(J, residual, krylov_size)
        # at.method holds what the solvers factored, which serves the whole run: weights move little.
        return cls(net, train, y, test, y_test, at.method, start, residual, *spectrum)

    @property
    def whole(self) -> bool:
        """Are the eigenvalues all those of `H(0)`?"""
        return self.leakage is None

    @property
    def initial_leaves(self) -> Leaves:
        """The trained leaves at t = 0."""
        return trained_leaves(self.net)

    def network(self, leaves: Leaves) -> AbstractNetwork:
        """The network with its trained leaves replaced."""
        return with_leaves(self.net, leaves)

    def at(self, leaves: Leaves, states: States) -> Linearization:
        """The linearisation at states that are solved for."""
        net = self.network(leaves)
        phi = self.train.injected(net)
        return Linearization(net, self.train.X, phi, states.equilibrium, states.adjoint, self.method)

    def solve(
        self,
        leaves: Leaves,
        z0: PyTree[Array],
        p0: PyTree[Array],
        slack_z: Float[Array, ""],
        slack_p: Float[Array, ""],
    ) -> States:
        """The states at other leaves, from guesses, each solve `slack` looser than the method asks."""
        method = _loosened(self.method, slack_z, slack_p)
        at = linearize(self.network(leaves), self.train.X, method, "report", z0, p0, self.train.phi)
        return States(at.equilibrium, at.adjoint)

    def residual(self, leaves: Leaves, states: States) -> Float[Array, "n *out"]:
        """`u - y`, corrected for what the solves left unsolved."""
        return _residual(self.at(leaves, states), self.train, self.y)

    def gradient(self, leaves: Leaves, states: States) -> Leaves:
        """`J^T r`, the gradient of the loss, by name."""
        at = self.at(leaves, states)
        return from_linearization(at).pull(_residual(at, self.train, self.y))


def _decomposed(J: AbstractJacobian) -> tuple[Float[Array, " N"], Float[Array, "N N"], None]:
    N = J.shape[0]
    H = jax.tree.reduce(operator.add, J.kernel_blocks(J)).reshape(N, N)
    return *jnp.linalg.eigh(H), None


def _residual(at: Linearization, train: Data, y: Float[Array, "n *out"]) -> Float[Array, "n *out"]:
    """`r = u - y`, with `u = readout(z) + p.(cell(z) - z)`.

    The correction makes the error of `u` quadratic in what the solves left unsolved. Without it a
    loose solve costs the slow modes dearly: the equilibria move much while the outputs hardly do.
    """
    return at.outputs + _still_unsolved(at) - train.baseline - y


def _still_unsolved(at: Linearization) -> Float[Array, "n *out"]:
    """`p_ic . (cell(z_i) - z_i)`: what solving on would add to the outputs, to first order."""
    z = at.equilibrium.z
    return adjoint_products(at.adjoint.z, jax.tree.map(operator.sub, at.net.cell(z, at.phi), z))


def _loosened(method: Method, slack_z: Float[Array, ""], slack_p: Float[Array, ""]) -> Method:
    solver = dataclasses.replace(method.solver, atol=method.solver.atol + slack_z)
    adjoint = implicit_adjoint(method)
    linear = adjoint.linear_solver
    adjoint = dataclasses.replace(
        adjoint, linear_solver=dataclasses.replace(linear, atol=linear.atol + slack_p)
    )
    return dataclasses.replace(method, solver=solver, adjoint=adjoint)
