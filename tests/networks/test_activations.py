"""Activations by name or by function: values, slopes, errors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from implicit_ntk.networks import _activations as activations

X = np.array([[-2.0, -0.5, 0.0], [0.0, 0.5, 2.0]])
TABLE = [
    ("relu", lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),  # relu'(0) = 0
    ("identity", lambda x: x, np.ones_like),
    ("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    (jnp.sin, np.sin, np.cos),
]


@pytest.mark.parametrize(("activation", "value", "slope"), TABLE)
def test_values_and_slopes(
    activation: str | Callable, value: Callable, slope: Callable, dtype: np.dtype, tol: dict
) -> None:
    x = jnp.asarray(X, dtype)
    found = activations.apply(activation, x), activations.slope(activation, x)
    assert {a.dtype for a in found} == {dtype}
    assert_allclose(found[0], value(X), **tol)
    assert_allclose(found[1], slope(X), **tol)


def test_relu_slope_has_no_derivative() -> None:
    second = jax.vmap(jax.grad(lambda x: activations.slope("relu", x)))(jnp.asarray(X[0]))
    assert_array_equal(second, 0)


def test_names_and_functions_pass_the_check() -> None:
    for activation in (*activations.NAMES, jnp.sin):
        activations.check_activation(activation, "activation")


def test_unknown_name(unchecked: None) -> None:
    for wrong in ("ReLU", "sin", None, 3):
        with pytest.raises(ValueError, match=r"^injection_activation must be one of \('relu', "):
            activations.check_activation(wrong, "injection_activation")
