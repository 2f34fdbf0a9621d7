"""The limits against finite networks, by Monte Carlo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk import data, infinite_width

pytestmark = pytest.mark.slow

SEEDS, WIDTH, N, D = 24, 1000, 4, 6
GG22, GLL22 = ("A", "W", "b"), ("A", "W", "u", "v")


def unit(X: np.ndarray) -> np.ndarray:
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype("float32")


def correlated(rng: np.random.Generator) -> np.ndarray:
    """Unit inputs whose correlations are about .9, as those of grey images."""
    return unit(1.0 + 0.3 * rng.normal(size=(N, D)))


def far_off(make: Callable[[jax.Array], Any], X: np.ndarray, key: jax.Array) -> dict[str, float]:
    """By leaf, how many standard errors the mean over draws of the mean entry of H lies from the limit.

    One number a block: entries are strongly correlated, and the largest of ten is no z score.
    """
    keys = jax.random.split(key, SEEDS)
    limit = infinite_width.ntk_blocks(make(keys[0]), X)
    draws = [ink.ntk_blocks(make(k), X) for k in keys]
    z = {}
    for name, H in limit.items():
        means = np.array([float(draw[name].mean()) for draw in draws])
        z[name] = (means.mean() - float(H.mean())) / (means.std(ddof=1) / SEEDS**0.5)
    return z


@pytest.mark.parametrize("depth", [None, 2])
@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("phi", ["identity", "relu"])
@pytest.mark.parametrize(("kind", "trained"), [(ink.ReluImplicit, GG22), (ink.ReluImplicitFull, GLL22)])
def test_mean(
    kind: Any, trained: tuple, phi: str, activation: str, depth: int | None, key: jax.Array, rng: Any
) -> None:
    """Every block of every row of the table within three standard errors."""

    def make(key: jax.Array) -> ink.AbstractNetwork:
        options = {"injection_activation": phi, "activation": activation, "trained": trained}
        net = kind.init(key, D, WIDTH, gamma0=0.4, **options)
        return net if depth is None else ink.WeightTied(net, depth)

    z = far_off(make, correlated(rng), key)
    assert max(map(abs, z.values())) < 3, z


@pytest.mark.parametrize("paired", [False, True])
def test_real_images(paired: bool, data_dir: Path, key: jax.Array) -> None:
    """Grey CIFAR-10, whose inputs are almost parallel, with and without pairing."""
    images = data.read_cifar10(data_dir / "cifar-10-batches-bin" / "data_batch_1.bin")
    X = unit(images.images[:N].mean(axis=-1).reshape(N, -1) / 255.0)

    def make(key: jax.Array) -> ink.ReluImplicit:
        return ink.ReluImplicit.init(key, X.shape[1], WIDTH, paired=paired, trained=GG22)

    z = far_off(make, X, key)
    assert max(map(abs, z.values())) < 3, z


def test_standard_deviation_falls_as_the_root_of_the_width(key: jax.Array, rng: Any) -> None:
    """`stderr`, measured at width 250, against draws at 1000; about 9% of H there at gamma0 = .4."""
    make = lambda key: ink.ReluImplicit.init(key, D, 1000, injection_activation="identity")  # noqa: E731
    X = correlated(rng)
    limit = infinite_width.kernel(make(key), X)
    predicted = limit.stderr(1000, seeds=100, probe_width=250)
    measured = infinite_width.monte_carlo(make, X, key=key, seeds=60).std
    ratio = np.sqrt(np.mean(np.square(measured)) / np.mean(np.square(predicted)))
    assert 0.75 < ratio < 1.33
    assert 0.04 < float(np.mean(predicted / limit.ntk)) < 0.16
