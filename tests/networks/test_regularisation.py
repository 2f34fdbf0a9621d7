"""Jacobian penalty and spectral radius against dense Jacobians, closed forms and differences."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink

M = 5


def linear(A: np.ndarray) -> ink.ReluImplicit:
    """A network whose cell is `z A + phi`, so that every `J_i` is `A^T`."""
    net = ink.ReluImplicit.init(jax.random.key(0), 3, len(A), activation="identity")
    return eqx.tree_at(lambda net: (net.A, net.gamma), net, (jnp.asarray(A), jnp.ones(())))


def smooth(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(
        key, 3, M, activation="tanh", injection_activation="identity", trained=("A", "W"), **options
    )


def dense(net: ink.AbstractNetwork, X: jax.Array) -> np.ndarray:
    """Each sample's `d cell/dz` at its equilibrium, (n, m, m)."""
    phi = net.inject(X)
    full = jax.jacfwd(lambda z: net.cell(z, phi))(ink.solve(net, X).z)
    return np.stack([full[i, :, i] for i in range(len(X))])


@pytest.fixture
def X(rng: np.random.Generator, x64: None) -> jax.Array:
    return jnp.asarray(rng.normal(size=(4, 3)))


def test_penalty_of_a_diagonal(X: jax.Array, key: jax.Array) -> None:
    """Where `J` is diagonal, signs give the norm itself: the value and its derivative are exact."""
    d = np.array([0.5, -0.3, 0.2, 0.1, 0.0])
    net = linear(np.diag(d))
    value, gradient = jax.value_and_grad(lambda net: ink.jacobian_penalty(net, X, key))(net)
    assert_allclose(value, np.mean(d**2), rtol=1e-12)
    assert_allclose(jnp.diag(gradient.A), 2 * d / M, atol=1e-12)


def test_penalty_is_unbiased(X: jax.Array, key: jax.Array) -> None:
    """Within four standard errors, whose formula is that of random signs."""
    net, samples = smooth(key), 4000
    J = dense(net, X)
    gram = J @ J.swapaxes(1, 2)
    want = np.mean(np.sum(J**2, axis=(1, 2))) / M
    off = gram - np.stack([np.diag(np.diag(g)) for g in gram])
    error = np.sqrt(np.sum(2 * off**2) / samples) / (len(X) * M)
    found = ink.jacobian_penalty(net, X, key, samples=samples)
    assert_allclose(found, want, rtol=0, atol=4 * error)
    assert error < 0.02 * want
    again = ink.jacobian_penalty(net, X, jax.random.fold_in(key, 1), samples=samples)
    assert found != again


@pytest.mark.parametrize("name", ["penalty", "radius"])
def test_derivative(name: str, X: jax.Array, key: jax.Array, rng: np.random.Generator) -> None:
    """Through the equilibrium too: differences of the whole, along all leaves at once."""
    net = smooth(key)
    function = {
        "penalty": lambda net: ink.jacobian_penalty(net, X, key, samples=2),
        "radius": lambda net: jnp.sum(ink.spectral_radius(net, X, key)),
    }[name]
    along = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), net)
    at, h = jax.jit(lambda s: function(jax.tree.map(lambda a, b: a + s * b, net, along))), 3e-4
    want = (at(-2 * h) - 8 * at(-h) + 8 * at(h) - at(2 * h)) / (12 * h)
    _, forward = jax.jvp(at, (0.0,), (1.0,))
    assert_allclose(forward, want, rtol=1e-8)
    assert_allclose(jax.grad(at)(0.0), want, rtol=1e-8)


def test_radius_of_a_real_eigenvalue(X: jax.Array, key: jax.Array, rng: np.random.Generator) -> None:
    """`d rho/dA = left right^T / (left . right)` of the dominant eigenvalue, here a negative one."""
    V = rng.normal(size=(M, M))
    A = V @ np.diag([-0.8, 0.3, 0.25, -0.1, 0.0]) @ np.linalg.inv(V)
    found, pull = jax.vjp(lambda net: ink.spectral_radius(net, X, key, steps=80), linear(A))
    assert_allclose(found, 0.8, rtol=1e-12)
    right, left = V[:, 0], np.linalg.inv(V)[0]
    assert_allclose(pull(jnp.ones(4))[0].A, -4 * np.outer(left, right), rtol=1e-10, atol=1e-11)


def test_radius_of_a_complex_pair(X: jax.Array, key: jax.Array, rng: np.random.Generator) -> None:
    """A rotation's norms do not oscillate; those of its conjugate by V do, by at most cond(V)^2 in all."""
    c, s = 0.6 * np.cos(1.0), 0.6 * np.sin(1.0)
    turn = np.array([[c, s], [-s, c]])
    assert_allclose(ink.spectral_radius(linear(turn), X, key), 0.6, rtol=1e-12)
    V, steps = rng.normal(size=(2, 2)), 1000
    found = ink.spectral_radius(linear(V @ turn @ np.linalg.inv(V)), X, key, steps=steps)
    bound = 2 * np.log(np.linalg.cond(V)) / (steps / 2)
    assert (np.abs(np.log(found / 0.6)) <= bound).all() and bound < 0.05


def test_radius_of_a_smooth_cell(X: jax.Array, key: jax.Array) -> None:
    net = smooth(key, gamma0=0.8)
    want = np.abs(np.linalg.eigvals(dense(net, X))).max(axis=1)
    assert_allclose(ink.spectral_radius(net, X, key, steps=4000), want, rtol=1e-2)


@pytest.mark.parametrize("A", [np.zeros((3, 3)), np.diag([0.5, 0.5], k=1)], ids=["zero", "nilpotent"])
def test_radius_zero(A: np.ndarray, X: jax.Array, key: jax.Array) -> None:
    """The vector vanishes: radius and derivative are zero, not NaN."""
    radius = lambda net: jnp.sum(ink.spectral_radius(net, X, key))  # noqa: E731
    value, gradient = jax.value_and_grad(radius)(linear(A))
    assert value == 0
    for leaf in jax.tree.leaves(gradient):
        assert_array_equal(leaf, 0)


def test_state_of_several_leaves(X: jax.Array, key: jax.Array) -> None:
    """The state of a user's network is one vector: both blocks of a triangular map are seen."""
    params = {"a": jnp.asarray(0.4), "b": jnp.asarray(-0.7)}
    net = ink.from_functions(
        params,
        inject=lambda p, X: {"fast": X, "slow": X[:, :2].reshape(-1, 2, 1)},
        cell=lambda p, z, phi: {"fast": p["a"] * z["fast"] + phi["fast"], "slow": p["b"] * z["slow"]},
        readout=lambda p, z, phi: z["fast"].sum(axis=1),
        in_size=3,
    )
    assert net.width == 5
    assert_allclose(ink.jacobian_penalty(net, X, key), (3 * 0.16 + 2 * 0.49) / 5, rtol=1e-12)
    assert_allclose(ink.spectral_radius(net, X, key, steps=200), 0.7, rtol=1e-12)
    radius = lambda net: ink.spectral_radius(net, X, key, steps=200)[0]  # noqa: E731
    assert_allclose(jax.grad(radius)(net).params["b"], -1, rtol=1e-10)


def test_failed_solves(X: jax.Array, key: jax.Array) -> None:
    """Under the policy `nan` a relu whose state is NaN has slope zero, which must not pass for a radius."""
    net = ink.ReluImplicit.init(key, 3, M, gamma0=0.4)
    net = eqx.tree_at(lambda net: net.A, net, 50 * jnp.abs(net.A))
    with pytest.raises(ink.ConvergenceError, match="the forward solve"):
        ink.spectral_radius(net, X, key)
    method = ink.Method(on_failure="nan")
    assert jnp.isnan(ink.spectral_radius(net, X, key, method=method)).any()
    assert jnp.isnan(ink.jacobian_penalty(net, X, key, method=method))


def test_bad_arguments(X: jax.Array, key: jax.Array, unchecked: None) -> None:
    net = smooth(key)
    with pytest.raises(ValueError, match="^samples must be a positive integer, got 0$"):
        ink.jacobian_penalty(net, X, key, samples=0)
    with pytest.raises(ValueError, match="^steps must be a positive integer, got 1.5$"):
        ink.spectral_radius(net, X, key, steps=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^X has 2 features"):
        ink.jacobian_penalty(net, X[:, :2], key)


@pytest.mark.parametrize("steps", [1, 2])
def test_radius_of_a_scaled_rotation(
    steps: int, X: jax.Array, key: jax.Array, rng: np.random.Generator
) -> None:
    """Every vector grows by 0.7, at the first step already."""
    Q, _ = np.linalg.qr(rng.normal(size=(M, M)))
    assert_allclose(ink.spectral_radius(linear(0.7 * Q), X, key, steps=steps), 0.7, rtol=1e-12)


def test_radius_whose_square_underflows(key: jax.Array, rng: np.random.Generator) -> None:
    """1e-30 is a float32, its square is zero."""
    Q, _ = np.linalg.qr(rng.normal(size=(M, M)))
    X = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    radius = lambda net: ink.spectral_radius(net, X, key, steps=4)  # noqa: E731
    net = linear(1e-30 * Q.astype(np.float32))
    assert_allclose(radius(net), 1e-30, rtol=1e-5)
    slope = jax.grad(lambda net: radius(net)[0])(net)
    assert_allclose(jnp.vdot(slope.A, Q), 1, rtol=1e-4)


@pytest.mark.parametrize("function", [ink.jacobian_penalty, ink.spectral_radius])
def test_weight_tied_is_refused(function: Any, X: jax.Array, key: jax.Array) -> None:
    tied = ink.WeightTied(smooth(key), 2)
    for net in (tied, ink.Centred(tied)):
        with pytest.raises(ValueError, match="^net is WeightTied.*pass the network inside$"):
            function(net, X, key)
