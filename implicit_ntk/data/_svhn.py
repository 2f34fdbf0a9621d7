"""The cropped digits of SVHN, a MATLAB version 5 file."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from ._files import AnyPath, existing
from ._images import Images


def read_svhn(path: AnyPath) -> Images:
    """Images (n, 32, 32, 3) and labels (n,) from an SVHN `.mat` file with `X` and `y`.

    The file's label 10, the digit 0, becomes 0.

    **Raises:** `FileNotFoundError`; `ValueError` on a file that is damaged or holds other arrays.
    """
    file = existing(path)
    contents = _contents(file)
    images = np.ascontiguousarray(np.moveaxis(_pixels(contents["X"], file), 3, 0))
    labels = digits(_labels(contents["y"], len(images), file), f"path: {file}")
    return Images(images, labels, "svhn", f"{file.name} in {file.parent}")


def digits(labels: Integer[np.ndarray, " n"], where: str) -> Int64[np.ndarray, " n"]:
    """Labels 1 to 10 as digits, 10 meaning 0; raises `ValueError` outside 0 to 10."""
    if labels.size and not (labels.min() >= 0 and labels.max() <= 10):
        raise ValueError(f"{where} has labels outside 1 to 10; get the file again")
    return labels.astype(np.int64) % 10


def _contents(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        contents = loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # on damaged bytes loadmat raises what its parser ran into
        message = f"path: {path} is not a readable MATLAB 5 file; get it again"
        raise ValueError(message) from error
    if not {"X", "y"} <= contents.keys():
        raise ValueError(f"path: {path} has no X and y; give train_32x32.mat or test_32x32.mat")
    return contents


def _pixels(X: np.ndarray, path: Path) -> UInt8[np.ndarray, "32 32 3 n"]:
    if X.dtype != np.uint8 or X.ndim != 4 or X.shape[:3] != (32, 32, 3):
        raise ValueError(
            f"path: {path} has X of shape {X.shape}, {X.dtype}, not (32, 32, 3, n), uint8; "
            "give the cropped digits (format 2)"
        )
    return X


def _labels(y: np.ndarray, n: int, path: Path) -> Integer[np.ndarray, " n"]:
    if y.size != n or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"path: {path} has y of shape {y.shape}, {y.dtype}, not (n, 1) integers for {n} images"
        )
    return y.ravel()
