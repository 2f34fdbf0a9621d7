"""What a fixed-point solver is: `init` a state, `step` from an evaluation to the next guess.

The driver (`_driver.py`) owns the loop, the stopping test and the bookkeeping; a solver only says
where to look next.
"""

import abc
import numbers
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import check_positive
from implicit_ntk._tracing import is_traced
from implicit_ntk.equilibrium._stopping import Tolerance

Map = Callable[[PyTree[Array]], PyTree[Array]]


class AbstractSolver(eqx.Module):
    """A fixed-point iteration for `z = f(z)`.

    `rtol` is relative to `||f(z)||` (None: 1e-6 in float32, 1e-12 in float64), `atol` absolute,
    `max_steps` the most evaluations of `f`.
    """

    rtol: eqx.AbstractVar[ArrayLike | None]
    atol: eqx.AbstractVar[ArrayLike]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, f: Map, z: PyTree[Array], batch_ndim: int) -> PyTree:
        """The solver's own state before the first evaluation."""

    @abc.abstractmethod
    def step(
        self, f: Map, z: PyTree[Array], fz: PyTree[Array], state: PyTree
    ) -> tuple[PyTree[Array], PyTree]:
        """The next guess, given that `f(z) = fz`, and the next state."""

    @abc.abstractmethod
    def error(self, residual: Float[Array, "..."], rate: Float[Array, "..."]) -> Float[Array, "..."]:
        """Estimate of `||z - z*||` from the residual and the observed rate at which it falls."""

    @property
    def tolerance(self) -> Tolerance:
        """The stopping test of this solver."""
        return Tolerance(self.rtol, self.atol)


def check_tolerances(rtol: object, atol: object, max_steps: object) -> None:
    """Raise `ValueError` for a tolerance or a step count that makes no sense (traced ones pass)."""
    if rtol is not None and not _is_number(rtol, lambda rtol: (rtol >= 0) & (rtol < 1)):
        raise ValueError(f"rtol must lie in [0, 1), got {rtol!r}; pass None for the dtype's default")
    if not _is_number(atol, lambda atol: (atol >= 0) & (atol < float("inf"))):
        raise ValueError(f"atol must be finite and not negative, got {atol!r}; pass 0.0 for none")
    check_positive(max_steps, "max_steps")


def _is_number(value: object, holds: Callable) -> bool:
    """Is it a real number (or an array of them) for which the condition holds? Traced ones pass."""
    if is_traced(value):
        return True
    real = isinstance(value, numbers.Real | np.ndarray | jax.Array) and not isinstance(value, bool)
    return real and bool(np.all(holds(np.asarray(value))))
