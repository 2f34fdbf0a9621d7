"""When a run is recorded: from the fastest mode's time to that of the slowest, and at infinity."""

import numpy as np
from jaxtyping import Float

BEGUN = 0.4
"""The time of the first record after zero, in units of 1/lambda_max."""

SETTLED = 16.0
"""The time of the last record before infinity, in units of 1/lambda_min: `e^-16` is left of that mode."""


def times_until(horizon: float, records: int) -> Float[np.ndarray, " T"]:
    """Zero, then geometric up to the horizon."""
    return np.concatenate([[0.0], np.geomspace(horizon / 1000, horizon, records - 1)])


def times_to_the_end(
    eigenvalues: Float[np.ndarray, " n"], resolution: float, records: int
) -> Float[np.ndarray, " T"]:
    """Zero, then geometric over all times of the modes, and infinity at the end.

    The eigenvalues ascend; one below the `resolution` counts as that.
    """
    first, last = BEGUN / float(eigenvalues[-1]), SETTLED / max(float(eigenvalues[0]), resolution)
    later = np.geomspace(_round_number(first), _round_number(last), records - 2)
    return np.concatenate([[0.0], later, [np.inf]])


def _round_number(value: float) -> float:
    """The next of 1, 2, 5, 10, ...: axes of one data set are alike, whatever the draw."""
    power = 10.0 ** np.floor(np.log10(value))
    return power * next(digit for digit in (1, 2, 5, 10) if digit * power >= value)
