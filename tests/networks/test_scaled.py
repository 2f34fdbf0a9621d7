"""Scaled outputs: `alpha f`, whose kernel is `alpha^2 H`, alone and about a centred network."""

from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.networks import trained_leaves, with_leaves

D, M, ALPHA = 3, 12, 2.5


def network(key: jax.Array, **options) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, D, M, **options)


MAKE = {
    "read-out": lambda key: network(key, trained=("b", "A"), outputs=2),
    "full": lambda key: ink.ReluImplicitFull.init(key, D, M),
    "tied": lambda key: ink.WeightTied(network(key), 3),
}
AROUND = {
    "plain": lambda net, alpha: ink.Scaled(net, alpha),
    "centred inside": lambda net, alpha: ink.Scaled(ink.Centred(net), alpha),
    "centred outside": lambda net, alpha: ink.Centred(ink.Scaled(net, alpha)),
}


@pytest.mark.parametrize("what", MAKE)
def test_kernel(what: str, key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """`alpha^2 H`, leaf by leaf: by scaled factors where there are factors, else by autodiff."""
    net, X = MAKE[what](key), rng.normal(size=(4, D))
    scaled = ink.Scaled(net, ALPHA)
    assert (scaled.factored is None) == (what == "tied")
    want, found = ink.ntk_blocks(net, X), ink.ntk_blocks(scaled, X)
    for name, H in want.items():
        assert_allclose(found[name], ALPHA**2 * H, rtol=1e-12, atol=1e-12 * np.abs(H).max())


@pytest.mark.parametrize("around", AROUND)
def test_outputs(around: str, key: jax.Array, rng: np.random.Generator, x64: None, tol: dict) -> None:
    """What is subtracted is scaled as well, on either side of the scale."""
    first, other = network(key), network(jax.random.fold_in(key, 1))
    X = rng.normal(size=(4, D))
    scaled = AROUND[around](first, ALPHA)
    moved = with_leaves(scaled, trained_leaves(other))
    now = with_leaves(first, trained_leaves(other))
    subtracted = 0 if around == "plain" else first(X)
    assert_allclose(moved(X), ALPHA * (now(X) - subtracted), **tol)


def test_what_it_passes_on(key: jax.Array) -> None:
    net = network(key)
    scaled = ink.Scaled(net, ALPHA)
    assert scaled.core is net
    assert (scaled.trained, scaled.in_size, scaled.width) == (net.trained, D, M)
    assert scaled.contraction() == net.contraction()
    assert ink.choose(scaled) == ink.choose(net)


def test_many_scales_at_once(key: jax.Array, rng: np.random.Generator) -> None:
    """`alpha` is an array: mapped over, it compiles once."""
    net, X = network(key), rng.normal(size=(4, D)).astype(np.float32)
    alphas = jnp.asarray([0.5, 1.0, 4.0])
    found = eqx.filter_vmap(lambda alpha: ink.Scaled(net, alpha)(X))(alphas)
    assert found.dtype == net.A.dtype
    assert_allclose(found, alphas[:, None] * net(X)[None], rtol=1e-5, atol=1e-6)


def test_on_disk(key: jax.Array, dtype: np.dtype, tmp_path: Path) -> None:
    net = ink.Centred(ink.Scaled(network(key), 1 / 3), ink.Scaled(network(key), 0.1))
    ink.save(tmp_path / "net", net)
    found = ink.load(tmp_path / "net")
    assert jax.tree.structure(found) == jax.tree.structure(net)
    jax.tree.map(assert_array_equal, found, net)
    assert found.net.alpha.dtype == dtype


def test_wrappers_that_do_not_fit(key: jax.Array, rng: np.random.Generator) -> None:
    """Also of networks inside, where they stood unseen."""
    net = network(key)
    with pytest.raises(TypeError, match="^net must not be Centred"):
        ink.WeightTied(ink.Scaled(ink.Centred(net), ALPHA), 2)
    with pytest.raises(TypeError, match="^net must not be WeightTied"):
        ink.WeightTied(ink.Scaled(ink.WeightTied(net, 3), ALPHA), 2)
    with pytest.raises(ValueError, match="^net is WeightTied"):
        X = rng.normal(size=(4, D)).astype(np.float32)
        ink.spectral_radius(ink.Scaled(ink.WeightTied(net, 3), ALPHA), X, key)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (lambda net: (3, 1.0), TypeError, "net must be a network, got int"),
        (lambda net: (net, "large"), TypeError, "alpha must be a number"),
        (lambda net: (net, 0.0), ValueError, "alpha must be positive, got 0"),
        (lambda net: (net, float("inf")), ValueError, "alpha must be finite"),
    ],
)
def test_door(arguments: Callable, error: type, message: str, key: jax.Array, unchecked: None) -> None:
    with pytest.raises(error, match=f"^{message}"):
        ink.Scaled(*arguments(network(key)))
