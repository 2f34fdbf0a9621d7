"""What the constructors share: checks of their options, and how weights and read-outs are drawn."""

import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from implicit_ntk._checks import check_choice, check_outputs, check_positive
from implicit_ntk.networks import init
from implicit_ntk.networks._forms import forms, same_form
from implicit_ntk.networks.init import Initialiser


def check_sizes(in_size: int, width: int, outputs: int | None, paired: bool) -> tuple[int, ...]:
    """The shape `()` or `(k,)` of one sample's output.

    Raises `ValueError` unless the sizes are positive integers (`outputs` may be None), the width even
    where halves are paired.
    """
    check_positive(in_size, "in_size")
    check_positive(width, "width")
    out = check_outputs(outputs)
    if paired and width % 2:
        raise ValueError(f"paired=True needs an even width, got {width}; use {width + 1}")
    return out


def check_initialiser(a_init: object, paired: bool) -> None:
    """Raise `TypeError` unless it is a function, `ValueError` where `swapped` makes another law of its draws.

    `A1 + A2` and `A1 - A2`, over sqrt 2, have the law of `A1` and are uncorrelated where entries are i.i.d.
    and centred; they are not orthogonal, and have sqrt 2 and 0 for the identity. Warns for entries that
    are not centred: their mean is in the sum alone. Of other functions the user has to know.
    """
    if not callable(a_init):
        raise TypeError(f"a_init must be a function such as implicit_ntk.init.normal, got {a_init!r}")
    if paired and init.is_structured(a_init):
        name = getattr(a_init, "__name__", "identity_plus_noise(...)")
        raise ValueError(
            f"paired=True needs i.i.d. entries, and a_init={name} draws others; for u(0) = 0 wrap the "
            "network in Centred"
        )
    if paired and a_init in init.NOT_CENTRED:
        warnings.warn(
            f"a_init={a_init.__name__} has entries that are not centred: with paired=True the limit kernel "
            "is not that of the unpaired network; wrap that one in Centred",
            UserWarning,
            stacklevel=3,
        )


def check_trained(trained: Sequence[str], leaves: tuple[str, ...]) -> None:
    """Raise `ValueError` unless `trained` is a tuple (or `TypeError`) that names some leaves, each once."""
    if isinstance(trained, str) or not isinstance(trained, Sequence):
        raise TypeError(f"trained must be a tuple of names such as {leaves[:1]}, got {trained!r}")
    for name in trained:
        check_choice(name, leaves, "trained")
    if len(set(trained)) < len(trained):
        raise ValueError(f"trained must name each leaf once, got {trained}")


def draw_layer(key: Key[Array, ""], m: int, a_init: Initialiser, dtype: DTypeLike) -> Float[Array, "m m"]:
    """A square matrix by an initialiser, which is held to the shape and the dtype it was asked for."""
    A = a_init(key, (m, m), dtype)
    want = jax.ShapeDtypeStruct((m, m), dtype)
    if not same_form(A, want):
        raise ValueError(f"a_init must return {forms(want)[0]}, as it is asked to, got {forms(A)}")
    return jnp.asarray(A)


def readout_shape(m: int, outputs: int | None) -> tuple[int, ...]:
    """The shape of a read-out leaf: (m,) for a scalar output, (m, k) for k outputs."""
    return (m, *check_outputs(outputs))


def swapped(A1: Float[Array, "h h"], A2: Float[Array, "h h"]) -> Float[Array, "m m"]:
    """`[[A1, A2], [A2, A1]]`, the paired layer: equal halves see `A1 + A2`, opposite ones `A1 - A2`.

    For independent Gaussian blocks the two are independent; for any i.i.d. and centred entries they are
    uncorrelated, which leaves the limit kernel as it is. Repeating one block on the diagonal would
    make them the same, and the kernel wrong.
    """
    return jnp.block([[A1, A2], [A2, A1]])
