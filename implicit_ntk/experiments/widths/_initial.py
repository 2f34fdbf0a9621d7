"""Half-normal and diagonal layers as GG22's section 5 has them, measured."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from implicit_ntk.data import sphere
from implicit_ntk.experiments.widths._draws import draw_blocks
from implicit_ntk.experiments.widths._laws import Law, Measured, power_law
from implicit_ntk.kernel import infinite_width
from implicit_ntk.networks import AbstractNetwork, ReluImplicit, init, operator_norm

DELTA = 0.05
"""The share of draws that may lie beyond a bound."""
FEATURES = 16
NORMS = 8
"""Matrices whose norm is taken at each width."""


@dataclasses.dataclass(frozen=True, eq=False)
class Concentration:
    """`||H - H_inf||_F` of diagonal layers: `distance` (width, n, draw) for the first n of the inputs."""

    widths: tuple[int, ...]
    samples: tuple[int, ...]
    distance: tuple[Float[np.ndarray, "n _"], ...]

    @property
    def exponent(self) -> Law:
        """The power of m that the mean distance of all inputs goes with."""
        last = [of[-1] for of in self.distance]
        stderr = [of.std(ddof=1) / of.size**0.5 for of in last]
        return power_law(np.array(self.widths, float), np.array([of.mean() for of in last]), np.array(stderr))

    @property
    def constants(self) -> Float[np.ndarray, "widths n"]:
        """C for which `||H - H_inf||_F <= C n sqrt(log(n / DELTA) / m)` in all draws but a share DELTA."""
        quantiles = np.stack([np.quantile(of, 1 - DELTA, axis=1) for of in self.distance])
        n, m = np.array(self.samples, float), np.array(self.widths, float)
        return quantiles / (n * np.sqrt(np.log(n / DELTA)))[None, :] * np.sqrt(m)[:, None]


def distances(
    width: int, seeds: int, samples: tuple[int, ...], gamma0: float, key: Key[Array, ""], dtype: str
) -> Float[np.ndarray, "n seeds"]:
    """`||H - H_inf||_F` for the first n of random unit inputs, draw by draw."""
    X, _ = sphere(jax.random.key(0), max(samples), FEATURES, dtype=dtype)
    limit = np.asarray(infinite_width.diagonal(X, gamma0), np.float64)
    difference = draw_blocks(_diagonal, X, width, seeds, key, gamma0)["A"] - limit
    return np.stack([np.linalg.norm(difference[:, :n, :n], axis=(1, 2)) for n in samples])


def printed_contraction(width: int, gamma0: float, key: Key[Array, ""]) -> Measured:
    """`gamma ||A||` of half-normal layers with GG22's printed `gamma = gamma0 / sqrt(m)`."""
    norms = np.asarray(_norms(width, jax.random.split(key, NORMS)), np.float64) * gamma0 / width**0.5
    return Measured(float(norms.mean()), float(norms.std(ddof=1) / NORMS**0.5))


@eqx.filter_jit
def _norms(width: int, keys: Key[Array, " seeds"]) -> Float[Array, " seeds"]:
    def norm(key: Key[Array, ""]) -> Float[Array, ""]:
        return operator_norm(init.half_normal(key, (width, width), jnp.float32))

    return jax.lax.map(norm, keys)


def _diagonal(key: Key[Array, ""], width: int, gamma0: Float[Array, ""]) -> AbstractNetwork:
    return ReluImplicit.init(key, FEATURES, width, gamma0, a_init=init.diagonal, dtype=gamma0.dtype)
