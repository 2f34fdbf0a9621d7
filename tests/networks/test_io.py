"""Networks on disk: the same bits back, whole files or none, errors that say what to do."""

import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import implicit_ntk as ink
from implicit_ntk.networks import _io

OPTIONS = {
    "default": {},
    "smooth": dict(activation="tanh", injection_activation="identity", trained=("b", "A")),
    "paired": dict(paired=True, trained=("A", "W", "b")),
    "scaled": dict(scaling="operator_norm", a_init=ink.init.half_normal, trained=()),
}


def network(options: str = "default", **more: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(jax.random.key(3), 3, 12, **OPTIONS[options], **more)


def same(a: Any, b: Any) -> bool:
    """Structure (static fields included), dtypes, shapes and bits."""
    bits = [[(x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(n)] for n in (a, b)]
    return jax.tree.structure(a) == jax.tree.structure(b) and bits[0] == bits[1]


def write(path: Path, header: Any, **arrays: np.ndarray) -> Path:
    """A file with a header of our own making."""
    coded = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, **{_io.HEADER: coded}, **arrays)
    return path


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("centred", [False, True])
def test_round_trip(options: str, centred: bool, dtype: np.dtype, tmp_path: Path) -> None:
    net = network(options)
    if centred:
        net = ink.Centred(network(options, gamma0=0.1), net)
    ink.save(tmp_path / "net", net)
    assert same(ink.load(tmp_path / "net"), net)
    ink.save(str(tmp_path / "net"), ink.load(str(tmp_path / "net")))
    assert same(ink.load(tmp_path / "net"), net)
    assert os.listdir(tmp_path) == ["net"]


OTHERS = {
    "full": lambda key: ink.ReluImplicitFull.init(
        key, 3, 8, outputs=2, activation="tanh", trained=("v", "A")
    ),
    "monotone": lambda key: ink.MonotoneImplicit.init(key, 3, 8, monotonicity=1 / 3, paired=True),
    "monotone, k outputs": lambda key: ink.MonotoneImplicit.init(key, 3, 8, outputs=1, trained=("u",)),
    "centred": lambda key: ink.Centred(
        ink.MonotoneImplicit.init(key, 3, 8), ink.ReluImplicitFull.init(key, 3, 8)
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_round_trip_of_other_networks(what: str, key: jax.Array, dtype: np.dtype, tmp_path: Path) -> None:
    net = OTHERS[what](key)
    ink.save(tmp_path / "net", net)
    assert same(ink.load(tmp_path / "net"), net)


class Later(ink.ReluImplicitFull):
    """A network with every static field that files hold."""

    shape: tuple = eqx.field(static=True, default=())
    step: float = eqx.field(static=True, default=0.0)
    name: str | None = eqx.field(static=True, default=None)
    bias: jax.Array | None = None


def later(key: jax.Array, **fields: Any) -> Later:
    net = ink.ReluImplicitFull.init(key, 3, 8)
    return Later(net.A, net.W, net.u, net.v, net.gamma, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        dict(shape=((3, 3), ("same", (1, (2,))), True, None), step=0.1 + 0.2, name="two words, ü"),
        dict(shape=((), ((),)), step=float("inf"), bias=jnp.arange(3)),
        dict(step=5e-324, name=""),
    ],
)
def test_nested_static_fields(
    fields: dict, key: jax.Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_io._CLASSES, "Later", Later)
    net = ink.Centred(later(key, **fields))
    ink.save(tmp_path / "net", net)
    assert same(ink.load(tmp_path / "net"), net)


@pytest.mark.parametrize("value", [frozenset({1}), (1, (2, b"three")), 1j])
def test_static_field_that_is_not_stored(
    value: Any, key: jax.Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None
) -> None:
    monkeypatch.setitem(_io._CLASSES, "Later", Later)
    with pytest.raises(TypeError, match=r"^net: shape holds a \w+, which is not stored; use numbers, names"):
        ink.save(tmp_path / "net", later(key, shape=value))
    assert os.listdir(tmp_path) == []


def test_float32_network_with_x64_on(x64: None, tmp_path: Path) -> None:
    net = network(dtype=jnp.float32)
    ink.save(tmp_path / "net", net)
    assert same(ink.load(tmp_path / "net"), net)


def test_loaded_network_computes_the_same_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    net, X = network(), rng.normal(size=(4, 3)).astype(np.float32)
    ink.save(tmp_path / "net", net)
    assert_array_equal(ink.load(tmp_path / "net")(X), net(X))


@pytest.mark.parametrize("fails", ["savez", "fsync", "replace"])
def test_failed_write_leaves_the_old_file(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old = tmp_path / "net", network()
    ink.save(path, old)

    def disk_full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np if fails == "savez" else os, fails, disk_full)
    with pytest.raises(OSError, match="disk full"):
        ink.save(path, network(gamma0=0.1))
    assert os.listdir(tmp_path) == ["net"]
    assert same(ink.load(path), old)


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ink.save(tmp_path / "net", network())
    assert os.listdir(tmp_path) == []


def test_file_mode_is_the_users(tmp_path: Path) -> None:
    ink.save(tmp_path / "net", network())
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "net").stat().st_mode == (tmp_path / "plain").stat().st_mode


class Mine(ink.ReluImplicit):
    """A class that `load` cannot know."""


def refused() -> dict[str, tuple[Any, str]]:
    net = network()
    mine = Mine(net.A, net.W, net.b, net.gamma)
    return {
        "activation": (network(activation=jnp.tanh), "net: activation is a function"),
        "injection": (network(injection_activation=jnp.tanh), "net: injection_activation is a function"),
        "inside": (ink.Centred(network(activation=jnp.tanh)), "net: activation is a function"),
        "class": (mine, r"net: cannot save a Mine; .* one of \['Centred', .*'MonotoneImplicit', "),
        "class inside": (ink.Centred(mine), "net: cannot save a Mine"),
        "bfloat16": (network(dtype=jnp.bfloat16), "net: A is bfloat16, .* cast it to float32"),
    }


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
@pytest.mark.parametrize("what", refused())
def test_save_refuses(what: str, tmp_path: Path) -> None:
    net, message = refused()[what]
    with pytest.raises(TypeError, match=f"^{message}") as caught:
        ink.save(tmp_path / "net", net)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_missing_file_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        ink.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"nowhere.net"):
        ink.save(tmp_path / "nowhere" / "net", network())


def not_ours(folder: Path) -> dict[str, Path]:
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_text("hello")
    (folder / "pickle").write_bytes(b"\x80\x04N.")
    np.save(folder / "array.npy", np.ones(3))
    np.savez(folder / "arrays.npz", A=np.ones(3))
    ink.save(folder / "cut", network())
    (folder / "cut").write_bytes((folder / "cut").read_bytes()[:-100])
    return {path.name: path for path in folder.iterdir()}


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    for name, path in not_ours(tmp_path).items():
        with pytest.raises(ValueError, match=f"^path: .*{name} holds no network; pass a file") as caught:
            ink.load(path)
        assert "\n" not in str(caught.value), name


def test_newer_format_and_unknown_class(tmp_path: Path) -> None:
    newer = write(tmp_path / "newer", {"format": _io.FORMAT + 1, "network": {}})
    with pytest.raises(ValueError, match=r"format 2, this version reads up to 1; update implicit_ntk$"):
        ink.load(newer)
    unknown = write(tmp_path / "unknown", {"format": 1, "network": {"class": "Later", "fields": {}}})
    with pytest.raises(ValueError, match=r"unknown network class 'Later'; update implicit_ntk$"):
        ink.load(unknown)


def test_float64_file_with_x64_off(tmp_path: Path) -> None:
    with jax.enable_x64(True):
        ink.save(tmp_path / "net", network())
    with pytest.raises(ValueError, match="^path: .* is float64 but JAX is set to 32 bits; call jax.config"):
        ink.load(tmp_path / "net")
