"""A batch of linear equations `x = apply(x) + rhs` as vectors, in units of each right-hand side."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk.equilibrium._batch import magnitudes, real_dtype
from implicit_ntk.equilibrium._driver import Equilibrium
from implicit_ntk.equilibrium._flat import FlatView, length
from implicit_ntk.equilibrium._rule import LinearMap
from implicit_ntk.equilibrium._stopping import Tolerance


class System(eqx.Module):
    """The equations `(I - J) x = rhs`; `rhs` is divided by `unit`, a power of two for each problem."""

    apply: LinearMap
    view: FlatView
    rhs: Float[Array, "*batch dim"]
    unit: Float[Array, "*batch"]
    scale: Float[Array, "*batch"]

    @classmethod
    def of(cls, apply: LinearMap, rhs: PyTree[Array], batch_ndim: int) -> "System":
        """The equations of this map and these right-hand sides."""
        view = FlatView.of(rhs, batch_ndim)
        unit = magnitudes(rhs, batch_ndim)
        rows = view.flatten(rhs) / unit.astype(jnp.result_type(*view.dtypes))[..., None]
        return cls(apply, view, rows, unit, length(rows).astype(real_dtype(rhs)))

    def matrix(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """`(I - J) x`: one product."""
        return x - self.view.flatten(self.apply(self.view.restore(x)))

    def residual(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        """`rhs - (I - J) x`."""
        return self.rhs - self.matrix(x)

    def norm(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        """Each problem's norm, in the precision of the least precise leaf."""
        return length(x).astype(self.scale.dtype)

    def threshold(self, rtol: ArrayLike | None, atol: ArrayLike) -> Float[Array, "*batch"]:
        """The largest residual that counts as converged."""
        return Tolerance(rtol, atol / self.unit).threshold(self.scale)

    def start(
        self, guess: PyTree[Array] | None
    ) -> tuple[Float[Array, "*batch dim"], Float[Array, "*batch dim"], Int[Array, "*batch"]]:
        """The first iterate, its residual, and what that has cost; zero where the right-hand side is."""
        if guess is None:
            return jnp.zeros_like(self.rhs), self.rhs, jnp.zeros(self.scale.shape, jnp.int32)
        x = self.view.flatten(guess) / self.unit.astype(self.rhs.dtype)[..., None]
        trivial = self.scale == 0
        x = jnp.where(trivial[..., None], 0, x)
        return x, self.residual(x), jnp.where(trivial, 0, 1).astype(jnp.int32)

    def equilibrium(
        self,
        x: Float[Array, "*batch dim"],
        residual: Float[Array, "*batch"],
        error: Float[Array, "*batch"],
        steps: Int[Array, "*batch"],
        status: Int[Array, "*batch"],
    ) -> Equilibrium:
        """The solution in the units and the form that it is wanted in; a residual of zero is no error."""
        z = self.view.restore(x * self.unit.astype(x.dtype)[..., None])
        error = jnp.where(residual == 0, 0, error).astype(self.scale.dtype)
        return Equilibrium(z, residual * self.unit, error * self.unit, steps, status)
