"""The limit, one draw and the mean over draws, side by side."""

import math

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Key

from implicit_ntk._checks import AnyArray
from implicit_ntk.equilibrium import Method
from implicit_ntk.kernel._ntk import ntk
from implicit_ntk.kernel.infinite_width._finite_width import Bias
from implicit_ntk.kernel.infinite_width._limit import kernel
from implicit_ntk.kernel.infinite_width._monte_carlo import SEEDS, MonteCarlo, monte_carlo
from implicit_ntk.kernel.infinite_width._redraw import redraw
from implicit_ntk.networks import AbstractNetwork

ROWS = 12
"""Entries that are printed."""
FAR = 3.0

Kernel = Float[Array, "..."]


class Comparison(eqx.Module):
    """The `limit` kernel, one `draw` of finite width, and `drawn`, the mean over other draws of that width.

    `drawn.mean`, its standard error `drawn.stderr` and `drawn.interval()`, and `drawn.std` of one draw, as
    in `MonteCarlo`. All entry by entry, of the kernel's shape. Printed as a table. **Static:** `width`.
    """

    limit: Kernel
    draw: Kernel
    drawn: MonteCarlo
    width: int = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)

    @property
    def bias(self) -> Bias:
        """What the mean at this width has over the limit, with its standard error."""
        return Bias(self.drawn.mean - self.limit, self.drawn.stderr)

    @property
    def z(self) -> Kernel:
        """`(mean - limit) / stderr`.

        Entries share their draws, and so are strongly correlated: of N of them the largest is no z score.
        """
        return self.bias.z

    def __str__(self) -> str:
        entries = self._entries()
        z = np.abs(np.asarray(self.z)[entries])
        lines = [f"m = {self.width}, {self.drawn.seeds} draws", _HEADER, *self._rows(entries)]
        if z.size > ROWS:
            lines.append(f"... and {z.size - ROWS} more entries")
        lines.append(f"largest |z| {z.max():.2f}; above {FAR:g} in {(z > FAR).sum()} of {z.size} entries")
        return "\n".join(lines)

    def _entries(self) -> tuple[np.ndarray, ...]:
        """Indices of each entry once: of a symmetric kernel those on and above the diagonal."""
        shape = self.limit.shape
        rows, columns = (math.prod(half) for half in (shape[: len(shape) // 2], shape[len(shape) // 2 :]))
        i, j = np.triu_indices(rows) if self.symmetric else np.indices((rows, columns)).reshape(2, -1)
        return np.unravel_index(i * columns + j, shape)

    def _rows(self, entries: tuple[np.ndarray, ...]) -> list[str]:
        """The lines of the first of the entries."""
        few = tuple(axis[:ROWS] for axis in entries)
        low, high = self.drawn.interval()
        of_mean = (self.drawn.mean, low, high, self.bias.value, self.bias.stderr, self.drawn.std, self.z)
        columns = (np.asarray(array)[few] for array in (self.limit, self.draw, *of_mean))
        names = (",".join(map(str, entry)) for entry in zip(*few, strict=True))
        return [_FORMAT.format(*line) for line in zip(names, *columns, strict=True)]


_COLUMNS = ("limit", "this draw", "mean", "95% interval", "bias", "+-", "std of draw", "z")
_HEADER = "{:>9} {:>10} {:>10} {:>10} {:>23} {:>9} {:>8} {:>11} {:>6}".format("entry", *_COLUMNS)
_FORMAT = "{:>9} {:>10.5g} {:>10.5g} {:>10.5g} [{:>10.5g}, {:>9.5g}] {:>9.2g} {:>8.2g} {:>11.2g} {:>6.2f}"


def compare(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    key: Key[Array, ""] | None = None,
    seeds: int = SEEDS,
    method: Method | None = None,
) -> Comparison:
    """The limit kernel, the kernel of `net`, and the mean over `seeds` other draws of its width.

    `print` shows them as a table. The draws have i.i.d. Gaussian weights, whatever `net` was drawn from.
    Costs `seeds + 1` kernels.

    **Arguments:** `net`, `X1`, `X2` as for `infinite_width.kernel`; `key`, None for a fixed one; `method`,
    as for `ink.ntk`.

    **Raises:** as `infinite_width.kernel`, `monte_carlo` and `ink.ntk`.
    """
    limit = kernel(net, X1, X2).ntk
    draw = ntk(net, X1, X2, method)
    drawn = monte_carlo(lambda key: redraw(net, key, net.width), X1, X2, key, seeds, method)
    return Comparison(limit, draw, drawn, net.width, X2 is None)
