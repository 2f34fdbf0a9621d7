"""What the limits are asked for, and what they refuse: wrappers, outputs, transformations, messages."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import implicit_ntk as ink
from implicit_ntk import infinite_width

D = 3


def network(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, D, **{"width": 6, "injection_activation": "identity", **options})


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, D))


@pytest.fixture
def X2(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(2, D))


def test_only_the_architecture_matters(key: jax.Array, X: np.ndarray, x64: None) -> None:
    """Not the weights, the width, pairing, centring, or the scaling that gave `gamma`."""
    want = infinite_width.ntk(network(key), X)
    other = jax.random.fold_in(key, 1)
    by_norm = network(other, scaling="operator_norm")
    by_norm = eqx.tree_at(lambda net: net.gamma, by_norm, jnp.asarray(0.4 / 6**0.5))
    for net in (network(other, width=9), network(other, paired=True), ink.Centred(network(other)), by_norm):
        assert_allclose(infinite_width.ntk(net, X), want, rtol=1e-14)
    tied = ink.WeightTied(network(key), 3)
    assert_array_equal(infinite_width.ntk(ink.Centred(tied), X), infinite_width.ntk(tied, X))


@pytest.mark.parametrize("trained", [("A",), ("W",), ("b",), ("b", "A"), ("A", "W", "b")])
def test_trained_leaves(trained: tuple[str, ...], key: jax.Array, X: np.ndarray) -> None:
    every = infinite_width.ntk_blocks(network(key, trained=("A", "W", "b")), X)
    limit = infinite_width.kernel(network(key, trained=trained), X)
    assert set(limit.blocks) == set(trained)
    for name in trained:
        assert_array_equal(limit.blocks[name], every[name])
    assert_allclose(limit.ntk, sum(every[name] for name in trained), rtol=1e-6)


def test_shapes(key: jax.Array, X: np.ndarray, X2: np.ndarray) -> None:
    """Those of `ink.ntk`, with the cross kernel a part of the kernel of all."""
    net = network(key)
    assert infinite_width.ntk(net, X, X2).shape == (4, 2)
    both = infinite_width.ntk(net, np.concatenate([X, X2]))
    assert_allclose(infinite_width.ntk(net, X, X2), both[:4, 4:], rtol=1e-6)


def test_outputs(key: jax.Array, X: np.ndarray, X2: np.ndarray) -> None:
    """With k outputs the scalar kernel for each of them, and zero between them."""
    scalar = infinite_width.ntk(network(key), X, X2)
    H = infinite_width.ntk(network(key, outputs=3), X, X2)
    assert H.shape == ink.ntk(network(key, outputs=3), X, X2).shape == (4, 3, 2, 3)
    assert_array_equal(H, np.einsum("ij,ce->icje", scalar, np.eye(3, dtype=np.float32)))


def test_zero_input(key: jax.Array, X: np.ndarray) -> None:
    """`z(0) = 0`: its kernel with everything vanishes."""
    net = ink.ReluImplicitFull.init(key, D, 4)
    H = infinite_width.ntk(net, np.concatenate([X, np.zeros((1, D))]))
    assert_allclose(H[-1], 0, atol=1e-15)
    assert np.isfinite(H).all()


def test_transformed(key: jax.Array, X: np.ndarray, x64: None) -> None:
    """Jitted and vmapped over networks of several `gamma0`, with the weights as tracers."""
    nets = jax.vmap(lambda g: network(key, gamma0=g))(jnp.array([0.1, 0.5, 1.2]))
    stacked = jax.jit(jax.vmap(lambda net: infinite_width.ntk(net, X)))(nets)
    for H, gamma0 in zip(stacked, (0.1, 0.5, 1.2), strict=True):
        assert_allclose(H, infinite_width.ntk(network(key, gamma0=gamma0), X), rtol=1e-12)


@pytest.mark.parametrize("outputs", [None, 2])
def test_linearized_flow(
    outputs: int | None, key: jax.Array, X: np.ndarray, X2: np.ndarray, rng: np.random.Generator, x64: None
) -> None:
    """Kernel regression and its path by the limit alone: unseen data, several outputs, inputs of any norm."""
    net = network(key, trained=("A", "W", "b"), outputs=outputs)
    out = () if outputs is None else (outputs,)
    y, u0, f0 = rng.normal(size=(4, *out)), np.zeros((4, *out)), np.zeros((2, *out))
    lin = ink.linearized_flow(infinite_width.ntk(net, X), u0, y)
    k0 = infinite_width.ntk(net, X2, X)
    scalar = network(key, trained=("A", "W", "b"))
    H, k = np.asarray(infinite_width.ntk(scalar, X)), infinite_width.ntk(scalar, X2, X)
    lam, Q = np.linalg.eigh(H)
    past = lambda t: Q @ (np.exp(-t * lam)[:, None] * (Q.T @ y.reshape(4, -1)))  # noqa: E731
    assert_allclose(lin(0.7), y - past(0.7).reshape(y.shape), rtol=1e-10)
    learnt = k @ np.linalg.solve(H, y.reshape(4, -1) - past(0.7))
    assert_allclose(lin.at(0.7, k0, f0), learnt.reshape(f0.shape), rtol=1e-8)
    assert_allclose(lin.limit(k0, f0), k @ np.linalg.solve(H, y), rtol=1e-8)
    with pytest.raises(ValueError, match="^k0 must have shape"):
        lin.limit(k0[..., :1], f0)


class TestRefusals:
    @pytest.mark.parametrize("name", ["activation", "injection_activation"])
    def test_activations(self, name: str, key: jax.Array, X: np.ndarray) -> None:
        for value in ("tanh", jnp.sin):
            with pytest.raises(ValueError, match=f"^{name} must be one of .*monte_carlo.* estimates it"):
                infinite_width.ntk(network(key, **{name: value}), X)

    def test_networks(self, key: jax.Array, X: np.ndarray, unchecked: None) -> None:
        with pytest.raises(ValueError, match="got MonotoneImplicit, whose limit is not known; .*monte_carlo"):
            infinite_width.ntk(ink.Centred(ink.MonotoneImplicit.init(key, D, 4)), X)
        with pytest.raises(TypeError, match="^net must be a network, got str"):
            infinite_width.ntk(cast(Any, "net"), X)

    @pytest.mark.parametrize(
        ("options", "edge"), [({}, 2), ({"injection_activation": "relu"}, 2), ({"activation": "identity"}, 1)]
    )
    def test_edge(self, options: dict[str, str], edge: float, key: jax.Array, X: np.ndarray) -> None:
        for gamma0 in (1.001 * edge**0.5, -2.0, 3.0):
            with pytest.raises(ValueError, match=rf"^gamma0 must be below sqrt\({edge}\).*WeightTied"):
                infinite_width.ntk(network(key, gamma0=gamma0, **options), X)
        net = network(key, gamma0=0.999 * edge**0.5, **options)
        assert np.isfinite(infinite_width.ntk(net, X)).all()
        deep = ink.WeightTied(network(key, gamma0=2.0, **options), 4)
        assert np.isfinite(infinite_width.ntk(deep, X)).all()

    def test_edge_in_a_transformation(self, key: jax.Array, X: np.ndarray) -> None:
        with pytest.raises(Exception, match="gamma0 must be below sqrt"):
            jax.jit(lambda g: infinite_width.ntk(network(key, gamma0=g), X))(1.5).block_until_ready()

    def test_weights_of_another_law(self, key: jax.Array, X: np.ndarray) -> None:
        """They are warned of, and only they: every other initialiser here passes, and a traced one."""
        for a_init in (ink.init.half_normal, ink.init.diagonal):
            net = network(key, width=64, a_init=a_init, scaling="operator_norm")
            with pytest.warns(UserWarning, match="^the entries of A have the mean .* diagonal"):
                infinite_width.ntk(net, X)
            jax.jit(lambda net: infinite_width.ntk(net, X))(net)
        for a_init in (ink.init.rademacher, ink.init.uniform, ink.init.orthogonal):
            infinite_width.ntk(network(key, width=64, a_init=a_init), X)

    def test_batches(self, key: jax.Array, X: np.ndarray, unchecked: None) -> None:
        with pytest.raises(ValueError, match="^X2 has 2 features but the network takes in_size=3"):
            infinite_width.ntk(network(key), X, X[:, :2])
        with pytest.raises(ValueError, match="^X1 must have shape"):
            infinite_width.ntk(network(key), X[0])

    def test_memory(self, key: jax.Array, X: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", "1000")
        with pytest.raises(MemoryError, match="^the limit kernel needs .*; pass fewer samples"):
            infinite_width.ntk(network(key), X)


class TestMonteCarlo:
    def test_moments(self, key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None) -> None:
        """Mean, standard deviation of a draw, standard error of the mean, for a network without a limit."""
        make = lambda key: ink.MonotoneImplicit.init(key, D, 5)  # noqa: E731
        found = infinite_width.monte_carlo(make, X, X2, key=key, seeds=4)
        draws = np.stack([ink.ntk(make(k), X, X2) for k in jax.random.split(key, 4)])
        assert_allclose(found.mean, draws.mean(0), rtol=1e-12)
        assert_allclose(found.std, draws.std(0, ddof=1), rtol=1e-10)
        assert_allclose(found.stderr, found.std / 2, rtol=1e-12)
        for level in (0.5, 0.95):
            want = stats.t.interval(level, 3, draws.mean(0), stats.sem(draws))
            assert_allclose(found.interval(level), want, rtol=1e-9)
        for level in (0.0, 1.0):
            with pytest.raises(ValueError, match="^level must lie between 0 and 1"):
                found.interval(level)

    def test_bad_input(self, X: np.ndarray) -> None:
        for seeds, message in ((1, "at least 2"), (0, "positive integer")):
            with pytest.raises(ValueError, match=f"^seeds must be .*{message}"):
                infinite_width.monte_carlo(network, X, seeds=seeds)

    @pytest.mark.parametrize("outputs", [None, 2])
    def test_stderr(self, outputs: int | None, key: jax.Array, X: np.ndarray, x64: None) -> None:
        """That of draws of the same architecture, to the width by `m^(-1/2)`."""
        net = ink.WeightTied(network(key, gamma0=0.7, trained=("A", "b"), outputs=outputs), 2)
        limit = infinite_width.kernel(ink.Centred(net), X)

        def make(key: jax.Array) -> ink.WeightTied:
            drawn = network(key, width=8, gamma0=0.7, trained=("A", "b"), outputs=outputs)
            return ink.WeightTied(drawn, 2)

        drawn = infinite_width.monte_carlo(make, X, key=key, seeds=3)
        options = dict(key=key, seeds=3, probe_width=8)
        assert_allclose(limit.stderr(32, **options), drawn.std / 2, rtol=1e-9)
        bias = limit.bias(32, **options)
        assert_allclose(bias.value, (drawn.mean - limit.ntk) / 4, rtol=1e-9, atol=1e-15)
        assert_allclose(bias.stderr, drawn.stderr / 4, rtol=1e-9)
        assert_allclose(bias.z * bias.stderr, bias.value, rtol=1e-12)
        with pytest.raises(ValueError, match="^width must be a positive integer"):
            limit.stderr(0)


class TestCompare:
    def test_side_by_side(self, key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None) -> None:
        """The limit, the kernel of the network itself, and the moments of other draws of its width."""
        net = network(key, width=8)
        found = infinite_width.compare(ink.Centred(net), X, X2, key=key, seeds=3)
        assert_allclose(found.limit, infinite_width.ntk(net, X, X2), rtol=1e-12)
        assert_allclose(found.draw, ink.ntk(net, X, X2), rtol=1e-10)
        drawn = infinite_width.monte_carlo(lambda k: network(k, width=8), X, X2, key=key, seeds=3)
        assert_allclose(found.drawn.mean, drawn.mean, rtol=1e-10)
        assert_allclose(found.z, (drawn.mean - found.limit) / drawn.stderr, rtol=1e-6)
        assert_array_equal(found.bias.value, found.drawn.mean - found.limit)
        lines = str(found).splitlines()
        assert lines[0] == "m = 8, 3 draws"
        assert len(lines) == 2 + 4 * 2 + 1
        assert lines[3].split()[0] == "0,1"
        assert f"{float(found.limit[0, 1]):.5g}" == lines[3].split()[1]

    def test_table(self, rng: np.random.Generator) -> None:
        """Of a symmetric kernel each pair once, no more lines than can be read, and how many lie far off."""
        mean, stderr = 1.0 + np.zeros((5, 5)), 0.1 + np.zeros((5, 5))
        limit = mean.copy()
        limit[1, 3] = limit[3, 1] = 1.5
        drawn = infinite_width.MonteCarlo(*map(jnp.asarray, (mean, stderr, 2 * stderr)), seeds=4)
        lines = str(infinite_width.Comparison(jnp.asarray(limit), drawn.mean, drawn, 9, True)).splitlines()
        assert len(lines) == 2 + 12 + 2
        assert lines[-2] == "... and 3 more entries"
        assert lines[-1] == "largest |z| 5.00; above 3 in 1 of 15 entries"

    def test_nothing_is_nothing(self) -> None:
        """An entry that is the limit in every draw lies no standard errors off."""
        zero = jnp.zeros(2)
        assert_array_equal(infinite_width.Bias(zero, zero).z, 0)
