"""Broyden's method: a quasi-Newton iteration that learns the inverse Jacobian from its own steps.

Broyden (1965), "good" update, for the root of `g(z) = f(z) - z`; limited memory as in Bai, Kolter and
Koltun (2019), <https://arxiv.org/abs/1909.01377>. The inverse Jacobian is `H = -I + sum_j u_j v_j^T`,
so that the first step is Picard's. With `s` the last step and `y` the change of `g` along it
(Sherman-Morrison),

    u = (s - H y) / (s^T H y),    v = H^T s,    z <- z - H g
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicit_ntk._checks import check_positive
from implicit_ntk.equilibrium._flat import FlatView, combine, components, dot, length, put
from implicit_ntk.equilibrium._restart import Refuge
from implicit_ntk.equilibrium._solver import AbstractSolver, Map, check_tolerances


class BroydenState(eqx.Module):
    """The last iterate and the factors of the inverse Jacobian; `valid` as in `AndersonState`."""

    z: Float[Array, "*batch dim"]
    g: Float[Array, "*batch dim"]
    has_last: Bool[Array, "*batch"]
    u: Float[Array, "*batch memory dim"]
    v: Float[Array, "*batch memory dim"]
    valid: Bool[Array, "*batch memory"]
    count: Int[Array, ""]
    refuge: Refuge

    def inverse(self, a: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """`H a`."""
        return combine(jnp.where(self.valid, components(self.v, a), 0), self.u) - a

    def transposed_inverse(self, a: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """`H^T a`."""
        return combine(jnp.where(self.valid, components(self.u, a), 0), self.v) - a


class Broyden(AbstractSolver):
    """Broyden's good method, each problem with an inverse Jacobian of its own of rank `memory` at most.

    A problem whose memory is full forgets it; one whose residual blows up begins again from its best
    iterate. Differentiated by `Unrolled`, the inverse Jacobian is a constant.

    **Arguments:** `rtol`, `atol`, `max_steps` as in every solver; `memory`: two vectors an update.
    """

    keeps_best = True

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000
    memory: int = 20

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        check_positive(self.memory, "memory")

    def init(self, f: Map, z: PyTree[Array]) -> BroydenState:
        """`H = -I`."""
        z = FlatView.of(z, f.batch_ndim).flatten(z)
        batch = z.shape[:-1]
        factors = jnp.zeros((*batch, self.memory, z.shape[-1]), z.dtype)
        return BroydenState(
            z=jnp.zeros_like(z),
            g=jnp.zeros_like(z),
            has_last=jnp.zeros(batch, bool),
            u=factors,
            v=factors,
            valid=jnp.zeros((*batch, self.memory), bool),
            count=jnp.int32(0),
            refuge=Refuge.init(z),
        )

    def step(
        self, f: Map, z: PyTree[Array], fz: PyTree[Array], state: BroydenState
    ) -> tuple[PyTree[Array], BroydenState]:
        """Update the inverse Jacobian and take its step, or begin again."""
        view = FlatView.of(z, f.batch_ndim)
        z, plain = view.flatten(z), view.flatten(fz)
        g = plain - z
        refuge, lost = state.refuge.seen(lax.stop_gradient(length(g)), plain)
        state = lax.stop_gradient(_updated(state, z, g))
        newton = z - state.inverse(g)
        failed = ~jnp.all(jnp.isfinite(newton), axis=-1)
        guess = jnp.where(failed[..., None], plain, newton)
        guess = jnp.where(lost[..., None], refuge.plain, guess)
        state = eqx.tree_at(
            lambda state: (state.valid, state.has_last, state.refuge),
            state,
            (state.valid & ~(lost | failed)[..., None], ~lost, refuge),
        )
        return view.restore(guess), state

    def error(
        self, residual: Float[Array, "..."], rate: Float[Array, "..."], state: PyTree
    ) -> Float[Array, "..."]:
        """`residual / (1 - rate)` at the rate of the accelerated iteration: an estimate, not a bound."""
        return residual / (1 - rate)


def _updated(
    state: BroydenState, z: Float[Array, "*batch dim"], g: Float[Array, "*batch dim"]
) -> BroydenState:
    """The inverse Jacobian that maps the last change of `g` to the last step."""
    full = jnp.all(state.valid, axis=-1)
    state = eqx.tree_at(lambda state: state.valid, state, state.valid & ~full[..., None])
    s, y = z - state.z, g - state.g
    inverse_y, v = state.inverse(y), state.transposed_inverse(s)
    denominator = dot(s, inverse_y)
    least = jnp.sqrt(jnp.finfo(z.dtype).eps) * length(s) * length(inverse_y)
    usable = state.has_last & (jnp.abs(denominator) > least)
    u = (s - inverse_y) / jnp.where(usable, denominator, jnp.ones_like(denominator))[..., None]
    slot = state.count % state.valid.shape[-1]
    valid = lax.dynamic_update_index_in_dim(state.valid, usable, slot, state.valid.ndim - 1)
    everywhere = jnp.ones_like(usable)
    return BroydenState(
        z, g, everywhere, put(state.u, slot, u), put(state.v, slot, v), valid, state.count + 1, state.refuge
    )
