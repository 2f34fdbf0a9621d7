"""Peaceman-Rachford splitting, for monotone cells."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from implicit_ntk.equilibrium._affine import AffineMap
from implicit_ntk.equilibrium._batch import select
from implicit_ntk.equilibrium._incremental import AbstractPreconditioned, Progress
from implicit_ntk.equilibrium._solver import check_tolerances

Extra = tuple[Float[Array, "m m"], Float[Array, "... m"], Bool[Array, ""]]


class PeacemanRachford(AbstractPreconditioned):
    """Splits `0 in (I - W) z - offset + N(z)`: the affine part by its resolvent, the rest by `sigma`.

        w = 2 z - v,    v <- 2 sigma(w) - w,    z <- (v + alpha offset) ((1 + alpha) I - alpha W)^{-1}

    Converges linearly for every `alpha > 0` where the symmetric part of `I - W` is positive definite,
    however large `||W||` (N22, section 2.6; Winston and Kolter 2020). One product an iteration, and one
    inverse for a solve and its adjoint. `sigma` must be a projection: relu or the identity.

    **Arguments:** `alpha`, best near `1/sqrt(mu L)`; `low_precision` and `inverse` as in `Chord`.
    """

    needs_projection = True

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000
    alpha: float | int = 0.6
    low_precision: bool = False
    inverse: Float[Array, "m m"] | None = None

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        if not isinstance(self.alpha, float | int) or not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, got {self.alpha!r}; one is a good start")

    @property
    def pencil(self) -> tuple[float, float]:
        """`K = (1 + alpha) I - alpha W`."""
        return 1.0 + self.alpha, float(self.alpha)

    def begin(self, affine: AffineMap, z: Float[Array, "... m"]) -> Extra:
        """The inverse, `v`, and whether that is known yet."""
        return self.inverse_for(affine), z, jnp.asarray(False)

    def increment(
        self, affine: AffineMap, z: Float[Array, "... m"], fz: Float[Array, "... m"], state: Progress
    ) -> tuple[Float[Array, "... m"], Float[Array, "... m"], Extra]:
        """Reflect through `sigma`; then solve for the resolvent, from where it is.

        It begins with the `v` whose resolvent is the guess, so that a good guess is not lost.
        """
        inverse, v, known = state.extra
        forced = self.alpha * (affine.offset + state.product)
        resolved = (1 + self.alpha) * z - forced
        w = 2 * z - jnp.where(known, v, resolved)
        v = 2 * affine.activation(w) - w
        return *self.preconditioned(v - resolved, inverse), (inverse, v, jnp.asarray(True))

    def freeze_extra(self, running: Bool[Array, "..."], new: Extra, old: Extra) -> Extra:
        """`v` is a row a problem."""
        return new[0], select(running, new[1], old[1]), new[2]
