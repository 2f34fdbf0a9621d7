"""What one run of a sweep leaves, and what is proven of it as the width grows."""

import dataclasses
import typing
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped


@dataclasses.dataclass(frozen=True)
class SweepRow:
    """One width, scale and seed; suprema are over the recorded times, the end is `end`.

    - `deviation`: `sup_t ||u - uhat||`; `unseen_deviation`: `sup_t` of the root mean square of `f - fhat`
      over unseen samples; `limit_deviation`: that at the end, `|f_inf - fhat_inf|`.
    - `drift_operator`, `drift_frobenius`: `||H(t) - H(0)||` at the end.
    - `distance`: `sup_t ||A(t) - A(0)||_F`; `distance_operator`: `||A(t) - A(0)||_2` at the end.
    - `lambda_min`, `lambda_max`, `contraction` (`gamma ||A||`): at t = 0, and `..._end` at the end.
    - `integrator_error`: the integrator's bound on its own error over the run, in the units of `deviation`;
      it is of first order, and the solution that is carried on is mostly far better.
    - `loss` (`||u - y||^2 / 2`), `test_error`: at the end, which is infinity where `lambda_min` is resolved.
    - `step_rtol`: the tolerance of the integrator's steps.
    - `solved`: did the run get to its end? If not, its numbers are NaN.
    """

    width: int
    gamma0: float
    seed: int
    step_rtol: float
    deviation: float
    unseen_deviation: float
    limit_deviation: float
    drift_operator: float
    drift_frobenius: float
    distance: float
    distance_operator: float
    lambda_min: float
    lambda_max: float
    contraction: float
    lambda_min_end: float
    lambda_max_end: float
    contraction_end: float
    loss: float
    test_error: float
    integrator_error: float
    end: float
    resolved: bool
    solved: bool
    steps: int
    forward_evaluations: int
    adjoint_evaluations: int


TYPES: dict[str, type] = typing.get_type_hints(SweepRow)


def as_array(rows: tuple[SweepRow, ...]) -> Shaped[np.ndarray, " runs"]:
    """The rows as a structured array: `as_array(rows)["deviation"]` is a column."""
    return np.array([dataclasses.astuple(row) for row in rows], dtype=list(TYPES.items()))


class Quantity(NamedTuple):
    """What is followed over the widths."""

    title: str
    symbol: str
    """As LaTeX."""
    bound: float | None = None
    """The power of m of a proven upper bound, where there is one."""


QUANTITIES: dict[str, Quantity] = {
    "deviation": Quantity("sup ‖u − û‖", r"\mathrm{sup}_t\,\|u-\hat u\|"),
    "unseen_deviation": Quantity("sup rms(f − f̂), unseen", r"\mathrm{sup}_t\,|f-\hat f|"),
    "limit_deviation": Quantity("rms(f∞ − f̂∞), unseen", r"|f_\infty-\hat f_\infty|", -0.25),
    "drift_operator": Quantity("‖H(T) − H(0)‖₂", r"\|H(T)-H(0)\|_2"),
    "drift_frobenius": Quantity("‖H(T) − H(0)‖_F", r"\|H(T)-H(0)\|_F"),
    "distance": Quantity("sup ‖A(t) − A(0)‖_F", r"\mathrm{sup}_t\,\|A(t)-A(0)\|_F"),
    "distance_operator": Quantity("‖A(T) − A(0)‖₂", r"\|A(T)-A(0)\|_2"),
}
"""The fields of a row of which exponents are fitted.

The bound of `|f_inf - fhat_inf|` is that of GG22; the others are measured, and held to nothing.
"""
