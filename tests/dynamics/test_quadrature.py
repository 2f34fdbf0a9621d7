"""Nodes in time: every exponential is integrated, however stiff the sum of them."""

import itertools
import math

import numpy as np
import pytest

from implicit_ntk.dynamics.along._quadrature import nodes_of, panels

FIRST = 0.1


@pytest.mark.parametrize(("density", "error"), [(2, 1e-3), (4, 1e-6), (8, 1e-12)])
@pytest.mark.parametrize("end", [0.05, 1.0, 3e4])
def test_stiff_exponentials(density: int, error: float, end: float) -> None:
    """`int_0^end lam e^{-lam t} dt`, rates over seven decades by one set of nodes."""
    rates = np.logspace(-6, 0, 25)
    nodes = [n for low, high in panels(0.0, end, FIRST) for n in nodes_of(low, high, FIRST, density)]
    times, weights = np.array(nodes).T
    found = (np.exp(-np.outer(rates, times)) * rates[:, None]) @ weights
    np.testing.assert_allclose(found, -np.expm1(-rates * end), atol=error)
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("start", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("end", [0.0, 0.07, 0.5, 40.0])
def test_panels_follow_each_other(start: float, end: float) -> None:
    """From the start to the end without a gap, none of them empty, and the rest no longer than a factor e."""
    found = list(panels(start, end, FIRST))
    if end <= start:
        assert found == []
        return
    edges = [found[0][0], *(high for _, high in found)]
    assert [low for low, _ in found] == pytest.approx(edges[:-1])
    assert (edges[0], edges[-1]) == (start, end)
    assert (np.diff(edges) > 0).all()
    assert all(high / low <= math.e * (1 + 1e-12) for low, high in found if low >= FIRST)


def test_panels_without_end() -> None:
    lows, highs = zip(*itertools.islice(panels(0.5, math.inf, FIRST), 4), strict=True)
    np.testing.assert_allclose(lows, 0.5 * math.e ** np.arange(4))
    np.testing.assert_allclose(highs, 0.5 * math.e ** np.arange(1, 5))


def test_a_short_panel_takes_few_nodes() -> None:
    assert len(nodes_of(1.0, 1.05, FIRST, 8)) == 2
    assert len(nodes_of(1.0, math.e, FIRST, 8)) == 8
