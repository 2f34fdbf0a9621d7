"""How a quantity goes with the width: powers of m with confidence intervals over seeds.

The exponent is the slope of the per-width means of `log(quantity)` against `log m`, each width counting
alike. Its variance is that of these means, each estimated from its own seeds, so that no width is taken to
scatter as another does; the interval is that of the t-distribution with Satterthwaite's degrees of
freedom. It says what the seeds leave open, not whether a power law holds: that is `p_value`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

LEVEL = 0.95
"""Of all confidence intervals."""

LEAST = 3
"""Widths to which a power is fitted."""

Draws = Float[np.ndarray, "_"]


class Interval(NamedTuple):
    """An estimate, its standard error and the ends of its 95% confidence interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Exponent:
    """The power p of `quantity ~ m^p` over `widths`, and `amplitude`, its geometric mean at their middle.

    `p_value`: how often chance alone bends a power law as much, by Johansen's test; NaN where the values of a
    width do not scatter.
    """

    widths: tuple[int, ...]
    estimate: Interval
    amplitude: float
    p_value: float

    @property
    def middle(self) -> float:
        """The geometric mean of the widths."""
        return float(np.exp(np.mean(np.log(self.widths))))

    def at(self, widths: Float[np.ndarray, " w"]) -> Float[np.ndarray, " w"]:
        """The fitted law."""
        return self.amplitude * (widths / self.middle) ** self.estimate.value


def mean_interval(values: Draws) -> Interval:
    """The mean over seeds, with the interval of the t-distribution; NaN of fewer than two seeds."""
    if values.size < 2:
        return Interval(np.nan, np.nan, np.nan, np.nan)
    stderr = float(np.std(values, ddof=1) / values.size**0.5)
    return _interval(float(np.mean(values)), stderr, values.size - 1)


def geometric_interval(values: Draws) -> Interval:
    """The geometric mean of positive values, its standard error left out; NaN as in `mean_interval`."""
    found = mean_interval(np.log(values[values > 0]))
    return Interval(float(np.exp(found.value)), np.nan, float(np.exp(found.low)), float(np.exp(found.high)))


def fit_exponent(widths: Sequence[int], draws: Sequence[Draws]) -> Exponent | None:
    """The exponent from the seeds' values at each width, None where there is none to be had.

    Values that are not positive and finite are left out, and widths of which fewer than two are left. It
    takes three widths: any two lie on a power law.
    """
    pairs = [(m, np.log(v[np.isfinite(v) & (v > 0)])) for m, v in zip(widths, draws, strict=True)]
    kept = {m: logs for m, logs in pairs if logs.size >= 2}
    return _fit(kept) if len(kept) >= LEAST else None


def _fit(kept: dict[int, Draws]) -> Exponent:
    x = np.log(np.array(list(kept), float))
    x -= x.mean()
    slopes = x / np.sum(x**2)  # the slope as a sum over the means
    means = np.array([logs.mean() for logs in kept.values()])
    counts = np.array([logs.size for logs in kept.values()])
    scatter = np.array([logs.var(ddof=1) for logs in kept.values()])
    parts = slopes**2 * scatter / counts
    variance, slope = parts.sum(), float(slopes @ means)
    freedom = variance**2 / np.sum(parts**2 / (counts - 1)) if variance > 0 else counts.sum() - len(kept)
    return Exponent(
        widths=tuple(kept),
        estimate=_interval(slope, float(variance**0.5), float(freedom)),
        amplitude=float(np.exp(means.mean())),
        p_value=_p_value(x, means, scatter / counts, counts),
    )


def _interval(value: float, stderr: float, freedom: float | int) -> Interval:
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * stderr
    return Interval(value, stderr, value - reach, value + reach)


def _p_value(
    x: Float[np.ndarray, " w"],
    means: Float[np.ndarray, " w"],
    variances: Float[np.ndarray, " w"],
    counts: Int[np.ndarray, " w"],
) -> float:
    """That the means lie on a line of x, each with a variance of its own (Johansen, Biometrika 1980)."""
    freedom = x.size - 2
    if not (variances > 0).all():
        return np.nan
    C = np.linalg.qr(np.stack([np.ones_like(x), x], axis=1), mode="complete")[0][:, 2:].T  # what no line has
    within = C.T @ np.linalg.solve((C * variances) @ C.T, C)
    A = np.sum((variances * np.diag(within)) ** 2 / (counts - 1))
    scale = freedom + 2 * A - 6 * A / (freedom + 2)
    return float(stats.f.sf(means @ within @ means / scale, freedom, freedom * (freedom + 2) / (3 * A)))
