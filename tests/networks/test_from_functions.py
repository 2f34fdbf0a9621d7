"""A network made of functions: the same numbers as the class it imitates, and errors at the door."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.networks import trained_leaves

D, M = 3, 6


def inject(p: dict, X: jax.Array) -> jax.Array:
    return jax.nn.relu(X @ p["W"])


def cell(p: dict, z: jax.Array, phi: jax.Array) -> jax.Array:
    return jnp.tanh(p["gamma"] * z @ p["A"] + phi)


def readout(p: dict, z: jax.Array, phi: jax.Array) -> jax.Array:
    return z @ p["b"] / jnp.sqrt(M)


def twins(key: jax.Array, **options: Any) -> tuple[ink.AbstractNetwork, ink.ReluImplicit]:
    """The same network twice: of functions, and of the class."""
    net = ink.ReluImplicit.init(key, D, M, activation="tanh", **options)
    params = {name: getattr(net, name) for name in ("W", "A", "gamma", "b")}
    return ink.from_functions(params, inject, cell, readout, in_size=D, trained=net.trained), net


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, D)).astype(jnp.zeros(()).dtype)


@pytest.mark.parametrize(
    "options", [dict(trained=("A",)), dict(trained=("b", "W", "A"), outputs=2)], ids=["one", "all"]
)
def test_kernel_and_gradient(options: dict, key: jax.Array, X: np.ndarray, x64: None) -> None:
    X = X.astype(float)
    mine, net = twins(key, **options)
    assert_allclose(mine(X), net(X), rtol=1e-11, atol=1e-12)
    blocks, want = ink.ntk_blocks(mine, X), ink.ntk_blocks(net, X)
    assert set(blocks) == set(want) == set(mine.trained)
    for name, block in blocks.items():
        assert_allclose(block, want[name], rtol=1e-10, atol=1e-11, err_msg=name)
    loss = lambda net: jnp.sum(net(X) ** 2)  # noqa: E731
    found, want = jax.grad(loss)(mine), jax.grad(loss)(net)
    for name in ("W", "A", "b"):
        assert_allclose(found.params[name], getattr(want, name), rtol=1e-9, atol=1e-11, err_msg=name)
    assert (mine.out_shape, mine.width, mine.in_size) == (net.out_shape, M, D)
    assert mine.contraction() == np.inf


def test_gradient_flow(key: jax.Array, X: np.ndarray, x64: None) -> None:
    """And what is not trained does not move."""
    (mine, net), X = twins(key, trained=("A", "b")), X.astype(float)
    y, times = np.sin(X[:, 0]), np.array([0.0, 0.1, 0.2])
    found, want = (ink.gradient_flow(n, X, y, times, ink.Euler(0.02, solver_share=0.0)) for n in (mine, net))
    assert_allclose(found.u, want.u, rtol=1e-10)
    leaves, expected = trained_leaves(found.net), trained_leaves(want.net)
    for name in leaves:
        assert_allclose(leaves[name], expected[name], rtol=1e-10, atol=1e-12)
    assert_array_equal(found.net.params["W"], mine.params["W"])
    assert_allclose(found.metrics["distance_A"], want.metrics["distance_A"], rtol=1e-9)


def test_wrappers(key: jax.Array, X: np.ndarray) -> None:
    mine, net = twins(key)
    assert_array_equal(ink.Centred(mine)(X), 0)
    assert_allclose(ink.WeightTied(mine, 3)(X), ink.WeightTied(net, 3)(X), rtol=1e-5, atol=1e-6)


def test_all_floating_params_are_trained_if_nothing_is_said(X: np.ndarray) -> None:
    params = {"b": np.ones(D, np.float32), "a": np.float32(0.5)}
    net = ink.from_functions(
        params, lambda p, X: X, lambda p, z, phi: p["a"] * z + phi, lambda p, z, phi: z @ p["b"], in_size=D
    )
    assert net.trained == ("b", "a")
    assert_allclose(net(X), 2 * X.sum(axis=1), rtol=1e-5)
    slope = jax.jit(jax.grad(lambda net: net(X)[0]))(net)
    assert_allclose(slope.params["a"], 4 * X[0].sum(), rtol=1e-4)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), net)
    assert eqx.filter_vmap(lambda net: net(X))(stacked).shape == (2, 4)


GOOD: dict[str, Any] = dict(
    params={"W": np.ones((D, M), np.float32), "i": np.arange(3)},
    inject=lambda p, X: X @ p["W"],
    cell=lambda p, z, phi: z / 2 + phi,
    readout=lambda p, z, phi: z.sum(axis=1),
    in_size=D,
    trained=("W",),
)
BAD = {
    "cell must be a function of params, got 3": dict(cell=3),
    "initial_state must be a function of params, got 0": dict(initial_state=0),
    "in_size must be a positive integer, got 0": dict(in_size=0),
    r"params must be a dictionary of arrays by name, got \[1\]": dict(params=[1]),
    r"params\['W'\] must be an array, got 1.0": dict(params={"W": 1.0}),
    r"trained must be one of \('W', 'i'\), got 'A'": dict(trained=("A",)),
    "trained: i is int.*; convert it with .astype": dict(trained=None),
    r"cell must return the form of its state, \['float32\[2,6\]'\], got \['float32\[2,3\]'\]; pass": dict(
        cell=lambda p, z, phi: z[:, :3]
    ),
    "trained must be a tuple of names such as .*, got 'Wi'": dict(trained="Wi"),
    "initial_state must return floating-point arrays, got .*int32": dict(
        initial_state=lambda p, phi: jnp.zeros(phi.shape, int), cell=lambda p, z, phi: z
    ),
    "readout must return one floating-point array, got .*int32": dict(
        readout=lambda p, z, phi: jnp.argmax(z, axis=1)
    ),
    r"readout must return one floating-point array, got \(Shape": dict(
        readout=lambda p, z, phi: (z[:, 0], z[:, 1])
    ),
    r"readout must return \(n,\) or \(n, k\), got \(\) for n = 2": dict(readout=lambda p, z, phi: z.sum()),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments(message: str, unchecked: None) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as caught:
        ink.from_functions(**{**GOOD, **BAD[message]})
    assert "\n" not in str(caught.value)


def test_functions_are_not_saved(key: jax.Array, tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="^net: cannot save a FunctionNetwork; save its leaves with numpy"):
        ink.save(tmp_path / "net", twins(key)[0])


class Attributes(ink.AbstractNetwork):
    """The shortest subclass: leaves that are attributes, `width` and `contraction` left to the base."""

    a: jax.Array
    trained: tuple[str, ...] = eqx.field(static=True, default=("a",))
    in_size = D

    def inject(self, X: jax.Array) -> jax.Array:
        return X

    def initial_state(self, phi: jax.Array) -> jax.Array:
        return phi

    def cell(self, z: jax.Array, phi: jax.Array) -> jax.Array:
        return self.a * z + phi

    def readout(self, z: jax.Array, phi: jax.Array) -> jax.Array:
        return z.sum(axis=1)


def test_shortest_subclass(X: np.ndarray, x64: None) -> None:
    """`u = sum(x) / (1 - a)`, so `H = s s^T / (1 - a)^4`."""
    net, sums = Attributes(jnp.asarray(0.5)), X.astype(float).sum(axis=1)
    assert_allclose(ink.ntk(net, X.astype(float)), 16 * np.outer(sums, sums), rtol=1e-10)
    assert net.width == D and net.contraction() == np.inf
