"""The architectures whose limits are known, each as a way to draw it and its limit."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from implicit_ntk.experiments.widths._draws import Make
from implicit_ntk.kernel import infinite_width
from implicit_ntk.networks import AbstractNetwork, ReluImplicit, ReluImplicitFull, WeightTied, init

FEATURES = 2
"""Input features: only the angles between inputs matter."""
DEPTH = 3
RowName = Literal["gg22-identity", "gg22-all", "gg22-relu", "gll22", "weight-tied", "diagonal", "half-normal"]

Number = Float[Array, ""]
Limit = Callable[[Make, Float[np.ndarray, "n d"], float], Float[Array, "n n"]]


def of_network(make: Make, X: Float[np.ndarray, "n d"], gamma0: float) -> Float[Array, "n n"]:
    """The limit that a network's architecture has."""
    return infinite_width.ntk(make(jax.random.key(0), 2, jnp.asarray(gamma0, X.dtype)), X)


@dataclasses.dataclass(frozen=True)
class Row:
    """One architecture: `make` draws it, from a key, a width and `gamma0`; `limit` is that of `m^power H`."""

    title: str
    make: Make
    limit: Limit = of_network
    power: int = 0
    growth: int = 2
    """Networks are drawn in proportion to `m^-growth`: at equal cost where a draw costs m^2."""


def gg22_identity(key: Key[Array, ""], width: int, gamma0: Number) -> AbstractNetwork:
    """GG22's network with an identity injection, trained in `A`."""
    return ReluImplicit.init(key, FEATURES, width, gamma0, "identity", dtype=gamma0.dtype)


def _gg22_all(key: Key[Array, ""], width: int, gamma0: Number) -> AbstractNetwork:
    trained = ("A", "W", "b")
    return ReluImplicit.init(key, FEATURES, width, gamma0, "identity", trained=trained, dtype=gamma0.dtype)


def _gg22_relu(key: Key[Array, ""], width: int, gamma0: Number) -> AbstractNetwork:
    return ReluImplicit.init(key, FEATURES, width, gamma0, dtype=gamma0.dtype)


def _gll22(key: Key[Array, ""], width: int, gamma0: Number) -> AbstractNetwork:
    return ReluImplicitFull.init(key, FEATURES, width, gamma0, dtype=gamma0.dtype)


def _weight_tied(key: Key[Array, ""], width: int, gamma0: Number) -> AbstractNetwork:
    return WeightTied(gg22_identity(key, width, gamma0), DEPTH)


def _diagonal(key: Key[Array, ""], width: int, gamma0: Number) -> AbstractNetwork:
    return ReluImplicit.init(key, FEATURES, width, gamma0, a_init=init.diagonal, dtype=gamma0.dtype)


def _half_normal(key: Key[Array, ""], width: int, gamma0: Number) -> AbstractNetwork:
    return ReluImplicit.init(
        key, FEATURES, width, gamma0, a_init=init.half_normal, scaling="operator_norm", dtype=gamma0.dtype
    )


def _limit_of_diagonal(_: Make, X: Float[np.ndarray, "n d"], gamma0: float) -> Float[Array, "n n"]:
    return infinite_width.diagonal(X, gamma0)


def _limit_of_half_normal(_: Make, X: Float[np.ndarray, "n d"], gamma0: float) -> Float[Array, "n n"]:
    return infinite_width.half_normal(X, gamma0)


ROWS: dict[RowName, Row] = {
    "gg22-identity": Row("GG22, identity, A", gg22_identity),
    "gg22-all": Row("GG22, identity, A W b", _gg22_all),
    "gg22-relu": Row("GG22, relu, A", _gg22_relu),
    "gll22": Row("GLL22, A W u v", _gll22),
    "weight-tied": Row(f"weight-tied, L = {DEPTH}, A", _weight_tied),
    "diagonal": Row("diagonal A", _diagonal, _limit_of_diagonal),
    "half-normal": Row("half-normal A, m H", _half_normal, _limit_of_half_normal, power=1, growth=0),
}
