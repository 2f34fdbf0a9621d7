"""What `J` promises its users: gradients, tangents, adjointness, statuses, errors."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink

KINDS = ("outer", "autodiff", "dense")
ALL = ("A", "W", "b")
N, D, M = 4, 3, 12


def network(key: jax.Array, centred: bool = False, **options: Any) -> ink.AbstractNetwork:
    net = ink.ReluImplicit.init(key, D, M, **{"trained": ALL, **options})
    # Centred on another draw, so that its outputs are not zero.
    return ink.Centred(net, ink.ReluImplicit.init(jax.random.fold_in(key, 1), D, M)) if centred else net


def inputs(key: jax.Array, n: int = N) -> jax.Array:
    return draw(key, n, (n, D))


def draw(key: jax.Array, number: int, shape: tuple[int, ...]) -> jax.Array:
    """By NumPy, whose draws need not be compiled."""
    rng = np.random.default_rng([number, *np.asarray(jax.random.key_data(key))])
    return jnp.asarray(rng.normal(size=shape))


def tangent(key: jax.Array, net: ink.AbstractNetwork) -> Any:
    leaves, form = jax.tree.flatten(eqx.filter(net, ink.trainable(net)))
    return form.unflatten([draw(key, 100 + i, leaf.shape) for i, leaf in enumerate(leaves)])


def inner(a: Any, b: Any) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


@pytest.mark.parametrize("centred", [False, True])
def test_gradient_of_the_loss(centred: bool, key: jax.Array, x64: None, tol_solve: dict) -> None:
    net, X = network(key, centred), inputs(key)
    y = jnp.sin(jnp.arange(float(N)))
    params, frozen = eqx.partition(net, ink.trainable(net))

    @eqx.filter_value_and_grad
    def loss(params: Any) -> jax.Array:
        return 0.5 * jnp.sum((eqx.combine(params, frozen)(X) - y) ** 2)

    before, gradient = loss(params)
    found = ink.jacobian(net, X).rmv(net(X) - y)
    assert jax.tree.structure(found) == jax.tree.structure(gradient)
    jax.tree.map(lambda a, b: assert_allclose(a, b, **tol_solve), found, gradient)
    step = jax.tree.map(lambda g: -1e-3 * g, found)
    moved = eqx.apply_updates(net, step)
    decrease = 0.5 * jnp.sum((moved(X) - y) ** 2) - before
    assert_allclose(decrease, inner(found, step), rtol=0.1)


def test_tangent_of_the_outputs(key: jax.Array, x64: None, tol_solve: dict) -> None:
    net, X = network(key, centred=True), inputs(key)
    params, frozen = eqx.partition(net, ink.trainable(net))
    v = tangent(key, net)
    _, want = jax.jvp(lambda params: eqx.combine(params, frozen)(X), (params,), (v,))
    assert_allclose(ink.jacobian(net, X).mv(v), want, **tol_solve)


@pytest.mark.parametrize("kind", KINDS)
def test_adjoint_pair(kind: str, key: jax.Array, dtype: np.dtype, tol: dict) -> None:
    net, X = network(key), inputs(key)
    J = ink.jacobian(net, X, kind=kind)
    assert J.shape == (N, M * M + D * M + M)
    v, r = tangent(key, net), draw(key, 99, (N,))
    assert_allclose(r @ J.mv(v), inner(J.rmv(r), v), **tol)
    assert {leaf.dtype for leaf in jax.tree.leaves((J.mv(v), J.rmv(r), J.gram()))} == {dtype}


@pytest.mark.parametrize("kind", ["outer", "autodiff"])
def test_float32_is_float64_rounded(kind: str, key: jax.Array, x64: None) -> None:
    net, X = network(key, trained=ALL), inputs(key)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), net)
    want = ink.jacobian(net, X, kind=kind).blocks()
    found = ink.jacobian(low, X.astype(jnp.float32), kind=kind).blocks()
    for name in ALL:
        assert found[name].dtype == jnp.float32
        assert_allclose(found[name], want[name], rtol=1e-5, atol=1e-5 * want[name].max())


def test_trained_leaves_choose_the_columns(key: jax.Array, x64: None) -> None:
    """Every subset and order of the trained leaves: the others' blocks, gradients and size are gone."""
    orders = [s for k in (1, 2, 3) for s in itertools.permutations(ALL, k)]
    subsets = [s for s in orders if len(s) < 3 and s == tuple(sorted(s))] + [ALL, ALL[::-1]]
    assert len(subsets) == 8
    nets = {s: network(key, trained=s) for s in subsets}
    X, method = inputs(key), ink.Method(on_failure="nan")

    @eqx.filter_jit
    def everything(nets: dict, X: jax.Array) -> dict:
        operators = {s: ink.jacobian(net, X, method) for s, net in nets.items()}
        return {s: (J.shape, J.blocks(), J.gram(), J.rmv(X[:, 0])) for s, J in operators.items()}

    found = everything(nets, X)
    sizes = {"A": M * M, "W": D * M, "b": M}
    _, blocks, _, gradient = found[ALL]
    for subset, (shape, mine, gram, pulled) in found.items():
        assert shape == (N, sum(sizes[name] for name in subset))
        assert set(mine) == set(subset)
        assert_allclose(gram, sum(blocks[name] for name in subset), rtol=1e-12)
        for name in ALL:
            part = getattr(pulled, name)
            if name in subset:
                assert_allclose(part, getattr(gradient, name), rtol=1e-12, atol=1e-14)
            else:
                assert part is None


def test_cross_gram(key: jax.Array, x64: None, tol: dict) -> None:
    net, X1, X2 = network(key), inputs(key), inputs(key, 2)
    for kind in ("outer", "autodiff"):
        J1, J2 = (ink.jacobian(net, X, kind=kind) for X in (X1, X2))
        want = jax.vmap(lambda r: J1.mv(J2.rmv(r)))(jnp.eye(N)[:2, :2]).T
        assert_allclose(J1.gram(J2), want, **tol)
        assert_allclose(J2.gram(J1), want.T, **tol)


def test_gram_between_two_networks(key: jax.Array, x64: None) -> None:
    """`J J'^T` with `J'` of the same network at other weights, as second-order integrators use."""
    X, here = inputs(key), network(key)
    there = network(jax.random.fold_in(key, 5))
    J, K = (ink.jacobian(net, X) for net in (here, there))
    unit = jnp.eye(N)
    assert_allclose(J.gram(K), jax.vmap(lambda r: J.mv(K.rmv(r)))(unit).T, rtol=1e-12)


@pytest.mark.parametrize("tile", [1, 2, 3])
def test_autodiff_tiles(
    tile: int, key: jax.Array, monkeypatch: pytest.MonkeyPatch, x64: None, tol: dict
) -> None:
    """Tiles that do not divide the batches, and tiles larger than the other batch."""
    net, X1, X2 = network(key), inputs(key), inputs(key, 2)
    want = ink.jacobian(net, X1).gram(ink.jacobian(net, X2))
    J, K = (ink.jacobian(net, X, kind="autodiff") for X in (X1, X2))
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(16 * J.shape[1] * 8 * tile))
    assert J._tile() == tile
    with J.linearization.method.products():
        found = J.kernel_blocks(K)  # what `J.gram(K)` compiles, under whatever limit it met first
    assert_allclose(sum(found.values()), want, **tol)


@pytest.mark.parametrize("kind", KINDS)
def test_damped_iterates_have_the_same_jacobian(kind: str, key: jax.Array, x64: None) -> None:
    """Under damping a unit that is off holds a tiny positive number, not zero: it has no slope."""
    net, X = network(key, gamma0=0.6), inputs(key)
    damped = ink.Method(solver=ink.Picard(damping=0.5))
    z = ink.solve(net, X).z
    assert jnp.any((z == 0) & (ink.solve(net, X, method=damped).z > 0)), "the case at hand"
    found = ink.jacobian(net, X, method=damped, kind=kind).gram()
    assert_allclose(found, ink.jacobian(net, X).gram(), rtol=1e-9)


@pytest.mark.parametrize("kind", ["outer", "autodiff"])
def test_awkward_rows(kind: str, key: jax.Array, x64: None) -> None:
    """A zero row has a zero gradient; duplicated rows have the same one."""
    net, x = network(key), inputs(key)[0]
    J = ink.jacobian(net, jnp.stack([0 * x, x, x, -x]), kind=kind)
    H = J.gram()
    assert_array_equal(H[0], 0)
    assert_array_equal(H[1], H[2])
    jax.tree.map(lambda leaf: assert_array_equal(leaf, 0), J.rmv(jnp.eye(N)[0]))


def test_reproducible(key: jax.Array) -> None:
    first, again = (ink.jacobian(network(key), inputs(key)) for _ in range(2))
    jax.tree.map(assert_array_equal, first, again)


class TestFailure:
    """Every kind tells a failed solve, eagerly by `ConvergenceError` and under jit by `RuntimeError`."""

    FORWARD = ink.Method(solver=ink.Picard(max_steps=2))
    ADJOINT = ink.Method(adjoint=ink.ImplicitAdjoint(ink.Neumann(max_steps=2)))

    @pytest.mark.parametrize("kind", ["outer", "dense"])
    @pytest.mark.parametrize(("method", "what"), [(FORWARD, "forward"), (ADJOINT, "adjoint")])
    def test_eager(self, kind: str, method: ink.Method, what: str, key: jax.Array) -> None:
        message = rf"4 of 4 failed: the {what} .*reached max_steps"
        with pytest.raises(ink.ConvergenceError, match=message):
            ink.jacobian(network(key), inputs(key), method=method, kind=kind)

    @pytest.mark.parametrize(
        ("kind", "method", "what"),
        [
            ("outer", FORWARD, "forward"),
            ("outer", ADJOINT, "adjoint"),
            ("dense", ADJOINT, "adjoint"),
            pytest.param("autodiff", ADJOINT, "adjoint", marks=pytest.mark.slow),
            pytest.param("dense", FORWARD, "forward", marks=pytest.mark.slow),
        ],
    )
    def test_under_jit(self, kind: str, method: ink.Method, what: str, key: jax.Array) -> None:
        net = network(key)
        gram = jax.jit(lambda X: ink.jacobian(net, X, method=method, kind=kind).gram())
        with pytest.raises(RuntimeError, match=f"the {what} .*reached max_steps"):
            jax.block_until_ready(gram(inputs(key)))


DOOR = [
    (dict(kind="fast"), ValueError, r"kind must be one of \('auto', .*'dense'\), got 'fast'"),
    (dict(method=ink.Method(adjoint=ink.Unrolled())), ValueError, r"method.adjoint=Unrolled\(\) gives no"),
    (dict(method=ink.Method(adjoint=ink.JacobianFree())), ValueError, "method.adjoint=JacobianFree"),
    (dict(net=network(jax.random.key(0), trained=())), ValueError, "net trains nothing; name its trained"),
    (dict(X=np.ones((2, 4))), ValueError, "X has 4 features but the network takes in_size=3"),
    (dict(X=np.ones((2, 3), int)), TypeError, "X must be floating point"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), DOOR)
def test_door(arguments: dict, error: type, message: str, unchecked: None) -> None:
    good = {"net": network(jax.random.key(0)), "X": np.ones((2, 3), np.float32)}
    with pytest.raises(error, match=f"^{message}") as caught:
        ink.jacobian(**{**good, **arguments})
    assert "\n" not in str(caught.value)


def test_dense_past_the_memory_limit(key: jax.Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", "1000")
    message = r"^a dense Jacobian of 4 rows needs .* GiB, past the limit of .* GiB; use kind='auto', or set"
    with pytest.raises(MemoryError, match=message):
        ink.jacobian(network(key), inputs(key), kind="dense")


class TestArguments:
    """Cotangents, tangents and other Jacobians of the wrong form."""

    @pytest.fixture
    def J(self) -> Any:
        key = jax.random.key(0)
        return ink.jacobian(network(key), inputs(key))

    @pytest.mark.parametrize(
        ("r", "error", "message"),
        [
            (
                np.ones(3, np.float32),
                ValueError,
                r"r must have shape \(4,\), one number an output, got \(3,\)",
            ),
            (np.ones((4, 1), np.float32), ValueError, r"r must have shape \(4,\)"),
            (np.ones(4, int), TypeError, "r must be floating point"),
            (np.ones(4, np.float16), TypeError, r"r is float16 but the outputs are float32; cast r with"),
            (np.full(4, np.nan, np.float32), ValueError, "r holds NaN or infinite values"),
        ],
    )
    def test_cotangent(self, J: Any, r: Any, error: type, message: str, unchecked: None) -> None:
        with pytest.raises(error, match=f"^{message}"):
            J.rmv(r)

    def test_tangent(self, J: Any) -> None:
        for wrong in (J.net, None, {"A": J.net.A, "W": J.net.W, "b": J.net.b}):
            with pytest.raises(ValueError, match="^tangent must have the structure"):
                J.mv(wrong)

    def test_other(self, J: Any, key: jax.Array, unchecked: None) -> None:
        A, W, b, gamma = jax.tree.leaves(J.net)

        def of(net: ink.AbstractNetwork) -> Any:
            return eqx.tree_at(lambda J: J.linearization.net, J, net)

        others = {
            "kind": ink.jacobian(network(key), inputs(key), kind="autodiff"),
            "leaves": of(network(key, trained=("A",))),
            "order": of(network(key, trained=ALL[::-1])),
            "width": of(ink.ReluImplicit(A[1:, 1:], W[:, 1:], b[1:], gamma, trained=ALL)),
            "dtype": of(jax.tree.map(lambda leaf: leaf.astype(jnp.float16), J.net)),
            "no Jacobian": inputs(key),
        }
        for other in others.values():
            for product in (J.gram, J.blocks):
                with pytest.raises(ValueError, match="^other must be a Jacobian of the same kind"):
                    product(other)


def test_outputs_at_the_precision_of_the_method(key: jax.Array, products: Any) -> None:
    at = ink.jacobian(network(key), inputs(key), ink.Method(precision="high")).linearization
    outputs = lambda z: eqx.tree_at(lambda at: at.equilibrium.z, at, z).outputs  # noqa: E731
    (product,) = products(jax.make_jaxpr(outputs)(at.equilibrium.z))
    assert product.params["precision"] == (jax.lax.Precision.HIGH,) * 2
