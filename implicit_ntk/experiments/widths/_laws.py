"""How measured numbers go with the width: powers of m, and what is left as m grows."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import curve_fit
from scipy.stats import chi2

Values = Float[np.ndarray, " widths"]


class Measured(NamedTuple):
    """A number and its standard error."""

    value: float
    stderr: float


@dataclasses.dataclass(frozen=True)
class Law:
    """A law fitted to measured numbers; `p_value`: how often chance alone fits it as badly."""

    estimate: Measured
    p_value: float


def power_law(widths: Values, values: Values, stderr: Values) -> Law:
    """The exponent p of `values = c m^p`, by least squares weighted by the standard errors.

    It is sought between -4 and 2: a standard error of that order says that nothing is known of it.
    """
    middle = np.exp(np.mean(np.log(widths)))
    scale = np.abs(values).max()

    def law(m: Values, amplitude: float, exponent: float) -> Values:
        return amplitude * (m / middle) ** exponent

    best, covariance = curve_fit(
        law,
        widths,
        values / scale,
        (0.5, -0.5),
        stderr / scale,
        absolute_sigma=True,
        bounds=([-np.inf, -4.0], [np.inf, 2.0]),
    )
    misfit = (values / scale - law(widths, *best)) / (stderr / scale)
    return Law(Measured(float(best[1]), float(covariance[1, 1] ** 0.5)), _p_value(misfit, 2))


def to_infinity(widths: Values, values: Values, stderr: Values) -> Law:
    """`K` of `values = K + c/m`, by least squares weighted by the standard errors."""
    known = np.where(stderr > 0, stderr, 1.0)  # an entry that is the same in every draw
    line, covariance = np.polyfit(1 / widths, values, 1, w=1 / known, cov="unscaled")
    misfit = (values - np.polyval(line, 1 / widths)) / known
    return Law(Measured(float(line[1]), float(covariance[1, 1] ** 0.5)), _p_value(misfit, 2))


def inverse(widths: Values, values: Values, stderr: Values) -> Law:
    """`c` of `values = c / m`, by least squares weighted by the standard errors."""
    slope, weight = 1 / widths, 1 / stderr**2
    curvature = np.sum(weight * slope**2)
    c = np.sum(weight * slope * values) / curvature
    return Law(Measured(float(c), float(curvature**-0.5)), _p_value((values - c * slope) / stderr, 1))


def _p_value(misfit: Values, parameters: int) -> float:
    """One where nothing is left to contradict the law."""
    freedom = misfit.size - parameters
    return float(chi2.sf(np.sum(misfit**2), freedom)) if freedom else 1.0
