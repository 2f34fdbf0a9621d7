"""Nodes in time for integrals along a run, which resolve every mode however stiff.

What is integrated are sums of `e^{-lam t}` over rates that span decades, as functions of log t smooth at
every scale. So the first panel ends where the fastest mode has hardly moved, and from there on each is
longer than the last by a constant factor; within a panel the nodes are Gauss's, in log t.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

FIRST = 0.1
"""The end of the first panel, in units of `1/lambda_max`."""


DENSITY = 8
"""Nodes an e-fold of time: exponentials alone would do with four, rich runs change faster."""


class Node(NamedTuple):
    """A time, and its weight in the integral over its panel."""

    time: float
    weight: float


def panels(start: float, end: float, first: float) -> Iterator[tuple[float, float]]:
    """Consecutive panels from `start` to `end`, where that is infinite without an end.

    Up to `first` one, from there on each longer than the last by one factor, e at most.
    """
    if start < min(first, end):
        yield start, min(first, end)
    low = max(start, first)
    if low >= end:
        return
    count = math.inf if math.isinf(end) else math.ceil(math.log(end / low))
    factor = math.e if math.isinf(end) else (end / low) ** (1 / count)
    for index in itertools.count():
        if index >= count:
            return
        yield low * factor**index, end if index + 1 == count else low * factor ** (index + 1)


def nodes_of(low: float, high: float, first: float, density: int) -> list[Node]:
    """Gauss-Legendre nodes of one panel, `density` an e-fold of time and at least two.

    In log t, up to `first` in t, which takes `density` nodes in all.
    """
    if low < first:
        return _gauss(low, high, density)
    order = max(2, math.ceil(density * math.log(high / low) - 1e-9))
    in_log = _gauss(math.log(low), math.log(high), order)
    return [Node(math.exp(s), weight * math.exp(s)) for s, weight in in_log]


def _gauss(low: float, high: float, order: int) -> list[Node]:
    x, weights = np.polynomial.legendre.leggauss(order)
    half = (high - low) / 2
    return [Node(low + half * (1 + float(a)), half * float(b)) for a, b in zip(x, weights, strict=True)]
