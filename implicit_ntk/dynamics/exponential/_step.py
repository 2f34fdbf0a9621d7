"""One step of the exponential integrator: the flow with its Jacobian drifting along the step.

Over a step from `theta_0` the flow `dtheta/dt = -J^T r` is split at the dynamics linearised there,
`L = J_0^T J_0`, which the modes solve (`exponential/_modes.py`): `r_lin(t)` and `theta_lin(t)`. What is left,
`N = -J^T r + J_0^T r_lin`, has two parts of second order. With `g(t)` the share of the way
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

import abc
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk.dynamics._problem import FlowProblem, Leaves, States
from implicit_ntk.dynamics.exponential._modes import Modes, Scalar, in_full_precision, quadrature
from implicit_ntk.dynamics.exponential._position import Position
from implicit_ntk.jacobian import AbstractJacobian, from_linearization


class AbstractStep(eqx.Module):
    """A step of length `h`, from `leaves` and its `states`, with what dense output is made of.

    `ahead` are the leaves `theta_lin(h)`, `ahead_states` the states there.
    """

    leaves: eqx.AbstractVar[Leaves]
    states: eqx.AbstractVar[States]
    modes: eqx.AbstractVar[Modes]
    h: eqx.AbstractVar[Scalar]
    ahead: eqx.AbstractVar[Leaves]
    ahead_states: eqx.AbstractVar[States]
    defect: eqx.AbstractVar[Scalar]
    """The error on account of modes that are not those of `H_0`, a root mean square over the outputs."""

    unresolved: eqx.AbstractVar[Scalar]
    """The error of the modes themselves, a root mean square over the outputs."""

    @abc.abstractmethod
    def displaced(self, J0: AbstractJacobian, J1: AbstractJacobian, s: Scalar) -> Leaves:
        """`theta(s)` for `0 < s <= h`, of second order, from the Jacobians at both ends."""

    @in_full_precision
    def leaves_at(self, problem: FlowProblem, s: Scalar) -> Leaves:
        """`theta(s)`, the Jacobians made anew."""
        J0 = jacobian_of(problem, self.leaves, self.states)
        J1 = jacobian_of(problem, self.ahead, self.ahead_states)
        return self.displaced(J0, J1, s)


class Step(AbstractStep):
    """With all N modes: `coupling` is `Q^T J_0 (J_1 - J_0)^T Q`, `curvature` is `Q^T rho`."""

    leaves: Leaves
    states: States
    modes: Modes
    h: Scalar
    ahead: Leaves
    ahead_states: States
    defect: Scalar
    unresolved: Scalar
    coupling: Float[Array, "N N"]
    curvature: Float[Array, " N"]

    @classmethod
    @in_full_precision
    def between(
        cls,
        J0: AbstractJacobian,
        J1: AbstractJacobian,
        start: Position,
        modes: Modes,
        ahead: Position,
        h: Scalar,
    ) -> "Step":
        """The step whose linearised flow leads from `start` to `ahead`."""
        Q, off = modes.eigenvectors, modes.off_diagonal
        assert off is not None
        coupling = Q.T @ gram(J0, J1) @ Q - jnp.diag(modes.eigenvalues) - off
        curvature = Q.T @ jnp.ravel(ahead.residual) - modes.tangent(h)
        return cls(
            start.leaves,
            start.states,
            modes,
            h,
            ahead.leaves,
            ahead.states,
            modes.defect(h),
            jnp.zeros_like(h),
            coupling,
            curvature,
        )

    @in_full_precision
    def displaced(self, J0: AbstractJacobian, J1: AbstractJacobian, s: Scalar) -> Leaves:
        """`theta_0 - J_0^T (...) - (J_1 - J_0)^T (...)`: two products with Jacobians."""
        modes, shape = self.modes, J0.linearization.shape
        drifted, within = self._corrections(s)
        here = within + drifted - modes.travelled(s)
        moved = (
            J0.pull((modes.eigenvectors @ here).reshape(shape)),
            J1.pull((modes.eigenvectors @ -drifted).reshape(shape)),
        )
        return jax.tree.map(lambda leaf, a, b: leaf + a + b, self.leaves, *moved)

    def _corrections(self, s: Scalar) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """`int g r_lin dt`, to which `(J_1 - J_0)^T` applies, and what is added to `J_0^T` besides.

        By parts, so that the kernel of the latter is `(1 - e^{-(s-t) lam})/lam`, which is smooth where
        the network moves, also of modes far faster than s.
        """
        modes = self.modes
        t, weights = quadrature(s, modes)
        way = modes.displacement(self.h)
        way = jnp.where(way > 0, way, 1)
        share, share_rate = modes.displacement(t) / way, modes.way_rate(t) / way**2
        decaying = modes.decay(t) * modes.coefficients[:, None]
        drifting = share[None] * decaying
        driven = self.coupling @ drifting
        along = modes.integral(jnp.maximum(s - t, 0)) * (driven - self.curvature[:, None] * share_rate[None])
        return drifting @ weights, along @ weights


def jacobian_of(problem: FlowProblem, leaves: Leaves, states: States) -> AbstractJacobian:
    """`J` at states that are solved for."""
    return from_linearization(problem.at(leaves, states))


def gram(J: AbstractJacobian, other: AbstractJacobian) -> Float[Array, "N N"]:
    """`J J'^T` of two linearisations of the same data, outputs flattened."""
    N = J.linearization.adjoint.steps.size
    return jax.tree.reduce(operator.add, J.kernel_blocks(other)).reshape(N, N)


@in_full_precision
def linear_leaves(J: AbstractJacobian, leaves: Leaves, modes: Modes, s: Scalar) -> Leaves:
    """`theta_lin(s)`, the exact flow of the network linearised at `leaves`, where its Jacobian is `J`."""
    alpha = modes.eigenvectors @ modes.travelled(s)
    moved = J.pull(alpha.reshape(J.linearization.shape))
    return {name: leaf - moved[name] for name, leaf in leaves.items()}
