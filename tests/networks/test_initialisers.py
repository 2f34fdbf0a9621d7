"""Initialisers by their law: moments, norms, what the wrapped ones are made of, bad arguments."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.networks.init import Initialiser

M = 400


def exponential(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """A law with mean and standard deviation one half."""
    return 0.5 * jax.random.exponential(key, shape, dtype)


def truncated(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.truncated_normal(key, -1.0, 1.0, shape, dtype)


# E[x^2] of the normal law cut at -1 and 1: 1 - 2 pdf(1) / P(|x| < 1).
CUT = 1 - 2 * 0.24197072451914337 / 0.6826894921370859
# Draw, E[x^3], E[x^4], E[x^6]; the mean is zero and the variance one.
LAWS = {
    "normal": (ink.init.normal, 0.0, 3.0, 15.0),
    "rademacher": (ink.init.rademacher, 0.0, 1.0, 1.0),
    "uniform": (ink.init.uniform, 0.0, 9 / 5, 27 / 7),
    "sub_gaussian": (ink.init.sub_gaussian(exponential, mean=0.5, standard_deviation=0.5), 2.0, 9.0, 265.0),
}
FOURTH_MOMENT_DEVIATION = {"normal": 96.0, "rademacher": 0.0, "uniform": 9 - 81 / 25, "sub_gaussian": 14752.0}


@pytest.mark.parametrize("law", LAWS)
def test_moments(law: str, key: jax.Array, dtype: np.dtype) -> None:
    """Within five standard errors of a mean over `M^2` entries."""
    draw, third, fourth, sixth = LAWS[law]
    A = draw(key, (M, M), dtype)
    assert (A.shape, A.dtype) == ((M, M), dtype)
    A = np.asarray(A, float)
    assert abs(A.mean()) < 5 / M
    assert abs((A**2).mean() - 1) <= 5 * np.sqrt(fourth - 1) / M + 1e-6
    assert abs((A**3).mean() - third) < 5 * np.sqrt(sixth - third**2) / M
    assert abs((A**4).mean() - fourth) <= 5 * np.sqrt(FOURTH_MOMENT_DEVIATION[law]) / M + 1e-6


@pytest.mark.parametrize("law", LAWS)
def test_norm_of_iid_entries(law: str, key: jax.Array) -> None:
    """`||A|| / sqrt(m) -> 2`: whatever the law, as far as Gaussian draws of this size (m^(-2/3))."""
    A = LAWS[law][0](key, (M, M), jnp.float32)
    assert_allclose(np.linalg.norm(A, 2) / np.sqrt(M), 2, rtol=0.04)


def test_supports(key: jax.Array) -> None:
    assert set(np.unique(ink.init.rademacher(key, (9, 9), jnp.float32)).tolist()) == {-1.0, 1.0}
    largest = np.abs(ink.init.uniform(key, (M, M), jnp.float32)).max()
    assert 0.999 * np.sqrt(3) < largest <= np.sqrt(3) * (1 + 1e-6)


def test_orthogonal(key: jax.Array, dtype: np.dtype, tol: dict) -> None:
    A = ink.init.orthogonal(key, (40, 40), dtype)
    assert A.dtype == dtype
    A = np.asarray(A, float)
    assert_allclose(A.T @ A / 40, np.eye(40), **tol)
    assert_allclose(np.linalg.norm(A, 2) / np.sqrt(40), 1, **tol)
    net = ink.ReluImplicitFull.init(key, 3, 40, gamma0=0.9, a_init=ink.init.orthogonal)
    assert_allclose(net.contraction(), 0.9, rtol=1e-5)


def test_orthogonal_by_haar(key: jax.Array) -> None:
    """Haar's law gives the trace the first four moments of N(0, 1), and both signs of the determinant."""
    draws = jax.vmap(lambda key: ink.init.orthogonal(key, (6, 6), jnp.float32))(jax.random.split(key, 2000))
    Q = np.asarray(draws, float) / np.sqrt(6)
    traces = np.trace(Q, axis1=1, axis2=2)
    assert abs(traces.mean()) < 5 / np.sqrt(2000)
    assert abs((traces**2).mean() - 1) < 5 * np.sqrt(2 / 2000)
    assert abs((traces**4).mean() - 3) < 5 * np.sqrt(96 / 2000)
    assert abs((np.linalg.det(Q) > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(2000)


def test_identity_plus_noise(key: jax.Array, dtype: np.dtype, tol: dict) -> None:
    draw = ink.init.identity_plus_noise(0.7, 0.2)
    A = draw(key, (9, 9), dtype)
    assert A.dtype == dtype
    want = 0.7 * 3 * np.eye(9) + 0.2 * np.asarray(ink.init.normal(key, (9, 9), dtype))
    assert_allclose(A, want, **tol)
    net = ink.ReluImplicitFull.init(key, 3, 9, gamma0=0.5, a_init=ink.init.identity_plus_noise(1, 0))
    assert_allclose(net.gamma * net.A, 0.5 * np.eye(9), **tol)


def test_norm_of_identity_plus_noise(key: jax.Array) -> None:
    """`||I + N(0, 1)/sqrt(m)|| -> 3 sqrt(3)/2`: the edge of the information-plus-noise law."""
    A = ink.init.identity_plus_noise()(key, (M, M), jnp.float32)
    assert_allclose(np.linalg.norm(A, 2) / np.sqrt(M), 3 * np.sqrt(3) / 2, rtol=0.03)


def test_any_law_standardised(key: jax.Array, dtype: np.dtype) -> None:
    """A sampler of JAX's own behind `functools.partial`, scaled by NumPy numbers: the dtype stays."""
    cut = functools.partial(truncated)
    A = ink.init.sub_gaussian(cut, standard_deviation=float(np.sqrt(CUT)))(key, (M, M), dtype)
    assert A.dtype == dtype
    assert abs(np.asarray(A, float).var() - 1) < 5 * np.sqrt(2) / M
    draw = ink.init.sub_gaussian(exponential, np.float64(0.5), np.float64(0.5))
    assert draw(key, (3, 3), dtype).dtype == dtype


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "draw",
    [
        ink.init.rademacher,
        ink.init.uniform,
        ink.init.orthogonal,
        ink.init.identity_plus_noise(0.5, 0.5),
        ink.init.sub_gaussian(exponential, 0.5, 0.5),
    ],
)
def test_no_warning_and_the_same_draw_twice(draw: Initialiser, key: jax.Array) -> None:
    """All are well posed in the papers' scaling; equal keys give equal weights."""
    for make in (ink.ReluImplicit.init, ink.ReluImplicitFull.init, ink.MonotoneImplicit.init):
        first, again = (make(key, 3, 8, a_init=draw) for _ in range(2))
        assert_array_equal(first.A, again.A)
        assert (first.A != make(jax.random.fold_in(key, 1), 3, 8, a_init=draw).A).any()


BAD = [
    (ink.init.identity_plus_noise, ("1",), TypeError, "identity must be a number, got '1'"),
    (ink.init.identity_plus_noise, (1.0, float("nan")), ValueError, "noise must be finite, got nan"),
    (ink.init.sub_gaussian, ("cauchy",), TypeError, "sampler must be a function .* got 'cauchy'"),
    (ink.init.sub_gaussian, (exponential, None), TypeError, "mean must be a number, got None"),
    (ink.init.sub_gaussian, (exponential, 0.5, 0.0), ValueError, "standard_deviation must be positive"),
    (ink.init.orthogonal, (None, (3, 4), None), ValueError, r"shape must be \(m, m\) .* got \(3, 4\)"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD)
def test_bad_arguments(
    function: Callable, arguments: tuple, error: type, message: str, unchecked: None
) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)


MAKERS = (ink.ReluImplicit.init, ink.ReluImplicitFull.init, ink.MonotoneImplicit.init)


@pytest.mark.parametrize("make", MAKERS)
def test_pairing_wants_entries_of_one_centred_law(make: Callable, key: jax.Array) -> None:
    """For the identity `A1 + A2` is `2 I` and `A1 - A2` zero; refused before anything is drawn."""
    structured = {
        "orthogonal": ink.init.orthogonal,
        "diagonal": ink.init.diagonal,
        "identity_plus_noise": ink.init.identity_plus_noise(0.5, 0.5),
    }
    for name, a_init in structured.items():
        with pytest.raises(
            ValueError, match=f"^paired=True needs i.i.d. entries, and a_init={name}.*Centred$"
        ):
            make(key, 3, 8, a_init=a_init, paired=True)
    options = {} if make == MAKERS[2] else {"scaling": "operator_norm"}
    with pytest.warns(UserWarning, match="^a_init=half_normal has entries that are not centred: with paired"):
        make(key, 3, 8, a_init=ink.init.half_normal, paired=True, **options)
