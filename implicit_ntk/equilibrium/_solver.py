"""What a fixed-point solver is: `init` a state, `step` from an evaluation to the next guess.

The driver (`_driver.py`) owns the loop, the stopping test and the bookkeeping; a solver only says
where to look next, and may know a cheaper way to evaluate the map.
"""

import abc
import numbers
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree

from implicit_ntk._checks import check_positive
from implicit_ntk._tracing import is_traced
from implicit_ntk.equilibrium._affine import AffineMap
from implicit_ntk.equilibrium._stopping import Tolerance


class Measure(NamedTuple):
    """How well each problem is solved: `||f(z) - z||`, what it is compared with, and whether it will do."""

    residual: Float[Array, "..."]
    scale: Float[Array, "..."]
    solved: Bool[Array, "..."]


Measuring = Callable[..., Measure]
"""From `f(z)`, and how far its norm may be off (nothing if not said), to the measure of `z`."""


class Map(eqx.Module):
    """The map `z -> f(z)` of a batch of problems, as a solver sees it.

    `batch_ndim` leading axes of every leaf index independent problems; `affine` is the form of the map
    where it is `sigma(scale z weight + offset)`, which some solvers need, and None elsewhere.
    """

    function: Callable[[PyTree[Array]], PyTree[Array]]
    batch_ndim: int = eqx.field(static=True)
    affine: AffineMap | None = None

    def __call__(self, z: PyTree[Array]) -> PyTree[Array]:
        """`f(z)`."""
        return self.function(z)


class AbstractSolver(eqx.Module):
    """A fixed-point iteration for `z = f(z)`.

    `rtol` is relative to `||f(z)||` (None: 1e-6 in float32, 1e-12 in float64), `atol` absolute,
    `max_steps` the most evaluations of `f`. Solvers with `needs_affine` take maps that have that form,
    with `needs_projection` those alone whose elementwise part is a projection; those with `keeps_best`,
    whose residual may rise, hand out the best iterate when they fail. An evaluation that is not finite
    ends a problem, whatever the solver.
    """

    needs_affine: ClassVar[bool] = False
    needs_projection: ClassVar[bool] = False
    keeps_best: ClassVar[bool] = False

    rtol: eqx.AbstractVar[ArrayLike | None]
    atol: eqx.AbstractVar[ArrayLike]
    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def init(self, f: Map, z: PyTree[Array]) -> PyTree:
        """The solver's own state before the first evaluation."""

    def prepare(self, affine: AffineMap, other: "AbstractSolver | None" = None) -> "AbstractSolver":
        """The solver with whatever it factors once for these weights, or takes from `other`."""
        return self

    def transpose(self) -> "AbstractSolver":
        """The solver for the transposed weights, with what was factored for the others."""
        return self

    def evaluate(
        self, f: Map, z: PyTree[Array], state: PyTree, measure: Measuring
    ) -> tuple[PyTree[Array], Measure, PyTree]:
        """`f(z)`, its measure and the state; for solvers that know more about `z` than its value."""
        fz = f(z)
        return fz, measure(fz), state

    @abc.abstractmethod
    def step(
        self, f: Map, z: PyTree[Array], fz: PyTree[Array], state: PyTree
    ) -> tuple[PyTree[Array], PyTree]:
        """The next guess, given that `f(z) = fz`, and the next state."""

    def freeze(self, running: Bool[Array, "..."], new: PyTree, old: PyTree) -> PyTree:
        """The next state: `new`, or where a problem is done and must not move, that of its iterate, `old`."""
        return new

    @abc.abstractmethod
    def error(
        self, residual: Float[Array, "..."], rate: Float[Array, "..."], state: PyTree
    ) -> Float[Array, "..."]:
        """Estimate of `||z - z*||` from the residual, the rate at which it falls, and the last state."""

    @property
    def tolerance(self) -> Tolerance:
        """The stopping test of this solver."""
        return Tolerance(self.rtol, self.atol)


def check_form(solver: AbstractSolver, affine: AffineMap | None) -> None:
    """Raise `ValueError` where a solver needs a form that the map has not."""
    name = type(solver).__name__
    if solver.needs_affine and affine is None:
        raise ValueError(
            f"solver: {name} needs a cell of the form sigma(z W + offset), which this one has not; use "
            "Anderson(), Newton() or Picard()"
        )
    if solver.needs_projection and affine is not None and not affine.projection:
        raise ValueError(
            f"solver: {name} needs a cell that is a projection (relu, identity) of an affine map; use "
            "Chord(), Anderson() or Newton()"
        )


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
