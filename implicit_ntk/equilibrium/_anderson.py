"""Anderson mixing: the next guess from the last few evaluations at once.

Anderson (1965); type II of Fang and Saad (2009), <https://doi.org/10.1002/nla.617>; Walker and Ni
(2011), <https://doi.org/10.1137/10078356X>. With `g_k = f(z_k) - z_k` and the differences `dg`, `df` of
the last evaluations,

    coefficients = argmin || g_k - sum_j c_j dg_j ||
    z_{k+1} = f(z_k) - sum_j c_j df_j         (damping 1)

Each problem mixes its own history. On a linear map it is GMRES without its breakdowns.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicit_ntk._checks import check_positive
from implicit_ntk.equilibrium._flat import FlatView, combine, length, put
from implicit_ntk.equilibrium._restart import Refuge
from implicit_ntk.equilibrium._solver import AbstractSolver, Map, check_tolerances


class AndersonState(eqx.Module):
    """The last evaluation and the differences of those before, all scaled to `||dg|| = 1`.

    All problems write to the same slot of their histories; `valid` says which slots a problem may use,
    since each begins again at its own time.
    """

    g: Float[Array, "*batch dim"]
    f: Float[Array, "*batch dim"]
    has_last: Bool[Array, "*batch"]
    dg: Float[Array, "*batch memory dim"]
    df: Float[Array, "*batch memory dim"]
    gram: Float[Array, "*batch memory memory"]
    valid: Bool[Array, "*batch memory"]
    count: Int[Array, ""]
    refuge: Refuge


class Anderson(AbstractSolver):
    """Anderson mixing of the last `memory` evaluations.

    Pays where the Jacobian at the equilibrium is nearly symmetric or has few large eigenvalues, as in
    convolutional and monotone cells. For Gaussian weights, whose eigenvalues fill a disc, Picard needs
    as few products. A problem whose residual blows up, or whose mixing is not finite, begins again
    from its best iterate. Differentiated by `Unrolled`, the mixing coefficients are constants.

    **Arguments:** `rtol`, `atol`, `max_steps` as in every solver; `memory` differences are kept;
    `regularisation` is added to the diagonal of the Gram matrix of the normalised differences (it has
    no unit: the scales of `f` and `z` do not matter), and never taken below the rounding of the dtype;
    `damping` in (0, 1] as in `Picard`.
    """

    keeps_best = True

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000
    memory: int = 5
    regularisation: float | int = 1e-12
    damping: float | int = 1.0

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        check_positive(self.memory, "memory")
        if not isinstance(self.regularisation, float | int) or not 0 <= self.regularisation < 1:
            raise ValueError(
                f"regularisation must lie in [0, 1), got {self.regularisation!r}; 1e-12 is usual"
            )
        if not isinstance(self.damping, float | int) or not 0 < self.damping <= 1:
            raise ValueError(f"damping must lie in (0, 1], got {self.damping!r}; 1 is no damping")

    def init(self, f: Map, z: PyTree[Array]) -> AndersonState:
        """An empty history."""
        z = FlatView.of(z, f.batch_ndim).flatten(z)
        batch, memory = z.shape[:-1], self.memory
        history = jnp.zeros((*batch, memory, z.shape[-1]), z.dtype)
        return AndersonState(
            g=jnp.zeros_like(z),
            f=jnp.zeros_like(z),
            has_last=jnp.zeros(batch, bool),
            dg=history,
            df=history,
            gram=jnp.zeros((*batch, memory, memory), z.dtype),
            valid=jnp.zeros((*batch, memory), bool),
            count=jnp.int32(0),
            refuge=Refuge.init(z),
        )

    def step(
        self, f: Map, z: PyTree[Array], fz: PyTree[Array], state: AndersonState
    ) -> tuple[PyTree[Array], AndersonState]:
        """The mixed guess, or where that has failed a plain step from the best iterate."""
        view = FlatView.of(z, f.batch_ndim)
        z, fz = view.flatten(z), view.flatten(fz)
        g = fz - z
        plain = z + self.damping * g
        refuge, lost = state.refuge.seen(lax.stop_gradient(length(g)), plain)
        state, projections = _remember(state, fz, g)
        c = self._coefficients(state, projections)
        mixed = fz - combine(c, state.df)
        if self.damping != 1:
            mixed = mixed - (1 - self.damping) * (g - combine(c, state.dg))
        failed = ~jnp.all(jnp.isfinite(mixed), axis=-1)
        guess = jnp.where(failed[..., None], plain, mixed)
        guess = jnp.where(lost[..., None], refuge.plain, guess)
        state = eqx.tree_at(
            lambda state: (state.valid, state.has_last, state.refuge),
            state,
            (state.valid & ~(lost | failed)[..., None], ~lost, refuge),
        )
        return view.restore(guess), state

    def _coefficients(
        self, state: AndersonState, projections: Float[Array, "*batch memory"]
    ) -> Float[Array, "*batch memory"]:
        """The regularised least squares, by its normal equations; slots out of use get zero."""
        rounding = 10 * self.memory * float(jnp.finfo(state.gram.dtype).eps)
        valid, weight = state.valid, max(self.regularisation, rounding)
        gram = jnp.where(valid[..., :, None] & valid[..., None, :], state.gram, 0)
        diagonal = jnp.where(valid, weight, 1.0).astype(gram.dtype)
        gram = gram + diagonal[..., None] * jnp.eye(self.memory, dtype=gram.dtype)[(None,) * (gram.ndim - 2)]
        return _solve_definite(*lax.stop_gradient((gram, jnp.where(valid, projections, 0))))

    def error(
        self, residual: Float[Array, "..."], rate: Float[Array, "..."], state: PyTree
    ) -> Float[Array, "..."]:
        """`residual / (1 - rate)` at the rate of the accelerated iteration: an estimate, not a bound."""
        return residual / (1 - rate)


def _remember(
    state: AndersonState, f: Float[Array, "*batch dim"], g: Float[Array, "*batch dim"]
) -> tuple[AndersonState, Float[Array, "*batch memory"]]:
    """The history with the newest difference; and the inner products of `g` with all of them.

    The old differences are read once, for the new row of the Gram matrix and for `g` together.
    """
    dg, df = g - state.g, f - state.f
    size, noise = lax.stop_gradient((length(dg), length(g) + length(state.g)))
    usable = state.has_last & (size > 4 * float(jnp.finfo(g.dtype).eps) * noise)
    size = jnp.where(usable, size, jnp.ones_like(size))[..., None]
    slot = state.count % state.valid.shape[-1]
    history = put(state.dg, slot, dg / size)
    products = jnp.einsum("...kd,...rd->...rk", history, jnp.stack([dg / size, g], axis=-2))
    row, projections = products[..., 0, :], products[..., 1, :]
    gram = put(state.gram, slot, row)
    gram = jnp.swapaxes(put(jnp.swapaxes(gram, -1, -2), slot, row), -1, -2)
    valid = lax.dynamic_update_index_in_dim(state.valid, usable, slot, state.valid.ndim - 1)
    everywhere = jnp.ones_like(usable)
    df = put(state.df, slot, df / size)
    state = AndersonState(g, f, everywhere, history, df, gram, valid, state.count + 1, state.refuge)
    return state, projections


def _solve_definite(
    matrix: Float[Array, "*batch k k"], rhs: Float[Array, "*batch k"]
) -> Float[Array, "*batch k"]:
    """Gauss-Jordan elimination without pivots: batched LAPACK calls on such small systems are slow."""
    table = jnp.concatenate([matrix, rhs[..., None]], axis=-1)

    def eliminate(k: Array, table: Array) -> Array:
        row = lax.dynamic_index_in_dim(table, k, table.ndim - 2)
        row = row / lax.dynamic_index_in_dim(row, k, row.ndim - 1)
        column = lax.dynamic_index_in_dim(table, k, table.ndim - 1)
        return put(table - column * row, k, row[..., 0, :])

    return lax.fori_loop(0, matrix.shape[-1], eliminate, table)[..., -1]
