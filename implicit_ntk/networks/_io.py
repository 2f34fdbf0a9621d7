"""Networks on disk: one `.npz` of plain arrays and a JSON header, no pickle."""

import dataclasses
import json
import os
import pathlib
import zipfile
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from implicit_ntk.networks._centred import Centred
from implicit_ntk.networks._conv_implicit import ConvImplicit
from implicit_ntk.networks._dtype import require_exact
from implicit_ntk.networks._monotone_implicit import MonotoneImplicit
from implicit_ntk.networks._network import AbstractNetwork
from implicit_ntk.networks._relu_implicit import ReluImplicit
from implicit_ntk.networks._relu_implicit_full import ReluImplicitFull
from implicit_ntk.networks._scaled import Scaled
from implicit_ntk.networks._weight_tied import WeightTied

FORMAT = 1
HEADER = "implicit_ntk"
_NOT_OURS = "path: {} holds no network; pass a file written by implicit_ntk.save"
STORED: tuple[type[AbstractNetwork], ...] = (
    ReluImplicit,
    ReluImplicitFull,
    MonotoneImplicit,
    ConvImplicit,
    Centred,
    WeightTied,
    Scaled,
)
"""The classes that `save` writes and `load` rebuilds, from the fields of their constructor."""
_CLASSES = {cls.__name__: cls for cls in STORED}


def save(path: str | os.PathLike, net: AbstractNetwork) -> None:
    """Write a network to `path`, whole or not at all (written beside it, then renamed).

    Raises `TypeError` for a class that `load` would not know, for activations that are functions (code
    is not stored), and for static fields that are not made of numbers, names and tuples.
    """
    arrays: dict[str, np.ndarray] = {}
    header = {"format": FORMAT, "network": _describe(net, "", arrays)}
    arrays[HEADER] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike) -> AbstractNetwork:
    """Read a network that `save` wrote; same leaves bit for bit, same static fields.

    Raises `FileNotFoundError`; `ValueError` for a file that is none of ours, of a newer format, or
    whose float64 leaves the current JAX configuration would round.
    """
    with open(path, "rb") as stream:
        # NumPy would take other files for arrays or pickles, and fail on them in ways of its own.
        if not zipfile.is_zipfile(stream):
            raise ValueError(_NOT_OURS.format(path))
    with np.load(path, allow_pickle=False) as file:
        if HEADER not in file:
            raise ValueError(_NOT_OURS.format(path))
        header = json.loads(file[HEADER].tobytes().decode())
        if header["format"] > FORMAT:
            raise ValueError(
                f"path: {path} has format {header['format']}, this version reads up to {FORMAT}; "
                "update implicit_ntk"
            )
        return _rebuild(header["network"], "", file)


def _describe(net: AbstractNetwork, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The network's class and static fields; its arrays go to `arrays` under their path."""
    name = type(net).__name__
    if _CLASSES.get(name) is not type(net):
        raise TypeError(
            f"net: cannot save a {name}; save its leaves with numpy, or one of {sorted(_CLASSES)}"
        )
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(net):
        value = getattr(net, field.name)
        if isinstance(value, AbstractNetwork):
            fields[field.name] = _describe(value, f"{prefix}{field.name}.", arrays)
        elif eqx.is_array(value):
            arrays[f"{prefix}{field.name}"] = _storable(value, field.name)
        elif callable(value):
            raise TypeError(f"net: {field.name} is a function, which is not stored; use a named activation")
        else:
            fields[field.name] = {"value": _plain(value, field.name)}
    return {"class": name, "fields": fields}


def _plain(value: Any, name: str) -> Any:
    """A static field as JSON has it: tuples, nested ones too, are lists there."""
    if isinstance(value, tuple):
        return [_plain(part, name) for part in value]
    if value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"net: {name} holds a {type(value).__name__}, which is not stored; use numbers, names and tuples"
        )
    return value


def _tuples(value: Any) -> Any:
    """The inverse of `_plain`: static fields hold tuples, never lists, for they are hashed."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _storable(leaf: Any, name: str) -> np.ndarray:
    if np.dtype(leaf.dtype).isbuiltin != 1:
        raise TypeError(f"net: {name} is {leaf.dtype}, which .npz files do not hold; cast it to float32")
    return np.asarray(leaf)


def _rebuild(description: dict[str, Any], prefix: str, file: Any) -> AbstractNetwork:
    cls = _CLASSES.get(description["class"])
    if cls is None:
        raise ValueError(f"path: unknown network class {description['class']!r}; update implicit_ntk")
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        entry = description["fields"].get(field.name)
        if entry is None:
            values[field.name] = _exactly(file[f"{prefix}{field.name}"])
        elif "class" in entry:
            values[field.name] = _rebuild(entry, f"{prefix}{field.name}.", file)
        else:
            values[field.name] = _tuples(entry["value"])
    return cls(**values)


def _exactly(stored: np.ndarray) -> Any:
    """A stored array in its own dtype; JAX would round float64 to float32 without a word."""
    require_exact(stored.dtype, "path: the stored network")
    return jnp.asarray(stored)
