"""One step of the exponential integrator: the flow with its Jacobian drifting along the step.

Over a step from `theta_0` the flow `dtheta/dt = -J^T r` is split at the dynamics linearised there,
`L = J_0^T J_0`, whose solution is known in the eigenvectors of `H_0 = J_0 J_0^T = Q diag(lam) Q^T`:

    r_lin(t) = Q e^{-lam t} c,    theta_lin(t) = theta_0 - J_0^T Q (1 - e^{-lam t})/lam c,    c = Q^T r_0

What is left, `N = -J^T r + J_0^T r_lin`, has two parts of second order. With `g(t)` the share of the way
to `theta_lin(h)` that is covered at time t, the Jacobian has drifted by `g (J_1 - J_0)`, and the outputs
have left their tangent by `g^2 rho`, `rho = r(theta_lin(h)) - r_lin(h)`:

    N(t) = -g (J_1 - J_0)^T r_lin(t) - g^2 J_0^T rho,
    theta(h) = theta_lin(h) + int_0^h e^{-(h-t) L} N(t) dt

Taking the drift to follow the way covered, where exponential Runge-Kutta methods (ETD2RK) take it to
be linear in time, is what lets a step outlast the slowest mode: `g` levels off, and `r_lin` decays. It is
exact to second order while the way is straight, for `h` below `1/lambda_max`; along one that bends, fast
modes settling within the step, it is a model of the drift whose end points are right.

All products here are in full precision, whatever the method asks of the network's: what the fast modes are
off would be large beside the slow ones.
"""

import functools
import operator
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from implicit_ntk.dynamics._exponential_position import Position
from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.jacobian import AbstractJacobian, from_linearization
from implicit_ntk.kernel import resolution_of

PANELS = 40
"""Of the time axis, each a fixed share of a decade: the modes' times span many."""

NODES, WEIGHTS = (np.asarray(x) for x in np.polynomial.legendre.leggauss(6))

Scalar = Float[Array, ""]
P = ParamSpec("P")
T = TypeVar("T")


def in_full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """The function, its matrix products traced with the highest precision."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run


class Modes(eqx.Module):
    """The dynamics linearised at the start of a step, mode by mode."""

    eigenvalues: Float[Array, " N"]
    eigenvectors: Float[Array, "N N"]
    coefficients: Float[Array, " N"]
    """`c = Q^T r_0`."""

    @classmethod
    @in_full_precision
    def at(cls, problem: FlowProblem, at: Position) -> "Modes":
        """Of the kernel and the residual there."""
        J = jacobian_of(problem, at.leaves, at.states)
        eigenvalues, eigenvectors = jnp.linalg.eigh(gram(J, J))
        return cls.of_spectrum(eigenvalues, eigenvectors, at.residual)

    @classmethod
    @in_full_precision
    def of_spectrum(
        cls, eigenvalues: Float[Array, " N"], eigenvectors: Float[Array, "N N"], r: Float[Array, "n *out"]
    ) -> "Modes":
        """From a decomposition that is there; an eigenvalue that is negative by rounding is zero."""
        return cls(jnp.maximum(eigenvalues, 0), eigenvectors, eigenvectors.T @ jnp.ravel(r))

    @property
    def fastest(self) -> Scalar:
        """The largest eigenvalue, or one where the kernel is zero: then nothing moves, at any pace."""
        return jnp.where(self.eigenvalues[-1] > 0, self.eigenvalues[-1], 1)

    @property
    def slowest(self) -> Scalar:
        """The smallest eigenvalue, or what of it rounding and the solves' tolerances resolve."""
        least = jnp.maximum(self.eigenvalues[0], resolution_of(self.eigenvalues))
        return jnp.where(self.eigenvalues[-1] > 0, least, 1)

    @property
    def longest(self) -> Scalar:
        """The longest step: in which the slowest mode that is resolved all but settles."""
        return 10 / self.slowest

    @property
    def resolved(self) -> Bool[Array, ""]:
        """Is the slowest mode more than rounding and the solves' tolerances?"""
        return self.eigenvalues[0] > resolution_of(self.eigenvalues)

    def decay(self, t: Float[Array, "..."]) -> Float[Array, "N ..."]:
        """`e^{-lam t}`."""
        return jnp.exp(-jnp.multiply.outer(self.eigenvalues, t))

    def integral(self, t: Float[Array, "..."]) -> Float[Array, "N ..."]:
        """`(1 - e^{-lam t})/lam`, the integral of the decay; t where lam is zero."""
        lam, t = _column(self.eigenvalues, t), t[None]
        safe = jnp.where(lam > 0, lam, 1)
        return jnp.where(lam > 0, -jnp.expm1(-safe * t) / safe, t)

    def displacement(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """`||theta_lin(t) - theta_0||`."""
        weights = _column(self.eigenvalues * self.coefficients**2, t)
        return jnp.sqrt(jnp.sum(weights * self.integral(t) ** 2, axis=0))

    def way_rate(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """`d/dt displacement(t)^2`."""
        weights = _column(self.eigenvalues * self.coefficients**2, t)
        return 2 * jnp.sum(weights * self.integral(t) * self.decay(t), axis=0)

    def time_to(self, displacement: Scalar) -> Scalar:
        """The time at which the linearised flow has come so far, `longest` at most."""
        unit = 1 / self.fastest

        def halved(_: Int[Array, ""], bounds: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
            low, high = bounds
            middle = (low + high) / 2
            beyond = self.displacement(unit * jnp.exp(middle)) > displacement
            return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

        widest = jnp.full((), 40.0, displacement.dtype)  # e-folds from 1/lambda_max
        low, _ = lax.fori_loop(0, 50, halved, (-widest, widest))
        return jnp.minimum(unit * jnp.exp(low), self.longest)


class Step(eqx.Module):
    """A step of length `h`, from `leaves` and its `states`, with what dense output is made of.

    `ahead` are the leaves `theta_lin(h)`, `ahead_states` the states there; `coupling` is
    `Q^T J_0 (J_1 - J_0)^T Q`, `curvature` is `Q^T rho`.
    """

    leaves: Leaves
    states: States
    modes: Modes
    h: Scalar
    ahead: Leaves
    ahead_states: States
    coupling: Float[Array, "N N"]
    curvature: Float[Array, " N"]

    @classmethod
    @in_full_precision
    def between(
        cls, problem: FlowProblem, start: Position, modes: Modes, ahead: Position, h: Scalar
    ) -> "Step":
        """The step whose linearised flow leads from `start` to `ahead`."""
        J0 = jacobian_of(problem, start.leaves, start.states)
        J1 = jacobian_of(problem, ahead.leaves, ahead.states)
        Q = modes.eigenvectors
        coupling = Q.T @ gram(J0, J1) @ Q - jnp.diag(modes.eigenvalues)
        curvature = Q.T @ jnp.ravel(ahead.residual) - modes.decay(h) * modes.coefficients
        return cls(start.leaves, start.states, modes, h, ahead.leaves, ahead.states, coupling, curvature)

    @in_full_precision
    def leaves_at(self, problem: FlowProblem, s: Scalar) -> Leaves:
        """`theta(s)` for `0 < s <= h`, of second order."""
        J0 = jacobian_of(problem, self.leaves, self.states)
        J1 = jacobian_of(problem, self.ahead, self.ahead_states)
        drifted, within = self._corrections(s)
        shape = problem.y.shape
        Q, modes = self.modes.eigenvectors, self.modes
        here = (Q @ (within + drifted - modes.integral(s) * modes.coefficients)).reshape(shape)
        there = (Q @ -drifted).reshape(shape)
        moved = J0.pull(here), J1.pull(there)
        return {name: leaf + moved[0][name] + moved[1][name] for name, leaf in self.leaves.items()}

    def _corrections(self, s: Scalar) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """`int g r_lin dt`, to which `(J_1 - J_0)^T` applies, and what is added to `J_0^T` besides.

        By parts, so that the kernel of the latter is `(1 - e^{-(s-t) lam})/lam`, which is smooth where
        the network moves, also of modes far faster than s.
        """
        modes = self.modes
        t, weights = _quadrature(s, modes)
        way = modes.displacement(self.h)
        way = jnp.where(way > 0, way, 1)
        share, share_rate = modes.displacement(t) / way, modes.way_rate(t) / way**2
        drifting = share[None] * modes.decay(t) * modes.coefficients[:, None]
        left = modes.integral(jnp.maximum(s - t, 0))
        along = left * (self.coupling @ drifting - self.curvature[:, None] * share_rate[None])
        return drifting @ weights, along @ weights


def jacobian_of(problem: FlowProblem, leaves: Leaves, states: States) -> AbstractJacobian:
    """`J` at states that are solved for."""
    return from_linearization(problem.at(leaves, states))


def gram(J: AbstractJacobian, other: AbstractJacobian) -> Float[Array, "N N"]:
    """`J J'^T` of two linearisations of the same data, outputs flattened."""
    N = J.linearization.adjoint.steps.size
    return jax.tree.reduce(operator.add, J.kernel_blocks(other)).reshape(N, N)


@in_full_precision
def linear_leaves(problem: FlowProblem, leaves: Leaves, states: States, modes: Modes, s: Scalar) -> Leaves:
    """`theta_lin(s)`, the exact flow of the network linearised at `leaves`."""
    alpha = (modes.eigenvectors @ (modes.integral(s) * modes.coefficients)).reshape(problem.y.shape)
    moved = jacobian_of(problem, leaves, states).pull(alpha)
    return {name: leaf - moved[name] for name, leaf in leaves.items()}


def _column(x: Float[Array, " N"], t: Float[Array, "..."]) -> Float[Array, "N ..."]:
    return x.reshape(x.shape + (1,) * jnp.ndim(t))


def _quadrature(s: Scalar, modes: Modes) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
    """Nodes and weights of [0, s]: Gauss on panels that grow geometrically, from the fastest mode's time."""
    first = jnp.minimum(1e-2 / modes.fastest, s / 2)
    shares = jnp.arange(PANELS, dtype=s.dtype) / (PANELS - 1)
    edges = jnp.concatenate([jnp.zeros(1, s.dtype), first * (s / first) ** shares])
    half = jnp.diff(edges)[:, None] / 2
    nodes = edges[:-1, None] + half * (1 + jnp.asarray(NODES, s.dtype))[None]
    return jnp.ravel(nodes), jnp.ravel(half * jnp.asarray(WEIGHTS, s.dtype)[None])
