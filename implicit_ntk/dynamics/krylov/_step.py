"""A step of the exponential integrator in Krylov spaces: no kernel is formed.

`exponential/_step.py` has the formulas. With thin modes `V` of the space of `r_0` there is left to find what
answers the drift, `int (1 - e^{-(s-t) H})/H [C g r_lin - rho d(g^2)] dt` with `C = J_0 (J_1 - J_0)^T`. What
`C` applies to, `g r_lin`, hardly leaves the span of two vectors `V U`: it is projected there, wherever it
appears. So the answer is a function of `H` of the three vectors `C V U`, `rho`, and is taken in a space
that has them in it: the span of `V`, of these, and of their images under `H`. As the whole answer is of
the size of the step's estimated error, a few parts in a thousand of it, which is what is lost, are nothing.

Beside Lanczos' a step makes 18 products with a Jacobian or its transpose.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from implicit_ntk.dynamics._krylov_basis import Apply, kernel_product
from implicit_ntk.dynamics._problem import Leaves, States
from implicit_ntk.dynamics.exponential._modes import Modes, Scalar, in_full_precision
from implicit_ntk.dynamics.exponential._position import Position
from implicit_ntk.dynamics.exponential._step import AbstractStep, quadrature
from implicit_ntk.dynamics.krylov._modes import KrylovModes
from implicit_ntk.jacobian import AbstractJacobian

VECTORS = 2
"""Of the span in which `g r_lin` is followed."""

POWERS = 2
"""Of `H`, from the zeroth, of which the images of the drift join the space that answers it."""


class Response(eqx.Module):
    """Ritz pairs of `H_0` in a space that holds what the drift does to the outputs.

    `coupling` is `C` from the modes of the residual to these, whose own coefficients are those of `rho`.
    """

    modes: Modes
    coupling: Float[Array, "K k"]

    @classmethod
    def to(
        cls,
        apply: Apply,
        modes: KrylovModes,
        drift: Float[Array, "N v"],
        rho: Float[Array, " N"],
        main: Array,
    ) -> "Response":
        """To `drift = C V U`, where `main` is U, and `rho`."""
        values, vectors = _enlarged(apply, modes, jnp.concatenate([rho[:, None], drift], axis=1).T)
        answering = Modes(values, vectors, vectors.T @ rho, None, modes.age)
        return cls(answering, vectors.T @ drift @ main.T)


class KrylovStep(AbstractStep):
    """With the thin modes of a Krylov space, and two vectors `main` (U) in which the drift is followed."""

    leaves: Leaves
    states: States
    modes: KrylovModes
    h: Scalar
    ahead: Leaves
    ahead_states: States
    defect: Scalar
    unresolved: Scalar
    main: Float[Array, "k v"]
    response: Response

    @classmethod
    @in_full_precision
    def between(
        cls,
        J0: AbstractJacobian,
        J1: AbstractJacobian,
        start: Position,
        modes: KrylovModes,
        ahead: Position,
        h: Scalar,
    ) -> "KrylovStep":
        """The step whose linearised flow leads from `start` to `ahead`."""
        V = modes.eigenvectors
        main = _main(modes, h)
        drift = lax.map(lambda v: _drift(J0, J1, v), (V @ main).T).T
        rho = jnp.ravel(ahead.residual) - V @ (modes.decay(h) * modes.coefficients)
        return cls(
            leaves=start.leaves,
            states=start.states,
            modes=modes,
            h=h,
            ahead=ahead.leaves,
            ahead_states=ahead.states,
            defect=jnp.zeros_like(h),
            unresolved=modes.unresolved(h),
            main=main,
            response=Response.to(kernel_product(J0), modes, drift, rho, main),
        )

    @in_full_precision
    def displaced(self, J0: AbstractJacobian, J1: AbstractJacobian, s: Scalar) -> Leaves:
        """`theta_0 - J_0^T (...) - (J_1 - J_0)^T (...)`: two products with Jacobians."""
        modes, shape = self.modes, J0.linearization.shape
        drifted, answered = self._corrections(s)
        linear = modes.eigenvectors @ (drifted - modes.integral(s) * modes.coefficients)
        here = J0.pull((linear + answered).reshape(shape))
        there = J1.pull((modes.eigenvectors @ -drifted).reshape(shape))
        return jax.tree.map(lambda leaf, a, b: leaf + a + b, self.leaves, here, there)

    def _corrections(self, s: Scalar) -> tuple[Float[Array, " k"], Float[Array, " N"]]:
        """`int g r_lin dt` in the modes, to which `(J_1 - J_0)^T` applies, and what is added to `J_0^T`."""
        answering = self.response.modes
        t, weights = quadrature(s, self.modes)
        drifting = self.main @ (self.main.T @ drifted_residuals(self.modes, self.h, t))
        share_rate = self.modes.way_rate(t) / _way(self.modes, self.h) ** 2
        pushed = self.response.coupling @ drifting - answering.coefficients[:, None] * share_rate[None]
        left = answering.integral(jnp.maximum(s - t, 0))
        return drifting @ weights, answering.eigenvectors @ ((left * pushed) @ weights)


def drifted_residuals(modes: KrylovModes, h: Scalar, t: Float[Array, " T"]) -> Float[Array, "k T"]:
    """`g(t) r_lin(t)` in the modes, `g` the share of the way that is covered."""
    share = modes.displacement(t) / _way(modes, h)
    return share[None] * modes.decay(t) * modes.coefficients[:, None]


def _way(modes: KrylovModes, h: Scalar) -> Scalar:
    way = modes.displacement(h)
    return jnp.where(way > 0, way, 1)


def _main(modes: KrylovModes, h: Scalar) -> Float[Array, "k v"]:
    """The vectors near which `g r_lin` stays along the step, by what it integrates to."""
    t, weights = quadrature(h, modes)
    vectors = jnp.linalg.svd(drifted_residuals(modes, h, t) * weights[None], full_matrices=False)[0]
    return vectors[:, :VECTORS]


def _drift(J0: AbstractJacobian, J1: AbstractJacobian, v: Float[Array, " N"]) -> Float[Array, " N"]:
    """`J_0 (J_1 - J_0)^T v`."""
    v = v.reshape(J0.linearization.shape)
    return jnp.ravel(J0.push(jax.tree.map(jnp.subtract, J1.pull(v), J0.pull(v))))


def _enlarged(
    apply: Apply, modes: KrylovModes, block: Float[Array, "b N"]
) -> tuple[Float[Array, " K"], Float[Array, "N K"]]:
    """Ritz pairs in the span of the modes, of the rows of a block, and of their images under `H`."""
    b, k = block.shape[0], modes.eigenvalues.size
    known = jnp.concatenate([modes.eigenvectors.T, jnp.zeros((POWERS * b, block.shape[1]), block.dtype)])
    waiting = jnp.zeros(((1 + POWERS) * b, block.shape[1]), block.dtype).at[:b].set(block)

    def extended(i: Int[Array, ""], found: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, waiting = found
        new = _outside(basis, waiting[i])
        return basis.at[k + i].set(new), waiting.at[b + i].set(apply(new))

    basis, waiting = lax.fori_loop(0, POWERS * b, extended, (known, waiting))
    beside = basis @ waiting[b:].T
    projected = jnp.zeros((k + POWERS * b,) * 2, block.dtype).at[:, k:].set(beside).at[k:].set(beside.T)
    projected = projected.at[jnp.arange(k), jnp.arange(k)].set(modes.eigenvalues)
    values, mixing = jnp.linalg.eigh((projected + projected.T) / 2)
    return jnp.maximum(values, 0), basis.T @ mixing


def _outside(basis: Float[Array, "K N"], v: Float[Array, " N"]) -> Float[Array, " N"]:
    """The part of `v` outside of the basis, of length one; zero where that is rounding."""
    w = v
    for _ in range(2):
        w = w - (basis @ w) @ basis
    size, left = jnp.linalg.norm(v), jnp.linalg.norm(w)
    known = left > 1e2 * jnp.finfo(v.dtype).eps * size
    return jnp.where(known, w / jnp.where(known, left, 1), 0)
