"""The binary version of CIFAR-10.

A file is a row of records: one label byte, then 3072 bytes, the red, green and blue plane of a
32x32 image, each row by row.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ._files import AnyPath, read_bytes
from ._images import Images

_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE


def read_cifar10(paths: AnyPath | Sequence[AnyPath]) -> Images:
    """Images (n, 32, 32, 3) and labels (n,) from one or several CIFAR-10 binary files, in order.

    **Raises:** `FileNotFoundError`; `ValueError` on a size that is not a whole number of records,
    or a label above 9.
    """
    files = list(paths) if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]
    if not files:
        raise ValueError("paths: no file given; give data_batch_1.bin or the like")
    records = np.concatenate([_records(path) for path in files])
    source = f"{', '.join(Path(path).name for path in files)} in {Path(files[0]).parent}"
    labels = records[:, 0].astype(np.int64)
    return Images(from_planes(records[:, 1:]), labels, "cifar-10", source)


def from_planes(flat: UInt8[np.ndarray, "n 3072"]) -> UInt8[np.ndarray, "n 32 32 3"]:
    """Red, green and blue planes to pixels: out[i, r, c, k] = flat[i, 1024 k + 32 r + c]."""
    return np.ascontiguousarray(np.moveaxis(flat.reshape(-1, 3, _SIDE, _SIDE), 1, 3))


def _records(path: AnyPath) -> UInt8[np.ndarray, "n 3073"]:
    raw = np.frombuffer(read_bytes(path), np.uint8)
    if raw.size == 0 or raw.size % _RECORD:
        raise ValueError(
            f"path: {path} has {raw.size} bytes, not a multiple of {_RECORD}; "
            "get the binary version of CIFAR-10 again"
        )
    records = raw.reshape(-1, _RECORD)
    if records[:, 0].max() > 9:
        raise ValueError(f"path: {path} has label {records[:, 0].max()}; CIFAR-10 has 0 to 9")
    return records
