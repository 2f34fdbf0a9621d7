"""From settings to networks: the papers' by name, with their own defaults, and saved ones."""

import chex
import jax
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.experiments import NetworkConfig

FLOAT32 = np.dtype("float32")


def drawn(config: NetworkConfig):
    return config.build(5, (4, 4, 1), FLOAT32)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"width": 6, "gamma0": 0.3, "injection_activation": "tanh", "trained": ("A", "b")},
            lambda key: ink.ReluImplicit.init(
                key, 5, 6, 0.3, injection_activation="tanh", trained=("A", "b")
            ),
        ),
        (
            {"network": "relu-implicit-full", "width": 6, "outputs": 2},
            lambda key: ink.ReluImplicitFull.init(key, 5, 6, outputs=2),
        ),
        (
            {"network": "monotone", "width": 6, "monotonicity": 2.0, "activation": "tanh", "depth": 3},
            lambda key: ink.WeightTied(
                ink.MonotoneImplicit.init(key, 5, 6, monotonicity=2.0, activation="tanh"), 3
            ),
        ),
        ({"network": "conv", "width": 16}, lambda key: ink.ConvImplicit.init(key, (4, 4, 1), channels=16)),
    ],
)
def test_is_what_its_constructor_draws(settings, wanted):
    for seed in (None, 3):
        net = drawn(NetworkConfig(**settings, seed=seed))
        chex.assert_trees_all_equal(net, wanted(jax.random.key(seed or 0)))


@pytest.mark.parametrize(
    ("network", "width", "others"),
    [
        (None, 1000, {"network": "relu-implicit", "gamma0": 0.4, "trained": ("A",)}),
        ("relu-implicit-full", 1000, {"gamma0": 0.1, "trained": ("A", "W", "u", "v")}),
        ("monotone", 1000, {"monotonicity": 1.0, "gamma0": None, "injection_activation": None}),
        ("conv", 48, {"activation": "relu", "gamma0": None}),
    ],
)
def test_complete_writes_the_defaults_out(network, width, others):
    found = NetworkConfig(network).complete()
    assert found.width == width and found.seed == 0 and found.outputs is None
    assert {name: getattr(found, name) for name in others} == others
    found.check()
    assert found.complete() == found
    assert NetworkConfig(network, width=7, seed=2).complete().width == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"monotonicity": 1.0}, "monotonicity does not apply to the network relu-implicit"),
        ({"network": "monotone", "gamma0": 0.1}, "gamma0 does not apply to the network monotone"),
        ({"network": "conv", "injection_activation": "relu"}, "injection_activation does not apply"),
        ({"load": "x.npz", "width": 10}, "width does not apply to a network that is loaded"),
        ({"load": "x.npz", "seed": 0}, "seed does not apply"),
        ({"load": "x.npz", "depth": 2}, "depth does not apply"),
        ({"width": 0}, "width must be a positive integer"),
        ({"depth": 0}, "depth must be a positive integer"),
        ({"outputs": -1}, "outputs must be a positive integer"),
        ({"network": "transformer"}, "network must be one of"),
    ],
)
def test_settings_that_do_not_apply_are_refused(settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**settings).check()


def test_conv_wants_images():
    with pytest.raises(ValueError, match="conv takes images"):
        NetworkConfig("conv").build(5, None, FLOAT32)


def test_saved_network_is_read_in_its_own_precision(tmp_path, x64):
    net = ink.ReluImplicit.init(jax.random.key(1), 3, 4, dtype="float64")
    ink.save(tmp_path / "net.npz", net)
    config = NetworkConfig(load=tmp_path / "net.npz")
    chex.assert_trees_all_equal(config.build(3, None, np.dtype("float64")), net)
    with jax.enable_x64(False), pytest.raises(ValueError, match="is float64; ask for float64"):
        config.build(3, None, FLOAT32)
    with pytest.raises(FileNotFoundError, match="load: .* is not a file"):
        NetworkConfig(load=tmp_path / "none.npz").build(3, None, FLOAT32)
