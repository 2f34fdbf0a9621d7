"""The kernel of monotone networks over widths, for which no limit is known (N22).

With `A`, `B` and `u` of entries like `1/sqrt(m)` and `U` like one, as `MonotoneImplicit.init` draws them,
a state has m entries like one and an adjoint state m like `1/sqrt(m)`. So `K_U` has a limit, and `K_A/m`,
`K_B/m`, `K_u/m` have: products of m times larger sums of squares of the state.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Key

from implicit_ntk.experiments.widths._draws import draw_blocks, require_solved
from implicit_ntk.experiments.widths._laws import Law, power_law, to_infinity
from implicit_ntk.networks import AbstractNetwork, MonotoneImplicit

POWERS = {"A": 1, "B": 1, "U": 0, "u": 1}
"""The power of m that a block grows with."""
Statistic = Callable[[Float[np.ndarray, "seeds angles"]], Float[np.ndarray, " angles"]]
CORNERS = 8
ANGLES = tuple(360 * k // CORNERS for k in range(CORNERS // 2 + 1))
"""Degrees between the two inputs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Monotone:
    """`mean[block]` and `stderr[block]` of `m^-power K_block` (monotonicity, width, angle), unit inputs."""

    monotonicities: tuple[float, ...]
    widths: tuple[int, ...]
    draws: tuple[int, ...]
    failed: int
    mean: dict[str, Float[np.ndarray, "mu widths angles"]]
    stderr: dict[str, Float[np.ndarray, "mu widths angles"]]

    def limit(self, block: str, mu: int, angle: int) -> Law:
        """The entry at infinite width, along `K + c/m`."""
        return to_infinity(self._widths, self.mean[block][mu, :, angle], self.stderr[block][mu, :, angle])

    def exponent(self, block: str, mu: int) -> Law:
        """The power of m that the diagonal entry of the block itself grows with."""
        scale = self._widths ** POWERS[block]
        return power_law(
            self._widths, scale * self.mean[block][mu, :, 0], scale * self.stderr[block][mu, :, 0]
        )

    @property
    def _widths(self) -> Float[np.ndarray, " widths"]:
        return np.array(self.widths, float)


def draw_monotone(
    width: int, mu: float, seeds: int, key: Key[Array, ""], dtype: str
) -> dict[str, Float[np.ndarray, "seeds angles"]]:
    """`m^-power K_block` by angle: inputs at the corners of a regular polygon, equal angles averaged."""
    corner = 2 * np.pi * np.arange(CORNERS) / CORNERS
    X = np.stack([np.cos(corner), np.sin(corner)], axis=1).astype(dtype)
    blocks = draw_blocks(_make, X, width, seeds, key, mu)
    steps = np.abs(np.subtract.outer(np.arange(CORNERS), np.arange(CORNERS)))
    steps = np.minimum(steps, CORNERS - steps)
    return {
        name: np.stack([H[:, steps == k].mean(1) for k in range(len(ANGLES))], 1) / width ** POWERS[name]
        for name, H in blocks.items()
    }


def collect(
    monotonicities: tuple[float, ...],
    widths: tuple[int, ...],
    draws: list[list[dict[str, Float[np.ndarray, "_ angles"]]]],
) -> Monotone:
    """Means over the draws that were solved, `draws[mu][width]`.

    Raises as `require_solved`.
    """
    kept = [[{k: v[np.isfinite(v).all(1)] for k, v in of.items()} for of in line] for line in draws]
    for of_all, of_kept in zip(draws, kept, strict=True):
        for width, every, some in zip(widths, of_all, of_kept, strict=True):
            require_solved(len(some["A"]), len(every["A"]), width)

    def over(statistic: Statistic) -> dict[str, Float[np.ndarray, "mu widths angles"]]:
        return {k: np.stack([np.stack([statistic(of[k]) for of in line]) for line in kept]) for k in POWERS}

    drawn, solved = (sum(len(of["A"]) for line in lines for of in line) for lines in (draws, kept))
    counts = tuple(len(of["A"]) for of in draws[0])
    return Monotone(monotonicities, widths, counts, drawn - solved, over(_mean), over(_stderr))


def _make(key: Key[Array, ""], width: int, mu: Float[Array, ""]) -> AbstractNetwork:
    return MonotoneImplicit.init(key, 2, width, monotonicity=mu, dtype=mu.dtype)


def _mean(values: Float[np.ndarray, "seeds angles"]) -> Float[np.ndarray, " angles"]:
    return values.mean(0)


def _stderr(values: Float[np.ndarray, "seeds angles"]) -> Float[np.ndarray, " angles"]:
    return values.std(0, ddof=1) / len(values) ** 0.5
