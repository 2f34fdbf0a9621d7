"""`J` of networks with several outputs: factors that broadcast, adjoint pairs, one solve an output."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.jacobian._outer import _gram, _gram_of_pair, _pull_one, _push_one
from implicit_ntk.networks import OuterProduct, as_tangent

N, D, M, K = 4, 3, 12, 3
ALL = ("A", "W", "b")


def network(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, D, M, **{"trained": ALL, "outputs": K, **options})


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, D))


def full(factor: Any) -> np.ndarray:
    return np.broadcast_to(factor, (N, K, factor.shape[-1]))


def terms_of_every_form(rng: np.random.Generator) -> list[OuterProduct]:
    """The left factor with more axes than the right one, with fewer, with as many, with others."""
    forms = [((N, K), (N, 1)), ((N, 1), (N, K)), ((N, K), (N, K)), ((N, 1), (1, K)), ((1, 1), (N, 1))]
    return [
        OuterProduct(
            *(jnp.asarray(rng.normal(size=(*form, p))) for form, p in zip(pair, (5, 2), strict=True))
        )
        for pair in forms
    ]


def test_factors_of_every_form(rng: np.random.Generator, x64: None) -> None:
    """Whatever axes the two factors have, products are those of the gradients written out."""
    terms = terms_of_every_form(rng)
    r, V = jnp.asarray(rng.normal(size=(N, K))), jnp.asarray(rng.normal(size=(5, 2)))

    @jax.jit
    def products(terms: list[OuterProduct]) -> tuple:
        pairs = itertools.product(terms, repeat=2)
        grams = [jnp.broadcast_to(_gram_of_pair(a, b), (N, K, N, K)) for a, b in pairs]
        return [_push_one(a, V) for a in terms], [_pull_one(a, r) for a in terms], grams

    gradients = [full(a.left)[..., None] * full(a.right)[..., None, :] for a in terms]
    pushed, pulled, grams = products(terms)
    for g, up, down in zip(gradients, pushed, pulled, strict=True):
        assert_allclose(np.broadcast_to(up, (N, K)), np.einsum("icpq,pq->ic", g, V), rtol=1e-12, atol=1e-13)
        assert_allclose(down, np.einsum("ic,icpq->pq", r, g), rtol=1e-12, atol=1e-13)
    for found, (g, h) in zip(grams, itertools.product(gradients, repeat=2), strict=True):
        assert_allclose(found, np.einsum("icpq,jepq->icje", g, h), rtol=1e-12, atol=1e-13)


def test_factors_of_a_vector(rng: np.random.Generator, x64: None) -> None:
    for form in ((N, K), (N, 1), (1, K)):
        a = OuterProduct(jnp.asarray(rng.normal(size=(*form, 5))))
        r, v = jnp.asarray(rng.normal(size=(N, K))), jnp.asarray(rng.normal(size=5))
        assert_allclose(np.broadcast_to(_push_one(a, v), (N, K)), full(a.left) @ v, rtol=1e-12)
        assert_allclose(_pull_one(a, r), np.einsum("ic,icp->p", r, full(a.left)), rtol=1e-12)


def test_a_gram_multiplies_what_is_shared_once(key: jax.Array, X: np.ndarray) -> None:
    """`Z Z^T` has n^2 entries, not (n k)^2; the read-out's unit vectors have k^2."""
    factors = ink.jacobian(network(key), X).factors
    sizes = {name: [_gram(x, x).shape for x in (term.left, term.right)] for name, (term,) in factors.items()}
    assert sizes["A"] == sizes["W"] == [(N, 1, N, 1), (N, K, N, K)]
    assert sizes["b"] == [(N, 1, N, 1), (1, K, 1, K)]


@pytest.mark.parametrize("kind", ["outer", "autodiff", "dense"])
def test_adjoint_pair(
    kind: str, key: jax.Array, X: np.ndarray, rng: np.random.Generator, dtype: np.dtype, tol: dict
) -> None:
    net = network(key)
    J = ink.jacobian(net, X, kind=kind)
    assert J.shape == (N * K, M * M + D * M + M * K)
    v = as_tangent(net, {name: jnp.asarray(rng.normal(size=getattr(net, name).shape)) for name in ALL})
    r = jnp.asarray(rng.normal(size=(N, K)))
    pushed, pulled = J.mv(v), J.rmv(r)
    assert pushed.shape == (N, K)
    inner = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, pulled, v)))
    assert_allclose(jnp.vdot(r, pushed), inner, **tol)
    assert {leaf.dtype for leaf in jax.tree.leaves((pushed, pulled))} == {dtype}
    H = J.gram()
    assert H.shape == (N, K, N, K)
    assert_allclose(jnp.tensordot(H, r, 2), J.mv(pulled), **{**tol, "atol": 10 * tol["atol"]})


def test_one_adjoint_solve_an_output(key: jax.Array, X: np.ndarray, x64: None) -> None:
    """`p_ic = b_c/sqrt(m) + gamma A D_i p_ic`: k solves a sample, each with its own books."""
    net = network(key)
    at = ink.jacobian(net, X).linearization
    p = at.adjoint
    assert at.equilibrium.steps.shape == (N,)
    assert p.steps.shape == p.residual.shape == p.status.shape == (N, K)
    for i, slopes in enumerate(np.asarray(at.equilibrium.z) > 0):
        Q = np.eye(M) - net.gamma * np.asarray(net.A) * slopes[None, :]
        assert_allclose(p.z[i], np.linalg.solve(Q, np.asarray(net.b) / np.sqrt(M)).T, rtol=1e-10)


def test_gradient_of_the_loss(key: jax.Array, X: np.ndarray, rng: np.random.Generator, x64: None) -> None:
    net = ink.Centred(network(key), network(jax.random.fold_in(key, 1)))
    y = jnp.asarray(rng.normal(size=(N, K)))
    params, frozen = eqx.partition(net, ink.trainable(net))
    want = jax.grad(lambda params: jnp.sum((eqx.combine(params, frozen)(X) - y) ** 2) / 2)(params)
    found = ink.jacobian(net, X).rmv(net(X) - y)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, want)


class Coupled(ink.AbstractNetwork):
    """A user's own: `x = tanh(y F + phi)`, `y = tanh(x) / 2` of shape (n, 2, M/2), K outputs, no factors."""

    F: Array
    U: Array
    v: Array
    trained: tuple[str, ...] = eqx.field(static=True, default=("v", "F", "U"))

    @property
    def in_size(self) -> int:
        return D

    @property
    def width(self) -> int:
        return M

    def inject(self, X: Array) -> Array:
        return X @ self.U

    def initial_state(self, phi: Array) -> dict[str, Array]:
        return {"x": jnp.zeros_like(phi), "y": jnp.zeros((len(phi), 2, M // 2), phi.dtype)}

    def cell(self, z: dict[str, Array], phi: Array) -> dict[str, Array]:
        x = jnp.tanh(z["y"].reshape(len(phi), M) @ self.F + phi)
        return {"x": x, "y": jnp.tanh(z["x"]).reshape(len(phi), 2, M // 2) / 2}

    def readout(self, z: dict[str, Array], phi: Array) -> Array:
        return z["x"] @ self.v + jnp.sum(z["y"], axis=1) @ self.v[: M // 2]

    def contraction(self) -> Array:
        return jnp.asarray(jnp.nan)


def test_state_of_several_leaves(rng: np.random.Generator, X: np.ndarray, x64: None) -> None:
    shapes = {"F": (M, M), "U": (D, M), "v": (M, K)}
    net = Coupled(**{name: jnp.asarray(0.3 * rng.normal(size=shape)) for name, shape in shapes.items()})
    assert net.out_shape == (K,)
    J, dense = ink.jacobian(net, X), ink.jacobian(net, X, kind="dense")
    assert {name: leaf.shape for name, leaf in J.linearization.adjoint.z.items()} == {
        "x": (N, K, M),
        "y": (N, K, 2, M // 2),
    }
    for name, block in J.blocks().items():
        assert_allclose(block, dense.blocks()[name], rtol=1e-10, atol=1e-12)
    r = rng.normal(size=(N, K))
    assert_allclose(J.mv(J.rmv(r)), jnp.tensordot(J.gram(), r, 2), rtol=1e-10, atol=1e-12)


class Squares(ink.ReluImplicit):
    """Outputs of two axes, which no operator here speaks of."""

    def readout(self, z: Array, phi: Array) -> Array:
        return super().readout(z, phi).reshape(len(z), 2, 2)


def test_refused(key: jax.Array, X: np.ndarray, unchecked: None) -> None:
    J = ink.jacobian(network(key), X)
    for r in (np.ones(N, np.float32), np.ones((K, N), np.float32)):
        with pytest.raises(ValueError, match=r"^r must have shape \(4, 3\), one number an output, got"):
            J.rmv(r)
    # Trained leaves of the same form: what differs is the outputs.
    J, other = (ink.jacobian(network(key, outputs=k, trained=("A",)), X) for k in (K, 2))
    with pytest.raises(ValueError, match=r"^other must be a Jacobian of .* as many outputs"):
        J.gram(other)
    squares = Squares(J.net.A, J.net.W, jnp.ones((M, 4)), J.net.gamma)
    with pytest.raises(ValueError, match=r"^readout must return \(n,\) or \(n, k\), got \(4, 2, 2\)"):
        ink.jacobian(squares, X)
