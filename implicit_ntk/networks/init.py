"""Initialisers of the implicit layer's weights `A`: `initialiser(key, shape, dtype) -> array`.

Any function of that form will do: i.i.d. sub-Gaussian entries of mean zero and variance one are what
GG22 and GLL22 assume; for them `||A|| ~ 2 sqrt(m)`. Entries that are not centred need the scale
`scaling="operator_norm"`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from implicit_ntk._checks import Number, check_number, check_positive_number

Shape = tuple[int, ...]
Initialiser = Callable[[Key[Array, ""], Shape, DTypeLike], Float[Array, "..."]]
ROOT_THREE = 3**0.5


def normal(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "..."]:
    """I.i.d. N(0, 1): GG22's and GLL22's own. `||A|| ~ 2 sqrt(m)`."""
    return jax.random.normal(key, shape, dtype)


def rademacher(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "..."]:
    """I.i.d. -1 or +1, each with probability one half. `||A|| ~ 2 sqrt(m)`."""
    return jax.random.rademacher(key, shape, dtype)


def uniform(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "..."]:
    """I.i.d. uniform on `[-sqrt 3, sqrt 3]`, which has variance one. `||A|| ~ 2 sqrt(m)`."""
    return jax.random.uniform(key, shape, dtype, -ROOT_THREE, ROOT_THREE)


def orthogonal(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "m m"]:
    """`sqrt(m)` times an orthogonal matrix of Haar's law: `||A|| = sqrt(m)`, certified for gamma0 < 1.

    Entries have mean zero and variance one, but are not independent. Raises `ValueError` for a shape
    that is not square.
    """
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"shape must be (m, m) for an orthogonal matrix, got {shape}; use normal")
    return jnp.sqrt(jnp.asarray(shape[0], dtype)) * jax.random.orthogonal(key, shape[0], dtype=dtype)


def identity_plus_noise(identity: Number = 1.0, noise: Number = 1.0) -> Initialiser:
    """`identity sqrt(m) I + noise N(0, 1)`: `gamma A = gamma0 (identity I + noise N(0, 1) / sqrt(m))`.

    The identity that GLL22 leaves to future work. `||A|| / sqrt(m)` tends to `3 sqrt(3) / 2` for
    `identity = noise = 1`, which is certified for gamma0 < 0.385, and in general lies between the
    larger of `|identity|`, `2 |noise|` and `|identity| + 2 |noise|`.

    Raises `TypeError` or `ValueError` unless both are finite numbers.
    """
    check_number(identity, "identity")
    check_number(noise, "noise")
    return _IdentityPlusNoise(identity, noise)


@dataclasses.dataclass(frozen=True)
class _IdentityPlusNoise:
    """A class, so that `is_structured` can tell it."""

    identity: Number
    noise: Number

    def __call__(self, key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "m m"]:
        centre = jnp.asarray(self.identity, dtype) * jnp.sqrt(jnp.asarray(shape[0], dtype))
        noise = jnp.asarray(self.noise, dtype) * normal(key, shape, dtype)
        return centre * jnp.eye(*shape, dtype=dtype) + noise


def sub_gaussian(sampler: Initialiser, mean: Number = 0.0, standard_deviation: Number = 1.0) -> Initialiser:
    """I.i.d. entries of any law, standardised: `(sampler(key, shape, dtype) - mean) / standard_deviation`.

    `mean` and `standard_deviation` are those of the law that `sampler` draws from, such as
    `functools.partial(jax.random.truncated_normal, ...)`; GG22 and GLL22 ask that its tails be no
    heavier than a Gaussian's, which is not checked.

    Raises `TypeError` or `ValueError` unless `sampler` is a function, `mean` finite and
    `standard_deviation` positive.
    """
    if not callable(sampler):
        raise TypeError(f"sampler must be a function (key, shape, dtype) -> array, got {sampler!r}")
    check_number(mean, "mean")
    check_positive_number(standard_deviation, "standard_deviation")

    def draw(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "..."]:
        centred = sampler(key, shape, dtype) - jnp.asarray(mean, dtype)
        return centred / jnp.asarray(standard_deviation, dtype)

    return draw


def half_normal(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "..."]:
    """I.i.d. `|N(0, 1)|` (GG22, section 5.1). Its mean `sqrt(2/pi)` makes `||A|| ~ m sqrt(2/pi)`."""
    return jnp.abs(jax.random.normal(key, shape, dtype))


def diagonal(key: Key[Array, ""], shape: Shape, dtype: DTypeLike) -> Float[Array, "m m"]:
    """A diagonal of i.i.d. N(0, 1), zero elsewhere (GG22, section 5.2)."""
    return jnp.diag(jax.random.normal(key, shape[:1], dtype))


NOT_CENTRED = (half_normal,)
"""The initialisers here whose entries have a mean other than zero."""


def is_structured(a_init: object) -> bool:
    """Is this one of the initialisers here whose entries are not i.i.d., as far as can be told?"""
    return isinstance(a_init, _IdentityPlusNoise) or a_init in (orthogonal, diagonal)
