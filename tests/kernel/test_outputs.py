"""Kernels of networks with several outputs: blocks, trace, diagonal, transformations, refusals."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink

N, D, M, K = 4, 3, 12, 3
ALL = ("A", "W", "b")


def network(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, D, **{"width": M, "trained": ALL, "outputs": K, **options})


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, D))  # which JAX rounds to float32 where x64 is off


@pytest.fixture
def X2(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(2, D))


def column(net: ink.ReluImplicit, c: int) -> ink.ReluImplicit:
    """The scalar network with one column of the read-out."""
    return eqx.tree_at(lambda net: net.b, net, net.b[:, c])


def test_each_output_is_a_scalar_network(key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None) -> None:
    net = network(key)
    assert_allclose(net(X), jnp.stack([column(net, c)(X) for c in range(K)], axis=1), rtol=1e-12)
    H = ink.ntk(net, X, X2)
    diagonal = ink.ntk_diagonal(net, X, X2)
    assert diagonal.shape == (K, N, 2)
    for c in range(K):
        want = ink.ntk(column(net, c), X, X2)
        assert_allclose(diagonal[c], want, rtol=1e-12)
        assert_allclose(H[:, c, :, c], want, rtol=1e-12)


@pytest.mark.parametrize("kind", ["outer", "autodiff", pytest.param("dense", marks=pytest.mark.slow)])
def test_trace_and_diagonal(kind: str, key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None) -> None:
    """Those of the whole kernel, for every kind."""
    net = network(key)
    H, diagonal = ink.ntk(net, X, X2, kind=kind), ink.ntk_diagonal(net, X, X2, kind=kind)
    assert_allclose(diagonal, jnp.einsum("icjc->cij", H), rtol=1e-12)
    assert_allclose(ink.ntk_trace(net, X, X2, kind=kind), diagonal.sum(0), rtol=1e-12)


def test_a_scalar_output_has_one_block(key: jax.Array, X: np.ndarray, X2: np.ndarray) -> None:
    net = network(key, outputs=None)
    assert_array_equal(ink.ntk_trace(net, X, X2), ink.ntk(net, X, X2))
    assert_array_equal(ink.ntk_diagonal(net, X), ink.ntk(net, X)[None])


def test_one_output_is_not_a_scalar(key: jax.Array, X: np.ndarray, x64: None) -> None:
    """`outputs=1` keeps its axis and is the same network otherwise."""
    one, scalar = network(key, outputs=1), network(key, outputs=None)
    assert_array_equal(one.b[:, 0], scalar.b)
    assert one(X).shape == (N, 1)
    H = ink.ntk(one, X)
    assert H.shape == (N, 1, N, 1)
    assert_allclose(H[:, 0, :, 0], ink.ntk(scalar, X), rtol=1e-12)
    assert_allclose(ink.ntk_trace(one, X), H[:, 0, :, 0], rtol=1e-12)
    assert ink.ntk_diagonal(one, X).shape == (1, N, N)


def test_ten_classes(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """`H = gamma^2 (lam_ic . lam_je)(z_i . z_j)`, positive semidefinite, by dense linear algebra."""
    n, k, m = 6, 10, 24
    net = network(key, width=m, outputs=k, trained=("A",))
    X = rng.normal(size=(n, D))
    Z, A = np.asarray(ink.solve(net, X).z), np.asarray(net.gamma * net.A)
    lam = np.stack(
        [np.diag(z > 0) @ np.linalg.solve(np.eye(m) - A @ np.diag(z > 0), net.b) / np.sqrt(m) for z in Z]
    )
    want = float(net.gamma) ** 2 * np.einsum("imc,jme,ij->icje", lam, lam, Z @ Z.T)
    H = ink.ntk(net, X)
    assert_allclose(H, want, rtol=1e-9, atol=1e-9 * want.max())
    s = ink.spectrum(H)
    assert_allclose(s.eigenvalues, np.linalg.eigvalsh(want.reshape(n * k, n * k)), atol=1e-9 * want.max())
    assert s.eigenvalues[0] > -s.resolution
    assert_allclose(ink.ntk_trace(net, X), np.einsum("icjc->ij", want), rtol=1e-9)


def test_centred_and_paired(key: jax.Array, X: np.ndarray, x64: None) -> None:
    net = network(key, paired=True)
    assert_allclose(net(X), np.zeros((N, K)), atol=1e-13)
    centred = ink.Centred(network(key), network(jax.random.fold_in(key, 1)))
    assert centred.out_shape == (K,)
    assert centred(X).shape == (N, K)
    assert_array_equal(ink.ntk(centred, X), ink.ntk(centred.net, X))


class TestTransformed:
    def test_jit_and_vmap(self, key: jax.Array, X: np.ndarray, x64: None) -> None:
        keys = jax.random.split(key, 2)

        def kernels(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            net = network(key)
            return ink.ntk(net, X), ink.ntk_trace(net, X)

        stacked = jax.jit(jax.vmap(kernels))(keys)
        for i, alone in enumerate(map(kernels, keys)):
            for found, want in zip(stacked, alone, strict=True):
                assert_allclose(found[i], want, rtol=1e-10, atol=1e-13)

    def test_gradient(self, key: jax.Array, X: np.ndarray, rng: np.random.Generator, x64: None) -> None:
        """Of `<C, ntk> + <E, trace>` along a random direction, against differences of fourth order."""
        net = network(key, activation="tanh", injection_activation="tanh")
        C, E = rng.normal(size=(N, K, N, K)), rng.normal(size=(N, N))
        tight = ink.Method(solver=ink.Picard(rtol=0.0), adjoint=ink.ImplicitAdjoint(ink.Neumann(rtol=0.0)))

        @jax.jit
        def value(net: ink.ReluImplicit) -> jax.Array:
            H, trace = ink.ntk(net, X, method=tight), ink.ntk_trace(net, X, method=tight)
            return jnp.sum(C * H) + jnp.sum(E * trace)

        v, h = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), net), 2e-4
        at = [value(jax.tree.map(lambda a, b, s=s: a + s * h * b, net, v)) for s in (-2, -1, 1, 2)]
        slope = jax.tree.map(jnp.vdot, jax.jit(jax.grad(value))(net), v)
        differences = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
        assert_allclose(sum(jax.tree.leaves(slope)), differences, rtol=1e-8)


def test_failed_adjoint_names_the_output(key: jax.Array, X: np.ndarray) -> None:
    method = ink.Method(adjoint=ink.ImplicitAdjoint(ink.Neumann(max_steps=2)))
    message = r"^12 of 12 failed: the adjoint .* of X1 reached max_steps .*\(problem \d, \d: residual"
    for entry in (ink.ntk, ink.ntk_trace):
        with pytest.raises(ink.ConvergenceError, match=message):
            entry(network(key), X, method=method)


@pytest.mark.parametrize(("entry", "nbytes"), [(ink.ntk_trace, 64), (ink.ntk_diagonal, 192), (ink.ntk, 576)])
def test_memory_counts_the_outputs(
    entry: Any, nbytes: int, key: jax.Array, X: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 the trace is 4^2 x 4 bytes, the diagonal 3 times that, the kernel 9 times."""
    net = network(key, trained=("A",))
    for limit, message in (
        (nbytes, "solving one row needs"),
        (nbytes - 1, "the kernel needs .*; pass fewer"),
    ):
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(limit))
        with pytest.raises(MemoryError, match=f"^{message}"):
            entry(net, X)


def test_memory_of_a_gram(
    key: jax.Array, X: np.ndarray, X2: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks of (4, 3, 4, 3) or of (4, 3, 2, 3) in float32, and twice that for what they are made of."""
    net = network(key, trained=("A", "b"))
    J, other = ink.jacobian(net, X), ink.jacobian(net, X2)
    for argument, nbytes in ((None, 3 * 2 * 16 * 9 * 4), (other, 3 * 2 * 8 * 9 * 4)):
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(nbytes))
        J.blocks(argument)
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(nbytes - 1))
        for product in (J.gram, J.blocks):
            with pytest.raises(MemoryError, match="^the kernel needs .*; pass fewer samples"):
                product(argument)
