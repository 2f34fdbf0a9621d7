"""Forward-backward splitting, for monotone cells."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from implicit_ntk._tracing import is_traced
from implicit_ntk.equilibrium._solver import AbstractSolver, Map, Measure, Measuring, check_tolerances


class ForwardBackward(AbstractSolver):
    """`z <- sigma(z - alpha ((I - W) z - offset))` for the cell `sigma(z W + offset)`.

    With `I - W` strongly monotone, modulus `mu`, and `L = ||I - W||`, it contracts for
    `0 < alpha < 2 mu/L^2`, at the rate `sqrt(1 - 2 alpha mu + alpha^2 L^2)`, best at `mu/L^2` (N22,
    section 2.6, with the interval open); `alpha = 1` is Picard. `sigma` must be a projection.

    **Arguments:** `alpha`; for `MonotoneImplicit`, `net.monotonicity / net.lipschitz()**2`.
    """

    needs_affine = True
    needs_projection = True

    alpha: float | int | Float[Array, ""]
    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 2000

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        if not is_traced(self.alpha) and not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, got {self.alpha!r}; mu/L^2 is the best")

    def init(self, f: Map, z: Float[Array, "... m"]) -> Float[Array, "... m"]:
        """The pre-activation, which each evaluation leaves for the step that follows."""
        return jnp.zeros_like(z)

    def evaluate(
        self, f: Map, z: Float[Array, "... m"], state: Float[Array, "... m"], measure: Measuring
    ) -> tuple[Float[Array, "... m"], Measure, Float[Array, "... m"]]:
        """`f(z)`, and the pre-activation that it came from."""
        assert f.affine is not None, "checked at the door: the solver says needs_affine"
        product = f.affine.product(z)
        fz = f.affine.apply(product)
        return fz, measure(fz), product + f.affine.offset

    def step(
        self, f: Map, z: Float[Array, "... m"], fz: Float[Array, "... m"], state: Float[Array, "... m"]
    ) -> tuple[Float[Array, "... m"], Float[Array, "... m"]]:
        """The share `alpha` of the way to the pre-activation, then `sigma`."""
        assert f.affine is not None
        alpha = jnp.asarray(self.alpha, z.dtype)
        return f.affine.activation(z + alpha * (state - z)), state

    def error(
        self, residual: Float[Array, "..."], rate: Float[Array, "..."], state: PyTree
    ) -> Float[Array, "..."]:
        """`||z - z*|| ~ alpha residual / (1 - rate)`, the sum of the steps still to come."""
        return self.alpha * residual / (1 - rate)
