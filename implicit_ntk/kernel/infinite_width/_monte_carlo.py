"""The mean kernel of finite networks, where no limit is known."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from scipy.special import stdtrit

from implicit_ntk._checks import AnyArray, check_number, check_positive
from implicit_ntk.equilibrium import Method
from implicit_ntk.kernel._ntk import ntk
from implicit_ntk.networks import AbstractNetwork

SEEDS = 16


class MonteCarlo(eqx.Module):
    """The `mean` of the kernel over draws, the standard error of that mean, and `std`, that of one draw.

    All of the kernel's shape. The mean is that at the width of the networks: it differs from the limit
    by a bias that falls with the width and that no number of draws reduces. **Static:** `seeds`, the
    number of draws.
    """

    mean: Float[Array, "..."]
    stderr: Float[Array, "..."]
    std: Float[Array, "..."]
    seeds: int = eqx.field(static=True)

    def interval(self, level: float = 0.95) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The confidence interval of each entry of the mean kernel, by Student's t.

        Each entry's own: that all of them lie in theirs is less likely. Raises `ValueError` unless
        `0 < level < 1`.
        """
        check_number(level, "level")
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        reach = float(stdtrit(self.seeds - 1, 0.5 + level / 2)) * self.stderr
        return self.mean - reach, self.mean + reach


def monte_carlo(
    make: Callable[[Key[Array, ""]], AbstractNetwork],
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    key: Key[Array, ""] | None = None,
    seeds: int = SEEDS,
    method: Method | None = None,
) -> MonteCarlo:
    """The kernel averaged over independent networks, for any network.

    **Arguments:** `make`, from a key to a network; `key`, None for a fixed one; `seeds`, how many
    networks; `method`, as for `ink.ntk`.

    **Raises:** `ValueError` unless `seeds` is an integer above one; as `ink.ntk` and `make` do.
    """
    check_positive(seeds, "seeds")
    if seeds < 2:
        raise ValueError("seeds must be at least 2 for a standard deviation, got 1")
    draws = jax.random.split(jax.random.key(0) if key is None else key, seeds)
    mean = ntk(make(draws[0]), X1, X2, method)
    squares = jnp.zeros_like(mean)
    for count, draw in enumerate(draws[1:], 2):
        before, H = mean, ntk(make(draw), X1, X2, method)
        mean = before + (H - before) / count  # Welford's updates
        squares = squares + (H - before) * (H - mean)
    std = jnp.sqrt(squares / (seeds - 1))
    return MonteCarlo(mean, std / seeds**0.5, std, seeds)
