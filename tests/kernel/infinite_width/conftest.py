"""What the tests of the limits share."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import ndtr

NODES, WEIGHTS = np.polynomial.legendre.leggauss(100)
NODES, WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2


def density(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def both_below(a: np.ndarray, b: np.ndarray, r: float) -> np.ndarray:
    """`Phi2(a, b; r)` by Plackett's integral over the angle up to `arcsin r`."""
    t = NODES * np.arcsin(r)
    square = a[..., None] ** 2 + b[..., None] ** 2 - 2 * a[..., None] * b[..., None] * np.sin(t)
    integral = (WEIGHTS * np.exp(-square / (2 * np.cos(t) ** 2))).sum(-1)
    return ndtr(a) * ndtr(b) + np.arcsin(r) / (2 * np.pi) * integral


def shifted_relu(a: np.ndarray, b: np.ndarray, s: float, psi: float) -> tuple[np.ndarray, np.ndarray]:
    """`E[relu(h + a) relu(h' + b)]` and `P(h + a > 0, h' + b > 0)`."""
    al, be, r, w = a / np.sqrt(s), b / np.sqrt(s), np.cos(psi), np.sin(psi)
    P = both_below(al, be, r)
    joint = np.exp(-(al**2 + be**2 - 2 * r * al * be) / (2 * w**2)) / (2 * np.pi * w)
    edges = al * density(be) * ndtr((al - r * be) / w) + be * density(al) * ndtr((be - r * al) / w)
    return s * ((al * be + r) * P + edges + w**2 * joint), P


def wedges(theta: float, psi: float, s: float) -> tuple[float, float, float]:
    """`E[relu(u) relu(u')]`, `P(u, u' > 0)` and `P(u, u', g, g' > 0)`, each sign pattern of (g, g') a wedge.

    In the plane `g = R cos t`, `g' = R cos(t - theta)`.
    """
    half = np.pi / 2
    radius = 10 * NODES
    K, S, T = 0.0, 0.0, 0.0
    for signs, low, high in (
        ("++", theta - half, half),
        ("-+", half, half + theta),
        ("+-", -half, theta - half),
        ("--", half + theta, half + np.pi),
    ):
        t = low + (high - low) * NODES
        a = np.maximum(radius[:, None] * np.cos(t), 0) * (signs[0] == "+")
        b = np.maximum(radius[:, None] * np.cos(t - theta), 0) * (signs[1] == "+")
        weight = (10 * WEIGHTS * radius * np.exp(-(radius**2) / 2))[:, None] * WEIGHTS * (high - low)
        moment, P = shifted_relu(a, b, s, psi)
        K += (weight * moment).sum() / (2 * np.pi)
        S += (weight * P).sum() / (2 * np.pi)
        T += (weight * P).sum() / (2 * np.pi) * (signs == "++")
    return K, S, T


@pytest.fixture
def by_wedges() -> Callable:
    """`(theta, psi, s) -> (K, S, T)` of `u = h + relu(g)`, in NumPy."""
    return wedges


@pytest.fixture
def differences() -> Callable:
    """`(f, h=1e-4) ->` the derivative of f at zero by central differences of fourth order."""

    def slope(f: Callable, h: float = 1e-4) -> float:
        at = [float(f(k * h)) for k in (-2, -1, 1, 2)]
        return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)

    return slope
