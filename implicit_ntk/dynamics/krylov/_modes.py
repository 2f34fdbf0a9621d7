"""The modes of a step that a Krylov space knows: Ritz pairs, and until when they will do."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from implicit_ntk.dynamics._krylov_basis import Apply, KrylovSpace, RitzPairs, grown
from implicit_ntk.dynamics.exponential._modes import Modes, Scalar

SHARE = 0.1
"""Of a step's tolerance, and of its residual, that may leave the Krylov space."""

E_FOLDS = 40.0
"""The times looked at, on either side of `1/lambda_max`."""


class KrylovModes(Modes):
    """Ritz pairs of `H_0` in the Krylov space of `r_0`; empty places of the space are modes of zeros.

    - `leakage` (k,): coefficients of the rate, in `e^{-theta t}`, at which `r_lin` leaves the space, over
      `sqrt(N)`.
    - `tolerance`: how much of it may have left, a root mean square over the outputs; no more than a tenth
      of the residual may.
    """

    eigenvalues: Float[Array, " k"]
    eigenvectors: Float[Array, "N k"]
    coefficients: Float[Array, " k"]
    off_diagonal: None
    age: Int[Array, ""]
    leakage: Float[Array, " k"]
    tolerance: Scalar

    @classmethod
    def of(cls, pairs: RitzPairs, r: Float[Array, " N"], tolerance: Scalar) -> "KrylovModes":
        """Of a space that begins at the residual; a Ritz value that is negative by rounding is zero."""
        values, vectors, leakage = pairs
        scaled = leakage / r.size**0.5
        age = jnp.zeros((), jnp.int32)
        return cls(jnp.maximum(values, 0), vectors, vectors.T @ r, None, age, scaled, tolerance)

    @classmethod
    def reaching(
        cls, apply: Apply, r: Float[Array, " N"], size: int, tolerance: Scalar, way: Scalar
    ) -> "KrylovModes":
        """From as many products as a step of this way takes, or `size`."""

        def enough(space: KrylovSpace) -> Bool[Array, ""]:
            modes = cls.of(space.ritz(), r, tolerance)
            return (modes.displacement(modes.longest) >= way) | (modes.longest >= modes.end)

        return cls.of(grown(apply, r, size, enough).ritz(), r, tolerance)

    def unresolved(self, t: Scalar) -> Scalar:
        """The error of `r_lin(t)`, at most: what has left the space until then."""
        return jnp.abs(jnp.sum(self.leakage * self.integral(t)))

    @property
    def longest(self) -> Scalar:
        """The longest step: as long as what has left the space is within the tolerance."""
        residual = jnp.linalg.norm(self.coefficients) / self.eigenvectors.shape[0] ** 0.5
        allowed = jnp.minimum(self.tolerance, SHARE * residual)
        within = _last(lambda t: self.unresolved(t) <= allowed, 1 / self.fastest)
        return jnp.minimum(within, self.end)

    @property
    def resolved(self) -> Bool[Array, ""]:
        """Is the space all there is, its slowest mode more than rounding and the solves' tolerances?"""
        N, k = self.eigenvectors.shape
        return (jnp.min(self.eigenvalues) > self.resolution) & (k == N)


def _last(holds: Callable[[Scalar], Bool[Array, ""]], unit: Scalar) -> Scalar:
    """The last time, to rounding, of those until which the condition holds."""

    def halved(_: Int[Array, ""], bounds: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = bounds
        middle = (low + high) / 2
        held = holds(unit * jnp.exp(middle))
        return jnp.where(held, middle, low), jnp.where(held, high, middle)

    widest = jnp.full((), E_FOLDS, unit.dtype)
    low, _ = lax.fori_loop(0, 50, halved, (-widest, widest))
    return unit * jnp.exp(low)
