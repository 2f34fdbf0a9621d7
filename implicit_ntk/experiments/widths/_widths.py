"""Kernels of finite networks over widths and seeds, beside their limits.

The architectures whose limit is known; the bias near the edge in gamma0; diagonal and half-normal layers;
and monotone networks, whose limit is not known and is extrapolated.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal
from zlib import crc32

import jax
import numpy as np
from jaxtyping import Array, Key

from implicit_ntk._checks import check_choice, check_positive
from implicit_ntk.experiments.widths._draws import draw_blocks
from implicit_ntk.experiments.widths._initial import Concentration, distances, printed_contraction
from implicit_ntk.experiments.widths._laws import Law, Measured, power_law
from implicit_ntk.experiments.widths._moments import Architecture, Moments, moments
from implicit_ntk.experiments.widths._monotone import Monotone, collect, draw_monotone
from implicit_ntk.experiments.widths._rows import ROWS, Row, RowName

Progress = Callable[[float, str], None]
"""Called with the share of the whole work that is done, and what is being done."""
EDGE: RowName = "gg22-identity"


@dataclasses.dataclass(frozen=True)
class WidthsConfig:
    """Draw kernels of finite networks at several widths and set them beside their infinite-width limits."""

    rows: tuple[RowName, ...] = tuple(ROWS)
    """Architectures whose limit is known."""
    widths: tuple[int, ...] = (62, 125, 250, 500, 1000)
    """Widths m, at least two, from narrow to wide."""
    seeds: int = 100
    """Networks at the largest width; narrower ones, which cost less, are drawn more often."""
    gamma0: float = 0.4
    """Scale of the implicit layer, gamma = gamma0 / sqrt(m)."""
    angles: tuple[float, ...] = (0.0, 20.0, 75.0, 150.0)
    """Directions of the unit inputs, in degrees: a kernel of theirs has an entry for each pair."""
    edge_gammas: tuple[float, ...] = (0.8, 1.2)
    """Scales nearer to the edge sqrt(2) at which the bias is followed over the widths."""
    samples: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Numbers of inputs over which GG22's concentration of diagonal layers is followed."""
    monotonicities: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Monotonicities mu of the monotone networks."""
    monotone_seeds: int = 32
    """Monotone networks at the largest width."""
    seed: int = 0
    """Of the random numbers."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the networks: the statistics are float64."""

    def __post_init__(self) -> None:
        for name in ("seeds", "monotone_seeds"):
            check_positive(getattr(self, name), name)
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2 for a standard error, got 1")
        for name in self.rows:
            check_choice(name, ROWS, "rows")
        for name in ("widths", "samples"):
            for value in getattr(self, name):
                check_positive(value, name)
        if len(self.widths) < 2 or list(self.widths) != sorted(set(self.widths)):
            raise ValueError(f"widths must be two or more, from narrow to wide, got {self.widths}")
        if not self.angles:
            raise ValueError("angles is empty; name at least one direction")
        for name in ("edge_gammas", "monotonicities"):
            if not all(0 < value < math.inf for value in getattr(self, name)):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 < self.gamma0 < 1:
            raise ValueError(f"gamma0 must lie between 0 and 1, for half-normal layers, got {self.gamma0}")

    def draws(self, width: int, growth: int, seeds: int) -> int:
        """Networks at a width: `seeds (m_max / m)^growth`."""
        return round(seeds * (self.widths[-1] / width) ** growth)


@dataclasses.dataclass(frozen=True, eq=False)
class WidthsResult:
    """The numbers: `architectures` and `edge` over widths, and what else was asked for."""

    config: WidthsConfig
    architectures: dict[str, Architecture]
    edge: tuple[Architecture, ...]
    concentration: Concentration | None
    printed: tuple[Measured, ...]
    """`gamma ||A||` of half-normal layers as GG22 scales them, by width; empty without these."""
    monotone: Monotone | None

    @property
    def printed_law(self) -> Law:
        """The power of m that `gamma ||A||` goes with there."""
        values, stderr = (np.array(column) for column in zip(*self.printed, strict=True))
        return power_law(np.array(self.config.widths, float), values, stderr)

    @property
    def vanishing(self) -> Law:
        """The power of m that the half-normal `H`, in the direction of its limit, goes with."""
        row = self.architectures["half-normal"]
        found = [((1 + m.bias.value) / m.width, m.bias.stderr / m.width) for m in row.moments]
        return power_law(row.widths, *(np.array(column) for column in zip(*found, strict=True)))


def run_widths(config: WidthsConfig, progress: Progress = lambda share, what: None) -> WidthsResult:
    """Run the experiment. float64 needs `jax_enable_x64`.

    Raises `ValueError` for bad settings, and where fewer than two networks of a width were solved.
    """
    if jax.dtypes.canonicalize_dtype(config.precision) != np.dtype(config.precision):
        raise ValueError('precision="float64" needs jax.config.update("jax_enable_x64", True) first')
    told = _Told(config, progress)
    known = {name: _architecture(config, ROWS[name], config.gamma0, told) for name in config.rows}
    near = dataclasses.replace(ROWS[EDGE], growth=1)  # a draw costs more the nearer
    edge = tuple(_architecture(config, near, gamma0, told) for gamma0 in config.edge_gammas)
    return WidthsResult(
        config,
        known,
        edge,
        _concentration(config, told) if config.samples else None,
        _printed(config) if "half-normal" in config.rows else (),
        _monotone(config, told) if config.monotonicities else None,
    )


class _Told:
    """Tells of the work by the programs that have run."""

    def __init__(self, config: WidthsConfig, progress: Progress) -> None:
        parts = len(config.rows) + len(config.edge_gammas) + bool(config.samples) + len(config.monotonicities)
        self.total, self.done, self.progress = parts * len(config.widths), 0, progress

    def __call__(self, what: str, width: int) -> None:
        self.progress(self.done / self.total, f"{what}, m = {width}")
        self.done += 1


def _architecture(config: WidthsConfig, row: Row, gamma0: float, told: _Told) -> Architecture:
    angles = np.deg2rad(np.array(config.angles))
    X = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(config.precision)
    limit = np.asarray(row.limit(row.make, X, gamma0), np.float64)
    over = tuple(_at_width(config, row, gamma0, X, limit, width, told) for width in config.widths)
    return Architecture(row.title, gamma0, limit, over)


def _at_width(
    config: WidthsConfig, row: Row, gamma0: float, X: np.ndarray, limit: np.ndarray, width: int, told: _Told
) -> Moments:
    told(row.title, width)
    draws = config.draws(width, row.growth, config.seeds)
    key = _key(config, f"{row.title} {gamma0}", width)
    blocks = draw_blocks(row.make, X, width, draws, key, gamma0)
    return moments(np.sum(list(blocks.values()), axis=0) * float(width) ** row.power, limit, width)


def _printed(config: WidthsConfig) -> tuple[Measured, ...]:
    return tuple(printed_contraction(m, config.gamma0, _key(config, "norm", m)) for m in config.widths)


def _concentration(config: WidthsConfig, told: _Told) -> Concentration:
    found = []
    for width in config.widths:
        told("concentration", width)
        draws, key = config.draws(width, 1, config.seeds), _key(config, "concentration", width)
        found.append(distances(width, draws, config.samples, config.gamma0, key, config.precision))
    return Concentration(config.widths, config.samples, tuple(found))


def _monotone(config: WidthsConfig, told: _Told) -> Monotone:
    """The same weights for every monotonicity."""
    found: list[list] = [[] for _ in config.monotonicities]
    for width in config.widths:
        draws, key = config.draws(width, 1, config.monotone_seeds), _key(config, "monotone", width)
        for line, mu in zip(found, config.monotonicities, strict=True):
            told(f"monotone, mu = {mu:g}", width)
            line.append(draw_monotone(width, mu, draws, key, config.precision))
    return collect(config.monotonicities, config.widths, found)


def _key(config: WidthsConfig, what: str, width: int) -> Key[Array, ""]:
    """A key of its own for each part, whatever other parts are asked for."""
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.key(config.seed), crc32(what.encode()) >> 1), width
    )
