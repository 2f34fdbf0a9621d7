"""The chord method: a Newton iteration that keeps one factored matrix."""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from implicit_ntk.equilibrium._affine import AffineMap
from implicit_ntk.equilibrium._incremental import AbstractPreconditioned, Progress
from implicit_ntk.equilibrium._solver import check_tolerances


class Chord(AbstractPreconditioned):
    """`z <- z + (f(z) - z) (I - activity W)^{-1}` for `f(z) = sigma(z W + offset)`.

    The Jacobian of a sample is `W diag(sigma')`; the chord takes the mean slope `activity` for all, and
    so the same inverse for all samples. Left over is the fluctuation of the slopes: for relu cells and
    Gaussian `A` the rate falls from `gamma0 sqrt(1/2)` to about `(gamma0/2) / sqrt(1 - gamma0^2/4)`, which
    pays near the edge. One product an iteration, like Picard, and one inverse.

    **Arguments:** `activity`, the mean slope (one half: relu); `low_precision`: steps in bfloat16, see
    `MixedPicard`; `inverse`, set by `prepare`: `Chord().prepare(net.affine(phi))` factors once for all
    solves to come.
    """

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000
    activity: float | int = 0.5
    low_precision: bool = False
    inverse: Float[Array, "m m"] | None = None

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        if not isinstance(self.activity, float | int) or not 0 < self.activity <= 1:
            raise ValueError(f"activity must lie in (0, 1], got {self.activity!r}; one half suits relu")

    @property
    def pencil(self) -> tuple[float, float]:
        """`K = I - activity W`."""
        return 1.0, float(self.activity)

    def begin(self, affine: AffineMap, z: Float[Array, "... m"]) -> Float[Array, "m m"]:
        """The inverse."""
        return self.inverse_for(affine)

    def increment(
        self, affine: AffineMap, z: Float[Array, "... m"], fz: Float[Array, "... m"], state: Progress
    ) -> tuple[Float[Array, "... m"], Float[Array, "... m"], Float[Array, "m m"]]:
        """The residual through the inverse."""
        return *self.preconditioned(fz - z, state.extra), state.extra
