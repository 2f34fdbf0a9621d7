"""The direct solve of `x = apply(x) + rhs`: `I - J` of each problem as a matrix, factored."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import lu_factor, lu_solve
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from implicit_ntk._memory import memory_limit, require_memory
from implicit_ntk.equilibrium._affine import LinearizedAffine
from implicit_ntk.equilibrium._driver import Equilibrium
from implicit_ntk.equilibrium._flat import length
from implicit_ntk.equilibrium._linear import AbstractLinearSolver
from implicit_ntk.equilibrium._rule import LinearMap
from implicit_ntk.equilibrium._solver import check_tolerances
from implicit_ntk.equilibrium._status import Status
from implicit_ntk.equilibrium._stopping import at_floor
from implicit_ntk.equilibrium._system import System

MATRICES = 4
"""At once there are, for each problem, its columns, their transpose, the factors and a copy."""


class LU(AbstractLinearSolver):
    """LU factors of `I - J`, `(dim, dim)` for each problem, and one step of iterative refinement.

    `dim` products with `J` and `2/3 dim^3` operations a problem: for small states, for equations near
    the edge where no iteration converges, and as a reference. Problems are taken in tiles that fit the
    memory limit; for each tile `apply` runs on the whole batch.

    A solve succeeds below `atol + rtol ||rhs||` or at the rounding of `||x||`; otherwise `I - J` is
    singular to the dtype (`BREAKDOWN`). `error` is the estimate `||(I - J)^{-1} residual||`.

    **Raises:** `MemoryError` where not one matrix fits.
    """

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, 1)

    def solve(
        self,
        apply: LinearMap,
        rhs: PyTree[Array],
        batch_ndim: int,
        guess: PyTree[Array] | None = None,
        at: LinearizedAffine | None = None,
    ) -> Equilibrium:
        """By factoring; a guess is of no use. One step, or none for a zero right-hand side."""
        system = System.of(apply, rhs, batch_ndim)
        dim = system.rhs.shape[-1]
        found, error = _solve_in_tiles(system, _tile(dim, system.rhs.dtype))
        x = jnp.where((system.scale == 0)[..., None], 0, found)
        residual = system.norm(system.residual(x))
        floor = at_floor(residual, system.scale, system.norm(x))
        status = jnp.where(floor, Status.STALLED, Status.BREAKDOWN)
        status = jnp.where(residual <= system.threshold(self.rtol, self.atol), Status.CONVERGED, status)
        # A singular matrix gives an infinite solution; an infinite right-hand side is another matter.
        status = jnp.where(jnp.isfinite(system.scale), status, Status.NONFINITE).astype(jnp.int32)
        steps = jnp.where(system.scale == 0, 0, 1).astype(jnp.int32)
        return system.equilibrium(x, residual, error, steps, status)


def _tile(dim: int, dtype: jnp.dtype) -> int:
    """How many problems may be factored at once."""
    each = MATRICES * dim * dim * jnp.dtype(dtype).itemsize
    require_memory(each, f"LU: factoring one {dim} x {dim} matrix", "use GMRES() or Neumann()")
    return memory_limit() // each


def _solve_in_tiles(system: System, tile: int) -> tuple[Float[Array, "*batch dim"], Float[Array, "*batch"]]:
    """Solutions and error estimates, `tile` problems at a time."""
    *batch, dim = system.rhs.shape
    rhs = system.rhs.reshape(-1, dim)
    count = rhs.shape[0]
    tile = min(tile, count)

    def some(start: Array) -> tuple[Array, Array]:
        rows = lax.dynamic_slice_in_dim(rhs, start, tile)
        return _solve_dense(_matrices(system, start, tile), rows)

    if tile == count:
        x, error = some(jnp.int32(0))
        return x.reshape(*batch, dim), error.reshape(batch)
    # The last tile reaches back over problems that are solved already: equal results, written twice.
    starts = jnp.minimum(jnp.arange(0, count, tile), count - tile)
    x, error = lax.map(some, starts)
    where = (starts[:, None] + jnp.arange(tile)[None, :]).reshape(-1)
    x = jnp.zeros_like(rhs).at[where].set(x.reshape(-1, dim))
    error = jnp.zeros(count, rhs.dtype).at[where].set(error.reshape(-1))
    return x.reshape(*batch, dim), error.reshape(batch)


def _matrices(system: System, start: Array, tile: int) -> Float[Array, "tile dim dim"]:
    """`I - J` of the problems from `start` on: its columns are what it makes of the unit vectors."""
    *batch, dim = system.rhs.shape
    count = system.rhs.size // dim

    def column(unit: Float[Array, " dim"]) -> Float[Array, "tile dim"]:
        columns = system.matrix(jnp.broadcast_to(unit, (*batch, dim))).reshape(-1, dim)
        return lax.dynamic_slice_in_dim(columns, start, tile)

    # So many unit vectors at once as keep the columns of the whole batch no larger than the tile's matrices.
    together = max(1, dim * tile // count)
    units = jnp.eye(dim, dtype=system.rhs.dtype)
    columns = jax.vmap(column)(units) if together >= dim else lax.map(column, units, batch_size=together)
    return columns.transpose(1, 2, 0)


def _solve_dense(
    matrices: Float[Array, "tile dim dim"], rhs: Float[Array, "tile dim"]
) -> tuple[Float[Array, "tile dim"], Float[Array, " tile"]]:
    """The refined solution, and the size of the correction that is left."""
    factors = lu_factor(matrices)

    def correction(x: Float[Array, "tile dim"]) -> Float[Array, "tile dim"]:
        return lu_solve(factors, (rhs - (matrices @ x[..., None])[..., 0])[..., None])[..., 0]

    x = correction(jnp.zeros_like(rhs))
    x = x + correction(x)
    return x, length(correction(x))
