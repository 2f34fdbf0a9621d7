"""Weight-tied twins against a Python loop over the cell, and against the implicit network for large depth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.networks import trained_leaves, with_leaves

DEPTH = 3
CONV: dict[str, Any] = dict(image_shape=(3, 2, 1), channels=2, inner_channels=2, groups=1, weight_scale=0.1)
MAKE: dict[str, Callable[[jax.Array], Any]] = {
    "relu": lambda key: ink.ReluImplicit.init(key, 6, 8, trained=("A", "W", "b"), activation="tanh"),
    "full": lambda key: ink.ReluImplicitFull.init(key, 6, 7),
    "monotone": lambda key: ink.MonotoneImplicit.init(key, 6, 7),
    "outputs": lambda key: ink.ReluImplicit.init(key, 6, 8, outputs=2),
    "conv": lambda key: ink.ConvImplicit.init(key, **CONV),
}
FAST = [name for name in MAKE if name != "full"]


def loop(net: ink.AbstractNetwork, X: jax.Array, depth: int = DEPTH) -> jax.Array:
    """The outputs after `depth` applications of the cell to zero."""
    phi = net.inject(X)
    z = jax.tree.map(jnp.zeros_like, net.initial_state(phi))
    for _ in range(depth):
        z = net.cell(z, phi)
    return net.readout(z, phi)


def inputs(rng: np.random.Generator, n: int = 4) -> jax.Array:
    return jnp.asarray(rng.normal(size=(n, 6)))


@pytest.mark.parametrize("name", [*FAST, pytest.param("full", marks=pytest.mark.slow)])
def test_against_a_loop(name: str, key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """Outputs, kernel blocks and gradient."""
    net, X = MAKE[name](key), inputs(rng)
    tied = ink.WeightTied(net, DEPTH)
    assert_allclose(tied(X), loop(net, X), rtol=1e-12, atol=1e-13)
    rows = jax.jit(jax.jacrev(lambda leaves: loop(with_leaves(net, leaves), X)))(trained_leaves(net))
    for leaf, block in ink.ntk_blocks(tied, X).items():
        flat = rows[leaf].reshape(*rows[leaf].shape[: X.ndim - 1 + len(net.out_shape)], -1)
        want = jnp.tensordot(flat, flat, (-1, -1))
        assert_allclose(block, want, rtol=1e-12, atol=1e-12 * float(abs(want).max()), err_msg=leaf)
    found, want = (
        jax.jit(jax.grad(lambda leaves, f=f: jnp.sum(f(with_leaves(net, leaves)) ** 2)))(trained_leaves(net))
        for f in (lambda net: ink.WeightTied(net, DEPTH)(X), lambda net: loop(net, X))
    )
    for leaf, value in found.items():
        assert_allclose(value, want[leaf], rtol=1e-11, atol=1e-12, err_msg=leaf)


def test_kinds(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """The dense matrix is differentiated through the applications, and shares nothing with autodiff."""
    tied, X = ink.WeightTied(MAKE["relu"](key), DEPTH), inputs(rng)
    assert_allclose(ink.ntk(tied, X), ink.ntk(tied, X, kind="dense"), rtol=1e-12)
    assert_allclose(ink.ntk(tied, X, X[:2]), ink.ntk(tied, X)[:, :2], rtol=1e-12)
    with pytest.raises(ValueError, match="^kind='outer' needs gradient factors"):
        ink.ntk(tied, X, kind="outer")


def test_books(key: jax.Array, rng: np.random.Generator) -> None:
    """Nothing is iterated: `depth` steps, no residual, and a guess changes nothing."""
    net, X = MAKE["relu"](key), inputs(rng)
    tied = ink.WeightTied(net, DEPTH)
    eq = ink.solve(tied, X)
    assert_array_equal(eq.steps, DEPTH)
    for books in (eq.residual, eq.error, eq.status):
        assert_array_equal(books, 0)
    assert_array_equal(ink.solve(tied, X, z0=1 + eq.z).z, eq.z)
    once = ink.solve(ink.WeightTied(net, 1), X)
    assert_allclose(once.z, net.initial_state(net.inject(X)), rtol=1e-6)
    assert_array_equal(ink.jacobian(tied, X).linearization.adjoint.steps, 1)
    assert tied.contraction() == 0 and tied.width == net.width and tied.out_shape == ()


def test_large_depth(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """The implicit network's kernel, at the rate at which the cell contracts."""
    net, X = ink.ReluImplicit.init(key, 6, 12, gamma0=0.25, trained=("A", "W", "b")), inputs(rng)
    H = ink.ntk(net, X)
    distance = [jnp.linalg.norm(ink.ntk(ink.WeightTied(net, depth), X) - H) for depth in (4, 8, 60)]
    assert distance[1] < distance[0] * 4 * net.contraction() ** 4
    assert distance[2] < 1e-10 * jnp.linalg.norm(H)


def test_centred(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    tied, X = ink.WeightTied(MAKE["relu"](key), DEPTH), inputs(rng)
    centred = ink.Centred(tied)
    assert_array_equal(centred(X), 0)
    assert_array_equal(ink.solve(centred, X).steps, DEPTH)
    assert_allclose(ink.ntk(centred, X), ink.ntk(tied, X), rtol=1e-12)


def test_gradient_flow(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """Euler steps against the same steps written by hand."""
    net, X, y = MAKE["relu"](key), inputs(rng), jnp.asarray(rng.normal(size=4))
    dt, leaves = 0.02, trained_leaves(net)
    slope = jax.jit(jax.grad(lambda leaves: jnp.sum((loop(with_leaves(net, leaves), X) - y) ** 2) / 2))
    want = [loop(net, X)]
    for _ in range(4):
        leaves = jax.tree.map(lambda a, b: a - dt * b, leaves, slope(leaves))
        want.append(loop(with_leaves(net, leaves), X))
    times = dt * np.arange(5)
    traj = ink.gradient_flow(ink.WeightTied(net, DEPTH), X, y, times, ink.Euler(dt, solver_share=0.0))
    assert_allclose(traj.u, jnp.stack(want), rtol=1e-11)
    assert isinstance(traj.net, ink.WeightTied)
    for name, leaf in trained_leaves(traj.net).items():
        assert_allclose(leaf, leaves[name], rtol=1e-11, atol=1e-13, err_msg=name)


def test_round_trip(key: jax.Array, rng: np.random.Generator, tmp_path: Path) -> None:
    tied, X = ink.Centred(ink.WeightTied(MAKE["relu"](key), DEPTH)), inputs(rng)
    ink.save(tmp_path / "net", tied)
    loaded: Any = ink.load(tmp_path / "net")
    assert jax.tree.structure(loaded) == jax.tree.structure(tied)
    assert_array_equal(loaded.net(X), tied.net(X))


def test_overflow(key: jax.Array, rng: np.random.Generator) -> None:
    """The one failure there is: a state that is not finite, in the rows where it is not."""
    net = ink.ReluImplicit.init(key, 6, 8, gamma0=20.0, injection_activation="identity")
    tied, X = ink.WeightTied(net, 200), inputs(rng).at[0].set(0)
    message = r"3 of 4 failed: the forward solve met an infinity or a NaN.* after 200 steps"
    with pytest.raises(ink.ConvergenceError, match=message):
        tied(X)
    eq = ink.solve(tied, X, method=ink.Method(on_failure="nan"))
    assert_array_equal(eq.status, [0, 3, 3, 3])
    assert_array_equal(jnp.isnan(eq.z).all(axis=1), [False, True, True, True])
    assert_array_equal(eq.z[0], 0)
    reported = ink.solve(tied, X, method=ink.Method(on_failure="report"))
    assert jnp.isinf(reported.residual[1:]).all() and reported.residual[0] == 0
    with pytest.raises((RuntimeError, ValueError), match="met an infinity or a NaN"):
        jax.block_until_ready(jax.jit(lambda X: tied(X))(X))


def test_default_method(key: jax.Array) -> None:
    """The policy and the precision of the network inside, and no solver of its."""

    class Other(ink.ReluImplicit):
        def default_method(self) -> ink.Method:
            return ink.Method(solver=ink.Picard(damping=0.5), on_failure="nan", precision="high")

    net = MAKE["relu"](key)
    found = ink.WeightTied(Other(net.A, net.W, net.b, net.gamma), 2).default_method()
    assert (found.on_failure, found.precision, found.solver) == ("nan", "high", ink.Picard())


@pytest.mark.parametrize("centred", [False, True])
def test_solvers_of_a_method_do_not_matter(centred: bool, key: jax.Array, rng: np.random.Generator) -> None:
    """One that needs a cell of the form `sigma(z W + offset)` is not asked; policy and precision stay."""
    tied, X = ink.WeightTied(MAKE["relu"](key), DEPTH), inputs(rng)
    net = ink.Centred(tied) if centred else tied
    method = ink.Method.of(ink.Chord(), on_failure="nan", precision="high")
    assert_array_equal(ink.ntk(net, X, method=method), ink.ntk(net, X, method=ink.Method(precision="high")))
    assert net.resolve(method) == ink.Method(on_failure="nan", precision="high")


def test_bad_arguments(key: jax.Array, unchecked: None) -> None:
    net = MAKE["relu"](key)
    with pytest.raises(
        TypeError, match=r"^net must not be Centred; pass Centred\(WeightTied\(net, depth\)\)$"
    ):
        ink.WeightTied(ink.Centred(net), 2)
    with pytest.raises(TypeError, match="^net must not be WeightTied, .*; pass the network inside$"):
        ink.WeightTied(ink.WeightTied(net, 1), 7)
    with pytest.raises(TypeError, match="^net must be a network, got int$"):
        ink.WeightTied(3, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^depth must be a positive integer, got 0$"):
        ink.WeightTied(net, 0)


def test_stack(key: jax.Array, rng: np.random.Generator) -> None:
    nets = [ink.WeightTied(MAKE["relu"](k), DEPTH) for k in jax.random.split(key)]
    stacked, X = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets), inputs(rng)
    found = eqx.filter_vmap(lambda net: ink.ntk(net, X))(stacked)
    assert_allclose(found, jnp.stack([ink.ntk(net, X) for net in nets]), rtol=1e-5)
