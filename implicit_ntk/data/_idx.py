"""The IDX format of MNIST and Fashion-MNIST.

A file is the bytes 0, 0, type, number of dimensions; the dimensions as big-endian 32-bit integers;
then the values, last index fastest. Both data sets store unsigned bytes (type 8), and so do we.
"""

import gzip
import io
import math
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ._files import AnyPath, read_bytes
from ._images import Images

_UNSIGNED_BYTE = 0x08


def read_idx(images_path: AnyPath, labels_path: AnyPath, name: str = "idx") -> Images:
    """Images (n, h, w) and labels (n,) from a pair of IDX files, gzip or plain.

    **Raises:** `FileNotFoundError`; `ValueError` on a damaged file, on files that hold something
    else, or on unequal numbers of images and labels.
    """
    images = _with_dimensions(images_path, 3, "images (n, h, w)")
    labels = _with_dimensions(labels_path, 1, "labels (n,)")
    if len(images) != len(labels):
        raise ValueError(
            f"labels_path: {labels_path} has {len(labels)} labels for {len(images)} images; "
            "give the two files of one split"
        )
    source = f"{Path(images_path).name}, {Path(labels_path).name} in {Path(images_path).parent}"
    return Images(images, labels.astype(np.int64), name, source)


def read_idx_array(path: AnyPath) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in one IDX file, gzip or plain.

    **Raises:** `FileNotFoundError`; `ValueError` on a wrong magic number, another value type, an
    empty dimension, or a length that does not match the dimensions.
    """
    raw = read_bytes(path)
    shape = _shape(raw, path)
    start = 4 + 4 * len(shape)
    expected, found = math.prod(shape), len(raw) - start
    if found != expected:
        fault = "truncated" if found < expected else "too long"
        raise ValueError(
            f"path: {path} is {fault}: {found} bytes of values, {shape} needs {expected}; get the file again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def write_idx_array(path: AnyPath, array: UInt8[np.ndarray, "..."]) -> None:
    """Writes an array of unsigned bytes as IDX, gzipped if `path` ends in .gz.

    The same array gives the same bytes at any time and under any name (with the same zlib).

    **Raises:** `TypeError` for another dtype, `ValueError` for an empty array or more than 255
    dimensions.
    """
    if array.dtype != np.uint8:
        raise TypeError(f"array: {array.dtype} values; pass uint8")
    if array.size == 0 or not 1 <= array.ndim <= 255:
        raise ValueError(f"array: shape {array.shape} cannot be stored; pass a non-empty array")
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, _UNSIGNED_BYTE, array.ndim, *array.shape)
    raw = header + array.tobytes()
    Path(path).write_bytes(_gzip(raw) if str(path).endswith(".gz") else raw)


def _shape(raw: bytes, path: AnyPath) -> tuple[int, ...]:
    """The dimensions in the header."""
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[3] == 0:
        raise ValueError(f"path: {path} is not an IDX file (starts with {raw[:4].hex(' ')!r})")
    if raw[2] != _UNSIGNED_BYTE:
        raise ValueError(f"path: {path} holds IDX type 0x{raw[2]:02x}; only 0x08, bytes, is read")
    if len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"path: {path} is truncated within its header; get the file again")
    shape = struct.unpack_from(f">{raw[3]}I", raw, 4)
    if 0 in shape:
        raise ValueError(f"path: {path} has an empty dimension, {shape}; get the file again")
    return shape


def _with_dimensions(path: AnyPath, ndim: int, what: str) -> UInt8[np.ndarray, "..."]:
    array = read_idx_array(path)
    if array.ndim != ndim:
        raise ValueError(f"path: {path} has shape {array.shape}, not {what}; are the two swapped?")
    return array


def _gzip(raw: bytes) -> bytes:
    # No time stamp and no name, so that a file made again is the same file. Not gzip.compress:
    # its header byte for the operating system depends on the Python version.
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(raw)
    return buffer.getvalue()
