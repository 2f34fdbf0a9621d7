"""The convolutional network of N22 (4.1) against loops over pixels, differences, and its own ablations."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.networks import trained_leaves, with_leaves

SMALL: dict[str, Any] = dict(image_shape=(4, 4, 2), channels=4, inner_channels=8, groups=2)
TINY: dict[str, Any] = dict(image_shape=(3, 2, 1), channels=2, inner_channels=2, groups=1, activation="tanh")
TIGHT = ink.Method(solver=ink.Picard(rtol=0.0), adjoint=ink.ImplicitAdjoint(ink.Neumann(rtol=0.0)))
NODES, WEIGHTS = np.array([-2.0, -1.0, 1.0, 2.0]), np.array([1.0, -8.0, 8.0, -1.0]) / 12


def network(key: jax.Array, **options: Any) -> ink.ConvImplicit:
    return ink.ConvImplicit.init(key, **{**SMALL, **options})


def images(rng: np.random.Generator, net: ink.AbstractNetwork, n: int = 3) -> np.ndarray:
    return rng.normal(size=(n, net.in_size)).astype(jnp.zeros(()).dtype)


def convolve(x: np.ndarray, filters: np.ndarray, stride: int = 1) -> np.ndarray:
    """Zero padding, the surplus below and to the right; a loop over images and output pixels."""
    size, (n, h, w, _) = filters.shape[0], x.shape
    out_h, out_w = -(-h // stride), -(-w // stride)
    extra = [max((o - 1) * stride + size - s, 0) for o, s in ((out_h, h), (out_w, w))]
    padded = np.pad(x, ((0, 0), *[(e // 2, e - e // 2) for e in extra], (0, 0)))
    out = np.zeros((n, out_h, out_w, filters.shape[-1]))
    for i in range(out_h):
        for j in range(out_w):
            patch = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.einsum("nabc,abco->no", patch, filters)
    return out


def normalise(x: np.ndarray, affine: np.ndarray, groups: int) -> np.ndarray:
    """A loop over images and groups."""
    out, size = np.empty_like(x), x.shape[-1] // groups
    for image in range(len(x)):
        for g in range(groups):
            part = x[image, ..., g * size : (g + 1) * size]
            out[image, ..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return out * affine[0] + affine[1]


def cell(net: ink.ConvImplicit, z: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """N22 (4.1) with the norms that are on."""
    sigma = np.tanh if net.activation == "tanh" else lambda x: np.maximum(x, 0)
    norm = [
        (lambda x, a=np.asarray(a): normalise(x, a, net.groups)) if on else (lambda x: x)
        for on, a in zip(net.norms, (net.norm1, net.norm2, net.norm3), strict=True)
    ]
    inner = norm[0](sigma(convolve(z, np.asarray(net.W1))))
    return norm[2](sigma(z + norm[1](phi + convolve(inner, np.asarray(net.W2)))))


def shaken(net: ink.ConvImplicit, rng: np.random.Generator) -> ink.ConvImplicit:
    """With norms whose scales and shifts are not one and zero."""
    return eqx.tree_at(
        lambda net: (net.norm1, net.norm2, net.norm3),
        net,
        replace_fn=lambda a: a + jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype),
    )


@pytest.mark.parametrize("options", [{}, {"activation": "tanh", "norms": (False, True, True)}])
def test_cell(options: dict, key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    net = shaken(network(key, weight_scale=0.3, **options), rng)
    z, phi = rng.normal(size=(2, 3, 4, 4, 4))
    assert_allclose(net.cell(jnp.asarray(z), jnp.asarray(phi)), cell(net, z, phi), rtol=1e-11, atol=1e-12)
    for name, other in ink.norm_ablations(net).items():
        found = other.cell(jnp.asarray(z), jnp.asarray(phi))
        assert_allclose(found, cell(other, z, phi), rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("stride", "size"), [(1, 3), (2, 3), (2, 5)])
def test_injection(stride: int, size: int, key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """Rows are images flattened in the order (h, w, c)."""
    net = network(key, image_shape=(5, 4, 2), stride=stride, kernel_size=size)
    x = rng.normal(size=(3, 5, 4, 2))
    found = net.inject(jnp.asarray(x.reshape(3, 40)))
    assert_allclose(found, convolve(x, np.asarray(net.V), stride), rtol=1e-12, atol=1e-13)
    assert found.shape == net.initial_state(found).shape == (3, -(-5 // stride), -(-4 // stride), 4)


def test_readout(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    z = rng.normal(size=(3, 4, 4, 4))
    state = jnp.asarray(z)
    whole, quarters = network(key), network(key, pool=2, outputs=5)
    assert_allclose(whole.readout(state, state), z.mean((1, 2)) @ np.asarray(whole.u), rtol=1e-12)
    blocks = [z[:, i : i + 2, j : j + 2].mean((1, 2)) for i in (0, 2) for j in (0, 2)]
    want = np.concatenate(blocks, axis=1) @ np.asarray(quarters.u)
    assert_allclose(quarters.readout(state, state), want, rtol=1e-12)
    assert (whole.out_shape, quarters.out_shape, quarters.u.shape) == ((), (5,), (16, 5))


def test_contractive_setting(key: jax.Array, rng: np.random.Generator, dtype: np.dtype) -> None:
    """At the default `weight_scale` Picard converges, at the spectral radius of the cell's Jacobian."""
    net = network(key)
    X = images(rng, net)
    eq = ink.solve(net, X)
    assert eq.succeeded.all() and eq.steps.max() < (80 if dtype == np.float32 else 160)
    moved = cell(net, np.asarray(eq.z, float), np.asarray(net.inject(jnp.asarray(X)), float))
    assert_allclose(moved, eq.z, atol=1e-4 if dtype == np.float32 else 1e-10)
    assert (ink.spectral_radius(net, X, key) < 0.95).all()
    assert net.contraction() == np.inf


def test_norms_keep_it_well_posed(key: jax.Array, rng: np.random.Generator) -> None:
    """Without `norm3` nothing bounds a state that is added to itself."""
    net = network(key)
    X = images(rng, net)
    method = ink.Method(solver=ink.Picard(max_steps=100), on_failure="report")
    solved = {k: ink.solve(v, X, method).succeeded.all() for k, v in ink.norm_ablations(net).items()}
    assert list(solved) == ["as is", "no norm1", "no norm2", "no norm3", "no norms"]
    assert solved["as is"] and not solved["no norm3"] and not solved["no norms"]


def test_rows_are_independent(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    net = network(key)
    X = images(rng, net)
    together, alone = ink.solve(net, X), ink.solve(net, X[1:])
    assert_allclose(together.z[1:], alone.z, rtol=1e-12, atol=1e-13)
    assert_array_equal(together.steps[1:], alone.steps)


@pytest.mark.parametrize("outputs", [2, pytest.param(None, marks=pytest.mark.slow)])
def test_kernel(outputs: int | None, key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """Blocks by autodiff against fourth-order differences of the outputs, and against the dense matrix."""
    net = shaken(network(key, **TINY, outputs=outputs, weight_scale=0.1), rng)
    X = images(rng, net, 2)
    blocks, dense = ink.ntk_blocks(net, X, method=TIGHT), ink.ntk_blocks(net, X, method=TIGHT, kind="dense")
    rows = differences(net, X)
    for name, block in blocks.items():
        want = jnp.tensordot(rows[name], rows[name], (-1, -1))
        assert_allclose(block, want, rtol=1e-8, atol=1e-9, err_msg=name)
        assert_allclose(block, dense[name], rtol=1e-12, atol=1e-12, err_msg=name)
    assert set(blocks) == set(net.trained)


def differences(net: ink.ConvImplicit, X: np.ndarray) -> dict[str, jax.Array]:
    """The Jacobian by differences of each number in each leaf, by leaf: (n, *out, size)."""
    leaves = trained_leaves(net)
    flat, unravel = ravel_pytree(leaves)
    steps, _ = ravel_pytree(jax.tree.map(lambda a: jnp.full_like(a, 2e-3 * jnp.sqrt(jnp.mean(a**2))), leaves))

    def column(i: jax.Array) -> jax.Array:
        at = lambda s: with_leaves(net, unravel(flat.at[i].add(s * steps[i])))(X, TIGHT)  # noqa: E731
        return jnp.tensordot(jnp.asarray(WEIGHTS), lax.map(at, jnp.asarray(NODES)), 1) / steps[i]

    columns = jax.jit(lambda: lax.map(column, jnp.arange(flat.size)))()
    rows = jnp.moveaxis(columns, 0, -1)
    by_leaf = jax.vmap(unravel)(rows.reshape(-1, flat.size))
    return {name: value.reshape(*rows.shape[:-1], -1) for name, value in by_leaf.items()}


def test_weight_tied_and_saved(key: jax.Array, rng: np.random.Generator, tmp_path: Any) -> None:
    net = network(key, stride=2, pool=1, norms=(True, False, True), trained=("u", "W1"), outputs=2)
    X = images(rng, net)
    for which in (net, ink.WeightTied(net, 3)):
        ink.save(tmp_path / "net", which)
        loaded = ink.load(tmp_path / "net")
        assert jax.tree.structure(loaded) == jax.tree.structure(which)
        assert_array_equal(loaded(X), which(X))


def test_convolutions_carry_their_precision(key: jax.Array, rng: np.random.Generator, products: Any) -> None:
    net = network(key)
    X = images(rng, net)
    found = products(jax.make_jaxpr(jax.grad(lambda net: net(X).sum()))(net))
    assert {"conv_general_dilated", "dot_general"} == {eqn.primitive.name for eqn in found}
    highest = jax.lax.Precision.HIGHEST
    assert all(eqn.params["precision"] == (highest, highest) for eqn in found)


def test_draw(key: jax.Array) -> None:
    net = ink.ConvImplicit.init(key, (8, 8, 3), weight_scale=0.02)
    shapes = {name: getattr(net, name).shape for name in net.trained}
    assert shapes == {
        **{"V": (3, 3, 3, 48), "W1": (3, 3, 48, 64), "W2": (3, 3, 64, 48)},
        **{"norm1": (2, 64), "norm2": (2, 48), "norm3": (2, 48), "u": (48,)},
    }
    for name, scale in {"V": 27**-0.5, "W1": 0.02, "W2": 0.02, "u": 48**-0.5}.items():
        leaf = getattr(net, name)
        assert_allclose(jnp.std(leaf), scale, rtol=4 / np.sqrt(2 * leaf.size), err_msg=name)
    assert_array_equal(net.norm1[0], 1)
    assert_array_equal(net.norm1[1], 0)
    assert net.injection_is_fixed is False and net.in_size == 192 and net.width == 8 * 8 * 48


BAD = {
    "image_shape must be": dict(image_shape=(4, 4)),
    "image_shape must be a positive integer": dict(image_shape=(4, 0, 2)),
    r"groups must divide channels and inner_channels, \(4, 8\), got 3": dict(groups=3),
    "groups must be a positive": dict(groups=0),
    r"pool must divide the maps' sides \(4, 4\), got 3": dict(pool=3),
    "channels must be a positive": dict(channels=0),
    "outputs must be a positive": dict(outputs=0),
    "stride must be a positive": dict(stride=0),
    "weight_scale must be a finite number": dict(weight_scale=-1.0),
    "norms must be three": dict(norms=(True, True)),
    "trained must be one of": dict(trained=("A",)),
    "activation must be one of": dict(activation="gelu"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options(message: str, key: jax.Array, unchecked: None) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        network(key, **BAD[message])
    assert "\n" not in str(caught.value)


def test_ablations_of_another_network(key: jax.Array, unchecked: None) -> None:
    with pytest.raises(TypeError, match="^net must be a ConvImplicit, got ReluImplicit"):
        ink.norm_ablations(ink.ReluImplicit.init(key, 3, 4))  # type: ignore[arg-type]


def test_anderson_needs_fewer_iterations_than_picard(x64, rng: np.random.Generator) -> None:
    """On a cell whose spectral radius at the equilibria is below one: 4 maps of 4 x 4, filters of 0.01."""
    net = ink.ConvImplicit.init(
        jax.random.key(0), (4, 4, 2), channels=4, inner_channels=8, groups=2, weight_scale=0.01
    )
    X = jnp.asarray(rng.normal(size=(3, net.in_size)))
    assert np.all(ink.spectral_radius(net, X, jax.random.key(1)) < 0.9)
    picard, anderson = (ink.solve(net, X, ink.Method(solver=s)) for s in (ink.Picard(), ink.Anderson()))
    assert np.all(2 * anderson.steps < picard.steps)
    np.testing.assert_allclose(anderson.z, picard.z, atol=1e-9)


def test_numpy_integers_are_integers(key: jax.Array, tmp_path: Any, unchecked: None) -> None:
    """`int64(2)` would be no JSON."""
    two, four = np.int64(2), np.int64(4)
    net = network(key, stride=two, groups=two, pool=np.int64(1), image_shape=(four, four, two))
    assert {type(n) for n in (net.stride, net.groups, *net.pool, *net.image_shape)} == {int}
    ink.save(tmp_path / "net", net)
    assert jax.tree.structure(ink.load(tmp_path / "net")) == jax.tree.structure(
        network(key, stride=2, pool=1)
    )
