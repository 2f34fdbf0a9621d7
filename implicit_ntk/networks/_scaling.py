"""The scale `gamma` of an implicit layer, from the `gamma0` that users give."""

import warnings
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._checks import Number, check_number
from implicit_ntk.networks import init
from implicit_ntk.networks._norm import operator_norm

SCALINGS = ("width", "operator_norm")


def check_gamma0(gamma0: object) -> None:
    """Raise `TypeError` unless it is one number, `ValueError` unless it is finite."""
    check_number(gamma0, "gamma0")


def gamma_of(A: Float[Array, "m m"], gamma0: Number, scaling: str) -> Float[Array, ""]:
    """`gamma0 / sqrt(m)`, or `gamma0 / ||A||`, which makes `gamma ||A|| = gamma0`."""
    size = jnp.sqrt(jnp.asarray(A.shape[-1], A.dtype)) if scaling == "width" else operator_norm(A)
    return jnp.asarray(gamma0, A.dtype) / size


def warn_if_ill_posed(a_init: Callable, scaling: str) -> None:
    """Warn where GG22's section 5.1 fails as printed: `gamma ||A|| ~ gamma0 sqrt(2 m / pi)` diverges."""
    if scaling == "width" and a_init in init.NOT_CENTRED:
        warnings.warn(
            f"a_init={a_init.__name__} has entries that are not centred, so ||A|| grows like m and "
            "gamma0/sqrt(m) is ill posed for wide networks; pass scaling='operator_norm'",
            UserWarning,
            stacklevel=3,
        )
