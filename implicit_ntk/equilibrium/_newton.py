"""Newton's method for `f(z) = z`: `z <- z + (I - J(z))^{-1} (f(z) - z)`.

For piecewise linear maps, such as relu cells, `J` is an element of the generalised Jacobian and this
the semismooth Newton method (Qi and Sun 1993, <https://doi.org/10.1007/BF01581275>), which ends after
finitely many steps: once the active set is right, one step is exact.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicit_ntk.equilibrium._affine import AffineMap
from implicit_ntk.equilibrium._batch import multiply, norms, select, subtract
from implicit_ntk.equilibrium._flat import FlatView
from implicit_ntk.equilibrium._krylov import GMRES
from implicit_ntk.equilibrium._linear import AbstractLinearSolver, check_linear_solver
from implicit_ntk.equilibrium._lu import LU
from implicit_ntk.equilibrium._rule import LinearMap, LinearSolve, linear_equation
from implicit_ntk.equilibrium._solver import AbstractSolver, Map, check_tolerances

DENSE_DIM = 512
"""Up to this many unknowns a problem, the default is to factor `I - J`."""

WINDOW = 5
"""A step is accepted if its residual is below the largest of so many before it.

Residuals of a successful Newton iteration rise on the way: monotone ones end in local minima, here most
often in the kinks of a relu.
"""

PLAIN = 3
"""So many shares of a Newton step are tried, 1 to 1/4; then the plain step, of which nothing is asked."""


class NewtonState(eqx.Module):
    """The last accepted iterate with its residual vector and Newton direction, and the tries since.

    `recent` holds the residuals of the last accepted iterates; `tries` is `PLAIN` after a plain step.
    """

    z: PyTree[Array]
    g: PyTree[Array]
    direction: PyTree[Array]
    recent: Float[Array, "... window"]
    tries: Int[Array, "..."]
    running: Bool[Array, "..."]


class Newton(AbstractSolver):
    """Newton's method, semismooth where the map has kinks, with backtracking for each problem.

    Needs no contraction: it finds equilibria where Picard diverges. A step after which the residual is
    larger than all of the last five is halved, twice at most, and then replaced by the plain step
    to `f(z)`. `steps` counts evaluations of `f`; the linear solves come on top.

    **Arguments:** `rtol`, `atol`, `max_steps` as in every solver; `linear_solver` solves for the steps:
    None is `LU()` up to 512 unknowns a problem and `GMRES(rtol=1e-4)` beyond.
    """

    keeps_best = True

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 50
    linear_solver: AbstractLinearSolver | None = None

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        if self.linear_solver is not None:
            check_linear_solver(self.linear_solver)

    def prepare(self, affine: AffineMap, other: AbstractSolver | None = None) -> "Newton":
        """With the linear solver prepared."""
        if self.linear_solver is None:
            return self
        return dataclasses.replace(self, linear_solver=self.linear_solver.prepare(affine, self))

    def init(self, f: Map, z: PyTree[Array]) -> NewtonState:
        """Nothing is accepted yet: the first evaluation will be."""
        size = norms(z, f.batch_ndim)
        zeros = jax.tree.map(jnp.zeros_like, z)
        return NewtonState(
            z=z,
            g=zeros,
            direction=zeros,
            recent=jnp.full((*size.shape, WINDOW), -jnp.inf, size.dtype),
            tries=jnp.full(size.shape, PLAIN, jnp.int32),
            running=jnp.ones(size.shape, bool),
        )

    def step(
        self, f: Map, z: PyTree[Array], fz: PyTree[Array], state: NewtonState
    ) -> tuple[PyTree[Array], NewtonState]:
        """A whole Newton step from an accepted iterate; else the next try from the last accepted one."""
        g = subtract(fz, z)
        residual = norms(lax.stop_gradient(g), f.batch_ndim)
        accept = (state.tries == PLAIN) | (residual < jnp.max(state.recent, axis=-1))
        whole = self._directions(f, z, g, accept & state.running)
        tries = jnp.where(accept, 0, state.tries + 1)
        share = multiply(0.5 ** tries.astype(residual.dtype), state.direction)
        retry = select(tries == PLAIN, state.g, share)
        z, g, direction = select(accept, (z, g, whole), (state.z, state.g, state.direction))
        guess = jax.tree.map(jnp.add, z, select(accept, whole, retry))
        recent = jnp.concatenate([state.recent[..., 1:], residual[..., None]], axis=-1)
        recent = jnp.where(accept[..., None], recent, state.recent)
        return guess, NewtonState(z, g, direction, recent, tries, state.running)

    def freeze(self, running: Bool[Array, "..."], new: NewtonState, old: NewtonState) -> NewtonState:
        """Problems that are done ask for no more linear solves."""
        return eqx.tree_at(lambda state: state.running, new, running)

    def _directions(
        self, f: Map, z: PyTree[Array], g: PyTree[Array], wanted: Bool[Array, "..."]
    ) -> PyTree[Array]:
        """`(I - J)^{-1} g` where wanted, zero elsewhere; the plain step where the solve has failed."""
        rhs = select(wanted, g, jax.tree.map(jnp.zeros_like, g))
        _, push = jax.linearize(lambda z: f(z), z)
        solve = self._linear_solve(f, z)
        found = lax.cond(
            jnp.any(wanted),
            lambda: linear_equation(push, rhs, solve),
            lambda: jax.tree.map(jnp.zeros_like, rhs),
        )
        return select(jnp.isfinite(norms(lax.stop_gradient(found), f.batch_ndim)), found, rhs)

    def _linear_solve(self, f: Map, z: PyTree[Array]) -> LinearSolve:
        linear_solver = self.linear_solver
        if linear_solver is None:
            dense = FlatView.of(z, f.batch_ndim).dim <= DENSE_DIM
            linear_solver = LU() if dense else GMRES(rtol=1e-4)
        at = None
        if linear_solver.needs_affine and f.affine is not None:
            at = f.affine.linearized(lax.stop_gradient(z))

        def solve(apply: LinearMap, rhs: PyTree[Array], transposed: bool) -> PyTree[Array]:
            form = at.transpose() if at is not None and transposed else at
            return linear_solver.solve(apply, rhs, f.batch_ndim, None, form).z

        return solve

    def error(
        self, residual: Float[Array, "..."], rate: Float[Array, "..."], state: PyTree
    ) -> Float[Array, "..."]:
        """`residual / (1 - rate)`, with the rate at which the residual fell: an estimate, not a bound."""
        return residual / (1 - rate)
