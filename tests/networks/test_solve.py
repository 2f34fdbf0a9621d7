"""`solve` and `net(X)`: the door, failures, guesses, samples of every awkward kind."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink

NAN, INF = float("nan"), float("inf")
TOO_SHORT = ink.Picard(max_steps=2)


def never(x: jax.Array) -> jax.Array:
    raise AssertionError("work was done before the arguments were checked")


def network(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, 3, 12, **options)


def idle(**options: Any) -> ink.ReluImplicit:
    return network(jax.random.key(0), activation=never, injection_activation=never, **options)


def call(net: ink.AbstractNetwork, X: Any, method: ink.Method | None = None) -> jax.Array:
    return net(X, method)


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, 3))  # which JAX rounds to float32 where x64 is off


BATCHES = [
    (np.ones(3), ValueError, r"X must have shape \(n, d\), one row a sample, got \(3,\); reshape it"),
    (np.ones((2, 2, 3)), ValueError, r"X must have shape \(n, d\)"),
    (np.ones(()), ValueError, r"X must have shape \(n, d\)"),
    (np.ones((2, 4)), ValueError, r"X has 4 features but the network takes in_size=3; pass X of shape"),
    (np.ones((0, 3)), ValueError, "X is empty; pass at least one row"),
    (np.ones((2, 3), int), TypeError, r"X must be floating point, got int.*\.astype\(float\)"),
    (np.ones((2, 3), bool), TypeError, "X must be floating point, got bool"),
    (np.ones((2, 3), complex), TypeError, "X must be floating point, got complex"),
    (np.array([[0, NAN, 0]]), ValueError, "X holds NaN or infinite values; remove or replace them"),
    (np.array([[0, INF, 0]]), ValueError, "X holds NaN or infinite values"),
    (jnp.ones((2, 3), jnp.float16), TypeError, "X is float16 but the network is float32; cast X with"),
]


@pytest.mark.parametrize("entry", [ink.solve, call])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("X", "error", "message"), BATCHES)
def test_bad_batch(
    X: Any, error: type, message: str, entry: Callable, centred: bool, unchecked: None
) -> None:
    net = ink.Centred(idle()) if centred else idle()
    with pytest.raises(error, match=f"^{message}") as caught:
        entry(net, X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", [np.float32, np.float64])
def test_dtype_of_the_network_rules(which: type, x64: None, unchecked: None) -> None:
    other = {np.float32: np.float64, np.float64: np.float32}[which]
    with pytest.raises(TypeError, match=rf"^X is {other.__name__} but the network is {which.__name__}"):
        ink.solve(idle(dtype=which), np.ones((2, 3), other))


GUESSES = [
    (np.ones((3, 12)), ValueError, r".*the state, \['float32\[2,12\]'\], got \['float32\[3,12\]'\]; pass"),
    (np.ones((2, 11)), ValueError, r".*got \['float32\[2,11\]'\]"),
    (np.ones((2, 12), int), ValueError, r".*got \['int32\[2,12\]'\]"),
    (np.ones((2, 12), np.float16), ValueError, r".*got \['float16\[2,12\]'\]"),
    ({"z": np.ones((2, 12))}, ValueError, r".*got \['float32\[2,12\]'\]"),
    (np.full((2, 12), NAN), ValueError, " holds NaN or infinite values"),
]


@pytest.mark.parametrize(("z0", "error", "message"), GUESSES)
def test_bad_guess(z0: Any, error: type, message: str, unchecked: None) -> None:
    net = network(jax.random.key(0))
    with pytest.raises(error, match=f"^z0{message}") as caught:
        ink.solve(net, np.ones((2, 3)), z0=z0)
    assert "\n" not in str(caught.value)


def test_guess(key: jax.Array, X: np.ndarray, dtype: np.dtype, tol_solve: dict) -> None:
    net = network(key)
    eq = ink.solve(net, X)
    again = ink.solve(net, X, z0=np.asarray(eq.z))
    assert_array_equal(again.steps, 1)
    assert_array_equal(again.z, eq.z)
    far = ink.solve(net, X, z0=10 + 0 * eq.z)
    assert_allclose(far.z, eq.z, **tol_solve)


def test_numpy_and_jax_batches_are_one(key: jax.Array, X: np.ndarray) -> None:
    net = network(key)
    for entry in (call, lambda net, X: ink.solve(net, X).z):
        assert_array_equal(entry(net, X), entry(net, jnp.asarray(X)))


@pytest.mark.parametrize("centred", [False, True])
def test_same_bits_twice(centred: bool, key: jax.Array, X: np.ndarray) -> None:
    runs = []
    for _ in range(2):
        net = network(key)
        net = ink.Centred(network(key, gamma0=0.1), net) if centred else net
        runs.append((net(X), ink.solve(net, X).z))
    jax.tree.map(assert_array_equal, *runs)


@pytest.mark.parametrize("injection", ["relu", "identity"])
def test_awkward_rows(injection: str, key: jax.Array, X: np.ndarray, dtype: np.dtype) -> None:
    """Zero, dead, duplicated, huge and tiny rows are solved, each as if it were alone."""
    net = network(key, injection_activation=injection)
    x = X[0]
    X = np.stack([0 * x, x, x, 1e8 * x, 1e-8 * x])
    eq = ink.solve(net, X)
    assert eq.succeeded.all()
    assert_array_equal(eq.z[0], 0)
    assert (eq.steps[0], eq.residual[0], eq.error[0]) == (1, 0, 0)
    assert_array_equal(eq.z[1], eq.z[2])
    for row in (3, 4):  # relus are positively homogeneous
        assert_allclose(eq.z[row], X[row, 0] / x[0] * eq.z[1], rtol=1e-4)


def test_dead_sample(key: jax.Array, X: np.ndarray) -> None:
    """No unit of the sample is on, and not for want of an input."""
    net = network(key, injection_activation=lambda x: -jnp.abs(x))
    eq = ink.solve(net, X)
    assert eq.succeeded.all()
    assert_array_equal(eq.z, 0)


@pytest.mark.parametrize("entry", [ink.solve, call])
@pytest.mark.parametrize("centred", [False, True])
def test_failure_raises(entry: Callable, centred: bool, key: jax.Array, X: np.ndarray) -> None:
    net = network(key)
    net = ink.Centred(net) if centred else net
    with pytest.raises(ink.ConvergenceError, match="4 of 4 failed: the forward solve reached max_steps"):
        entry(net, X, ink.Method(solver=TOO_SHORT))


def test_failure_inside_jit(key: jax.Array, X: np.ndarray) -> None:
    net = network(key)
    with pytest.raises(RuntimeError, match="the forward solve reached max_steps"):
        jax.block_until_ready(jax.jit(lambda X: net(X, ink.Method(solver=TOO_SHORT)))(X))


def test_failure_handed_out(key: jax.Array, X: np.ndarray) -> None:
    """One good row, one that fails: NaN or the last iterate there, the good one untouched."""
    net = network(key)
    X[0] = 0
    nan = net(X, ink.Method(solver=TOO_SHORT, on_failure="nan"))
    assert_array_equal(jnp.isnan(nan), [False, True, True, True])
    report = ink.solve(net, X, ink.Method(solver=TOO_SHORT, on_failure="report"))
    assert_array_equal(report.status, [0, 2, 2, 2])
    assert jnp.isfinite(report.z).all()


def test_divergence_is_named(key: jax.Array, X: np.ndarray) -> None:
    net = network(key, gamma0=40.0)
    with pytest.raises(ink.ConvergenceError, match="diverges .gamma0 too large"):
        net(X)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(outputs=2), r"initial must have the out_shape of net, \(\), got \(2,\); leave it out"),
        (dict(in_size=4), "initial must have the in_size of net, 3, got 4; leave it out"),
    ],
)
def test_centred_on_another_kind_of_network(other: dict, message: str, key: jax.Array) -> None:
    """(n,) minus (n, 2) would broadcast where n is 2."""
    with pytest.raises(ValueError, match=f"^{message}"):
        ink.Centred(network(key), ink.ReluImplicit.init(key, **{"in_size": 3, "width": 6, **other}))


@pytest.mark.parametrize("entry", [ink.solve, ink.ntk, ink.jacobian, ink.ntk_trace, ink.convergence])
def test_no_network_and_no_method(entry: Callable, key: jax.Array, X: np.ndarray, unchecked: None) -> None:
    with pytest.raises(TypeError, match="^net must be a network such as ReluImplicit.*, got 'net'$"):
        entry("net", X)
    with pytest.raises(
        TypeError, match=r"^method must be a Method such as Method\(solver=Picard\(\)\), got Pic"
    ):
        entry(network(key), X, method=ink.Picard())
    with pytest.raises(TypeError, match=r"^X1? must be an array, got list; wrap it in numpy.asarray$"):
        entry(network(key), X.tolist())
