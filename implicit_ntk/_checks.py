"""The door: what is asked of shapes, dtypes and values before any work, in one line each."""

from collections.abc import Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from implicit_ntk._hosts import is_spread
from implicit_ntk._tracing import is_traced

AnyArray = Array | np.ndarray
Number = float | int | Float[Array, ""]
"""One real number, traced or not; `check_number` is its door."""


def check_batch(
    X: AnyArray, in_size: int, leaves: Iterable[Any] = (), name: str = "X"
) -> Float[Array, "n d"]:
    """A batch of rows as a JAX array.

    Raises `ValueError` for a wrong shape, an empty batch or values that are not finite, `TypeError`
    for what is no array, for integers or for a dtype other than the network's.
    """
    check_array(X, name)
    shape = np.shape(X)
    if len(shape) != 2:
        raise ValueError(f"{name} must have shape (n, d), one row a sample, got {shape}; reshape it")
    if shape[1] != in_size:
        raise ValueError(
            f"{name} has {shape[1]} features but the network takes in_size={in_size}; "
            f"pass {name} of shape (n, {in_size})"
        )
    if shape[0] == 0:
        raise ValueError(f"{name} is empty; pass at least one row")
    X = check_floating(X, name)
    dtypes = {leaf.dtype for leaf in leaves if eqx.is_inexact_array(leaf)}
    if dtypes and X.dtype not in dtypes:
        want = sorted(map(str, dtypes))[0]
        raise TypeError(f"{name} is {X.dtype} but the network is {want}; cast {name} with .astype('{want}')")
    return X


def check_targets(y: AnyArray, shape: tuple[int, ...], name: str = "y") -> Float[Array, "n *out"]:
    """Targets of the outputs' shape, `(n,)` or `(n, k)`, finite and floating; raises as `check_batch`."""
    check_array(y, name)
    if np.shape(y) != shape:
        what = "one target a row" if len(shape) == 1 else "a row of targets a sample"
        raise ValueError(f"{name} must have shape {shape}, {what}, got {np.shape(y)}")
    return check_floating(y, name)


def check_times(
    times: AnyArray | Sequence[float], name: str = "times", endless: bool = False
) -> Float[np.ndarray, " T"]:
    """Times `(T,)`: not negative, increasing, finite but for the last where they may be `endless`.

    Raises `ValueError`; `TypeError` for what are no numbers, or traced ones.
    """
    try:
        values = np.asarray(times, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a vector of known numbers, got {times!r}") from None
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be a non-empty vector of times, got shape {values.shape}")
    if values[-1] == np.inf and not endless:
        raise ValueError(f"{name} must be finite for this integrator; take Exponential() to go on to inf")
    if not values[0] >= 0 or not (values[1:] > values[:-1]).all():
        raise ValueError(f"{name} must be finite, not negative and increasing; sort them and drop repeats")
    return values


def check_floating(value: AnyArray, name: str) -> Float[Array, "..."]:
    """A floating-point array whose values, where they are known, are finite."""
    if not isinstance(value, float | int):
        check_array(value, name)
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(
            f"{name} must be floating point, got {jnp.result_type(value)}; convert it with .astype(float)"
        )
    if not is_traced(value) and not _all_finite(value):
        raise ValueError(f"{name} holds NaN or infinite values; remove or replace them")
    return jnp.asarray(value)


def _all_finite(value: AnyArray | float | int) -> bool:
    """Looked at where the values are: of an array that is spread no host need hold them all."""
    if is_spread(value):
        with jax.ensure_compile_time_eval():  # a function that is being traced may have captured it
            return bool(jnp.isfinite(value).all())
    return bool(np.isfinite(np.asarray(value)).all())


def check_array(value: object, name: str) -> None:
    """Raise `TypeError` for lists and whatever else is no array of NumPy or JAX."""
    if not isinstance(value, AnyArray | np.generic):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}; wrap it in numpy.asarray")


def check_choice(value: str, choices: Iterable[str], name: str) -> None:
    """Raise `ValueError` for a name that is none of the choices."""
    if value not in tuple(choices):
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}")


def check_outputs(outputs: int | None) -> tuple[int, ...]:
    """The shape of one output, `()` for None and `(k,)` for k; raises as `check_positive`."""
    if outputs is None:
        return ()
    check_positive(outputs, "outputs")
    return (int(outputs),)


def check_positive(value: object, name: str) -> None:
    """Raise `ValueError` unless `value` is a positive integer."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_real(value: Any, name: str) -> None:
    """Raise `TypeError` unless it is one real number, finite or not (traced ones pass)."""
    number = isinstance(value, int | float | np.number | np.ndarray | Array) and not isinstance(value, bool)
    if not number or np.ndim(value) != 0:
        raise TypeError(f"{name} must be a number, got {value!r}")


def check_number(value: Any, name: str) -> None:
    """Raise `TypeError` unless it is one real number, `ValueError` unless it is finite (traced ones pass)."""
    check_real(value, name)
    if not is_traced(value) and not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def check_positive_number(value: Any, name: str) -> None:
    """As `check_number`; raise `ValueError` unless it is positive."""
    check_number(value, name)
    if not is_traced(value) and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
