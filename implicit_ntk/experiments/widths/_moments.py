"""Kernels of one width about their limit."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from implicit_ntk.experiments.widths._draws import require_solved
from implicit_ntk.experiments.widths._laws import Law, Measured, inverse, power_law, to_infinity

Entries = Float[np.ndarray, "n n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What `draws` kernels of one width, less those whose solve `failed`, say of their mean and spread.

    `fluctuation`: `(E ||H - E H||_F^2)^(1/2) / ||H_inf||_F`. `bias`: `<E H - H_inf, H_inf> / ||H_inf||_F^2`,
    with a sign, so that noise does not add up in it.
    """

    width: int
    draws: int
    failed: int
    mean: Entries
    stderr: Entries
    fluctuation: Measured
    bias: Measured


def moments(kernels: Float[np.ndarray, "seeds n n"], limit: Entries, width: int) -> Moments:
    """Of kernels of one width, those with NaN left out; raises as `require_solved`."""
    solved = kernels[np.isfinite(kernels).all((1, 2))]
    require_solved(len(solved), len(kernels), width)
    count, mean, square = len(solved), solved.mean(0), np.sum(limit**2)
    squares = np.sum((solved - mean) ** 2, (1, 2)) / square * count / (count - 1)
    fluctuation = squares.mean() ** 0.5
    return Moments(
        width=width,
        draws=len(kernels),
        failed=len(kernels) - count,
        mean=mean,
        stderr=solved.std(0, ddof=1) / count**0.5,
        fluctuation=Measured(float(fluctuation), float(_stderr(squares) / (2 * fluctuation))),
        bias=_measured(np.sum((solved - limit) * limit, (1, 2)) / square),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
    """One architecture over widths, beside its limit."""

    title: str
    gamma0: float
    limit: Entries
    moments: tuple[Moments, ...]

    @property
    def widths(self) -> Float[np.ndarray, " widths"]:
        """From narrow to wide."""
        return np.array([float(m.width) for m in self.moments])

    def law(self, name: str, widest: int = 0) -> Law:
        """The exponent in m of the `"fluctuation"` or the `"bias"`, over all widths or the so many widest."""
        return power_law(self.widths[-widest:], *(column[-widest:] for column in self._columns(name)))

    @property
    def bias_constant(self) -> Law:
        """The c of the law `c/m` of the bias, and how well it holds."""
        return inverse(self.widths, *self._columns("bias"))

    def _columns(self, name: str) -> Iterator[Float[np.ndarray, " widths"]]:
        return (np.array(column) for column in zip(*(getattr(m, name) for m in self.moments), strict=True))

    @property
    def z(self) -> Float[np.ndarray, " entries"]:
        """`(mean - limit) / stderr` of each entry on and above the diagonal, at the largest width."""
        last = self.moments[-1]
        return ((last.mean - self.limit) / last.stderr)[self._upper]

    @property
    def z_at_infinity(self) -> Float[np.ndarray, " entries"]:
        """As `z`, of the means taken to infinite width along `K + c/m`: the bias is no part of it."""
        means, errors = (np.stack([getattr(m, k)[self._upper] for m in self.moments], 1) for k in _FIELDS)
        laws = [to_infinity(self.widths, *pair).estimate for pair in zip(means, errors, strict=True)]
        limits = self.limit[self._upper]
        return np.array([(law.value - K) / law.stderr for law, K in zip(laws, limits, strict=True)])

    @property
    def _upper(self) -> tuple[np.ndarray, ...]:
        return np.triu_indices(len(self.limit))


_FIELDS = ("mean", "stderr")


def _measured(values: Float[np.ndarray, " seeds"]) -> Measured:
    return Measured(float(values.mean()), float(_stderr(values)))


def _stderr(values: Float[np.ndarray, " seeds"]) -> float:
    return float(values.std(ddof=1) / values.size**0.5)
