"""The trained leaves: filters, tangents, updates; the frozen initial outputs of `Centred`."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.networks import as_tangent, check_tangent, trained_leaves, with_leaves

SUBSETS = [s for k in range(4) for s in itertools.combinations(("A", "W", "b"), k)]


def network(
    key: jax.Array, centred: bool = False, trained: tuple[str, ...] = ("A", "b")
) -> ink.AbstractNetwork:
    net = ink.ReluImplicit.init(key, 3, 12, trained=trained)
    return ink.Centred(net) if centred else net


@pytest.mark.parametrize("trained", SUBSETS)
@pytest.mark.parametrize("centred", [False, True])
def test_filter_and_tangents(trained: tuple[str, ...], centred: bool, key: jax.Array) -> None:
    net = network(key, centred, trained)
    params, frozen = eqx.partition(net, ink.trainable(net))
    assert len(jax.tree.leaves(params)) == len(trained)
    assert len(jax.tree.leaves(frozen)) == (8 if centred else 4) - len(trained)
    leaves = trained_leaves(net)
    assert tuple(leaves) == trained == net.trained
    check_tangent(net, params)
    tangent = as_tangent(net, {name: 2 * leaf for name, leaf in leaves.items()})
    check_tangent(net, tangent)
    twice = eqx.apply_updates(net, params)
    for name in ("A", "W", "b"):
        factor = 2 if name in trained else 1
        assert_array_equal(getattr(twice.core, name), factor * getattr(net.core, name))
    jax.tree.map(assert_array_equal, with_leaves(net, trained_leaves(tangent)), twice)
    if centred:
        jax.tree.map(assert_array_equal, twice.initial, net.initial)


@pytest.mark.parametrize("centred", [False, True])
def test_check_tangent(centred: bool, key: jax.Array) -> None:
    net = network(key, centred)
    good = eqx.filter(net, ink.trainable(net))
    wrong = {
        "the network": net,
        "a dictionary": trained_leaves(net),
        "nothing": None,
        "an array": net.core.A,
        "another shape": eqx.tree_at(lambda t: t.core.A, good, good.core.A[:-1]),
        "another dtype": eqx.tree_at(lambda t: t.core.A, good, good.core.A.astype(jnp.bfloat16)),
        "integers": eqx.tree_at(lambda t: t.core.b, good, jnp.ones(12, int)),
        "a missing leaf": eqx.tree_at(lambda t: t.core.A, good, None),
        "other trained leaves": eqx.filter(other := network(key, centred, ("A",)), ink.trainable(other)),
        "the other kind": eqx.filter(other := network(key, not centred), ink.trainable(other)),
    }
    for what, tangent in wrong.items():
        with pytest.raises(ValueError, match="^tangent must have the structure") as caught:
            check_tangent(net, tangent)
        assert "\n" not in str(caught.value), what


class Shelf(ink.AbstractNetwork):
    """A network that keeps its leaves in a dictionary."""

    leaves: dict[str, jax.Array]
    trained: tuple[str, ...] = eqx.field(static=True, default=("c", "F"))

    @property
    def in_size(self) -> int:
        return 3

    @property
    def width(self) -> int:
        return 5

    def leaf(self, name: str) -> object:
        return self.leaves[name]

    def inject(self, X: jax.Array) -> jax.Array:
        return X @ self.leaves["U"]

    def initial_state(self, phi: jax.Array) -> jax.Array:
        return jnp.zeros_like(phi)

    def cell(self, z: jax.Array, phi: jax.Array) -> jax.Array:
        return jnp.tanh(z @ self.leaves["F"] + phi)

    def readout(self, z: jax.Array, phi: jax.Array) -> jax.Array:
        return z @ self.leaves["c"]

    def contraction(self) -> jax.Array:
        return jnp.linalg.norm(self.leaves["F"], 2)


def test_leaves_in_a_dictionary(rng: np.random.Generator, x64: None) -> None:
    """Names lead to leaves by `net.leaf`, of tangents too; all that is trained goes through it."""
    shapes = {"F": (5, 5), "U": (3, 5), "c": (5, 2)}
    net = Shelf({name: jnp.asarray(0.2 * rng.normal(size=shape)) for name, shape in shapes.items()})
    X = rng.normal(size=(4, 3))
    assert net.factored is None
    assert tuple(trained_leaves(net)) == ("c", "F")
    params = eqx.filter(net, ink.trainable(net))
    assert {name for name, leaf in params.leaves.items() if leaf is not None} == {"F", "c"}
    check_tangent(net, as_tangent(net, trained_leaves(net)))
    r = jnp.asarray(rng.normal(size=(4, 2)))
    want = jax.grad(lambda net: jnp.sum(r * net(X)))(net)
    found = ink.jacobian(net, X).rmv(r)
    assert found.leaves["U"] is None
    for name in ("c", "F"):
        assert_allclose(found.leaves[name], want.leaves[name], rtol=1e-10, atol=1e-12)


class TestCentred:
    def test_is_zero_at_first(self, key: jax.Array, rng: np.random.Generator, dtype: np.dtype) -> None:
        net, X = network(key), jnp.asarray(rng.normal(size=(4, 3)))
        assert_array_equal(ink.Centred(net)(X), 0)
        assert_array_equal(ink.Centred(ink.Centred(net))(X), 0)
        assert (net(X) != 0).all()

    def test_subtracts_the_initial_outputs(self, key: jax.Array, rng: np.random.Generator, tol: dict) -> None:
        first, other = network(key), network(jax.random.fold_in(key, 1))
        X = jnp.asarray(rng.normal(size=(4, 3)))
        moved = with_leaves(ink.Centred(first), trained_leaves(other))
        now = with_leaves(first, trained_leaves(other))
        assert_allclose(moved(X), now(X) - first(X), **tol)
        assert_allclose(ink.Centred(now, first)(X), moved(X), **tol)
        twice = with_leaves(ink.Centred(ink.Centred(first)), trained_leaves(other))
        assert_allclose(twice(X), moved(X), **tol)

    def test_frozen_copy_has_no_derivative(self, key: jax.Array, rng: np.random.Generator, x64: None) -> None:
        net, X = network(key), jnp.asarray(rng.normal(size=(4, 3)))
        of_centred = jax.grad(lambda net: net(X).sum())(ink.Centred(net))
        jax.tree.map(lambda leaf: assert_array_equal(leaf, 0), of_centred.initial)
        of_net = jax.grad(lambda net: net(X).sum())(net)
        jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-12), of_centred.net, of_net)

    def test_passes_on_what_the_network_says(self, key: jax.Array) -> None:
        net = network(key)
        centred = ink.Centred(ink.Centred(net))
        assert centred.trained == net.trained
        assert (centred.in_size, centred.width) == (3, 12)
        assert centred.core is net
        assert centred.factored is net
        assert centred.contraction() == net.contraction()

    def test_wants_a_network(self, key: jax.Array, unchecked: None) -> None:
        with pytest.raises(TypeError, match="^net must be a network, got int"):
            ink.Centred(3)
        with pytest.raises(TypeError, match="^initial must be a network, got int"):
            ink.Centred(network(key), 3)


LEAVES = {
    ink.ReluImplicit: dict(A=(5, 5), W=(3, 5), b=(5,), gamma=()),
    ink.ReluImplicitFull: dict(A=(5, 5), W=(5, 3), u=(5, 2), v=(5, 2), gamma=()),
    ink.MonotoneImplicit: dict(A=(5, 5), B=(5, 5), U=(5, 3), u=(5,), monotonicity=()),
    ink.ConvImplicit: dict(
        V=(3, 3, 1, 4), W1=(3, 3, 4, 2), W2=(3, 3, 2, 4), norm1=(2, 2), norm2=(2, 4), norm3=(2, 4), u=(4,)
    ),
}
MISFITS = [
    (
        ink.ReluImplicit,
        dict(A=(5, 4)),
        r"A must have shape \(m, m\), got \(5, 4\), where m = 5; ReluImplicit.init",
    ),
    (ink.ReluImplicit, dict(W=(5, 3)), r"W must have shape \(d, m\), got \(5, 3\), where m = 5, d = 5"),
    (ink.ReluImplicit, dict(b=(5, 2, 1)), r"b must have shape \(m, \*out\), got \(5, 2, 1\)"),
    (ink.ReluImplicit, dict(gamma=(1,)), r"gamma must have shape \(\), got \(1,\)"),
    (ink.ReluImplicitFull, dict(v=(5,)), r"v must have shape \(m, \*out\), got \(5,\), where .*out = \(2,\)"),
    (ink.MonotoneImplicit, dict(u=(4,)), r"u must have shape \(m, \*out\), got \(4,\), where m = 5"),
    (ink.ConvImplicit, dict(norm1=(3, 2)), r"norm1 must have shape \(2, inner\), got \(3, 2\)"),
    (ink.ConvImplicit, dict(W2=(3, 3, 4, 2)), r"W2 must have shape \(s, s, inner, channels\)"),
]


def by_hand(cls: Any, make: Any = np.ones, **shapes: tuple) -> Any:
    static: dict[str, Any] = dict(image_shape=(4, 4, 1), groups=1) if cls is ink.ConvImplicit else {}
    return cls(
        **{name: make(shape, np.float32) for name, shape in {**LEAVES[cls], **shapes}.items()}, **static
    )


@pytest.mark.parametrize(("cls", "shapes", "message"), MISFITS)
def test_leaves_that_do_not_fit(cls: Any, shapes: dict, message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        by_hand(cls, **shapes)


@pytest.mark.parametrize("cls", LEAVES)
def test_leaves_that_fit_or_are_not_known(cls: Any, unchecked: None) -> None:
    assert by_hand(cls).in_size in (3, 16)
    by_hand(cls, make=jax.ShapeDtypeStruct)
    by_hand(cls, make=lambda *form: None if len(form[0]) == 4 else jax.ShapeDtypeStruct((1, 1), form[1]))


@pytest.mark.parametrize("trained", [None, "AW", {"A": 1}])
def test_trained_is_a_tuple(trained: Any, unchecked: None) -> None:
    for make in (ink.ReluImplicit.init, ink.ReluImplicitFull.init, ink.MonotoneImplicit.init):
        with pytest.raises(TypeError, match=r"^trained must be a tuple of names such as \('A',\), got"):
            make(jax.random.key(0), 3, 4, trained=trained)
