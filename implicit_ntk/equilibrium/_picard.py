"""Picard iteration: apply the map until it no longer moves."""

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from implicit_ntk.equilibrium._solver import AbstractSolver, Map, check_tolerances


class Picard(AbstractSolver):
    """`z <- (1 - damping) z + damping f(z)`.

    Converges where the (damped) map contracts at the equilibrium, at the rate of its spectral
    radius there. For Gaussian weights no Krylov acceleration needs fewer products.

    **Arguments:** `rtol`, `atol`, `max_steps` as in every solver; `damping` in (0, 1], below one for
    maps whose Jacobian has eigenvalues left of -1.
    """

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000
    damping: float | int = 1.0

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)
        if not isinstance(self.damping, float | int) or not 0 < self.damping <= 1:
            raise ValueError(f"damping must lie in (0, 1], got {self.damping!r}; 1 is no damping")

    def init(self, f: Map, z: PyTree[Array]) -> None:
        """Picard remembers nothing."""
        return None

    def step(self, f: Map, z: PyTree[Array], fz: PyTree[Array], state: None) -> tuple[PyTree[Array], None]:
        """Move the share `damping` of the way to `f(z)`."""
        if self.damping == 1:
            return fz, None
        return jax.tree.map(lambda a, b: a + self.damping * (b - a), z, fz), None

    def error(
        self, residual: Float[Array, "..."], rate: Float[Array, "..."], state: PyTree
    ) -> Float[Array, "..."]:
        """`||z - z*|| ~ damping residual / (1 - rate)`, the sum of the steps still to come."""
        return self.damping * residual / (1 - rate)
