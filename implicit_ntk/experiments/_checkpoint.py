"""Arrays on disk that survive: a file is the old one or the new one, whole, whenever the process is killed.

A checkpoint is an `.npz` of the leaves of a pytree under their paths, no pickle. It is restored into the
structure of a tree that the same settings build, so that a file of other settings is refused.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

Number = bool | int | float


def save_tree(path: Path, tree: PyTree) -> None:
    """Write the leaves of a tree to `path`: JAX's and NumPy's arrays, `jax.random` keys, Python's numbers.

    The file is written beside `path`, synced and renamed: one process at a time may write it.

    Raises `TypeError` for other leaves and for dtypes that `.npz` files do not hold, `ValueError` for two
    leaves of one path.
    """
    stored = {name: _stored(leaf, name) for name, leaf in _named(tree).items()}
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **stored)


def load_tree(path: Path, like: PyTree) -> PyTree:
    """The tree that `save_tree` wrote, bit for bit, in the structure of `like`.

    **Arguments:** `like`, a tree of the same leaves; in place of JAX's arrays it may hold
    `jax.ShapeDtypeStruct`.

    **Raises:** `FileNotFoundError`; `ValueError` for a file that is not whole, and for one of other
    leaves, shapes or dtypes, naming the first that differs.
    """
    stored, expected = load_arrays(path), _named(like)
    for name in [*expected, *stored]:
        there = _form(stored[name]) if name in stored else "missing"
        here = _form(expected[name]) if name in expected else "missing"
        if there != here:
            raise ValueError(
                f"path: {path} is of other settings: {name} is {there} there and {here} here; remove it, "
                "or go on with the settings that wrote it"
            )
    leaves = [_restored(stored[name], leaf) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The leaves of a tree by their paths, `a/b` for `{"a": {"b": ...}}`, as NumPy's arrays.

    Raises `FileNotFoundError`, and `ValueError` for a file that is not whole.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, AttributeError, TypeError):
        raise ValueError(f"path: {path} is no whole checkpoint; remove it, and its run starts anew") from None


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary, whole or not at all; what JSON does not know goes as its text."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2, default=str) + "\n").encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when all of it is on the disk, or leaves that as it was."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; a rename is there when its folder is."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _named(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths."""
    leaves = jax.tree.leaves_with_path(tree)
    named = {_name(path, leaf): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise ValueError("tree: two of its leaves have one path; rename the keys that hold a slash")
    return named


def _name(path: tuple, leaf: Any) -> str:
    """The path, and of a key its kind: the same words are another key to another generator."""
    name = jax.tree_util.keystr(path, simple=True, separator="/") or "leaf"
    return f"{name}:{jax.random.key_impl(leaf)}" if _is_key(leaf) else name


def _is_key(leaf: Any) -> TypeGuard[jax.Array]:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf: Any, name: str) -> np.ndarray:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic | Number):
        raise TypeError(f"tree: {name} is a {type(leaf).__name__}; a checkpoint holds arrays and numbers")
    value = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    if value.dtype.isbuiltin != 1 or value.dtype.hasobject:
        raise TypeError(f"tree: {name} is {value.dtype}, which .npz files do not hold; cast it to float32")
    return value


def _form(leaf: Any) -> str:
    """Dtype and shape, as a message has them."""
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    leaf = np.asarray(leaf) if isinstance(leaf, Number) else leaf
    return f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"


def _restored(value: np.ndarray, like: Any) -> Any:
    if isinstance(like, Number):
        return type(like)(value[()])
    if isinstance(like, np.ndarray | np.generic):
        return value[()] if isinstance(like, np.generic) else value
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    return jnp.asarray(value)
