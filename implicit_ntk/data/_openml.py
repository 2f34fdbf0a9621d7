"""Data sets from openml.org, through scikit-learn, which downloads and caches them as ARFF."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from typing import Any

import numpy as np
from jaxtyping import Int64, Num, Shaped, UInt8

from ._cifar import from_planes
from ._images import Images, Pixels
from ._originals import where_to_put
from ._svhn import digits


@dataclasses.dataclass(frozen=True)
class OpenML:
    """How openml.org stores a data set.

    `title` is its name there, always version 1; the first `n_train` rows are taken for the training
    split and the rest for the test split, the sizes of the original ones; `to_pixels` turns rows of
    pixels into images.
    """

    title: str
    n_train: int
    to_pixels: Callable[[UInt8[np.ndarray, "n d"]], Pixels]


# Pixel orders as other users of these data sets reshape them: CIFAR_10 keeps the planes of the
# binary version, SVHN has the three colours of a pixel side by side.
OPENML: Mapping[str, OpenML] = {
    "mnist": OpenML("mnist_784", 60_000, lambda flat: flat.reshape(-1, 28, 28)),
    "fashion-mnist": OpenML("Fashion-MNIST", 60_000, lambda flat: flat.reshape(-1, 28, 28)),
    "cifar-10": OpenML("CIFAR_10", 50_000, from_planes),
    "svhn": OpenML("SVHN", 73_257, lambda flat: flat.reshape(-1, 32, 32, 3)),
}


def read_openml(name: str, splits: Sequence[str]) -> tuple[Images, ...]:
    """The given splits of a data set, from one download.

    **Raises:** `FileNotFoundError` if openml.org cannot be reached, `ValueError` if what comes back
    is not the data set.
    """
    entry = OPENML[name]
    bunch = _fetch(entry.title, name, splits[0])
    if len(bunch.data) <= entry.n_train:
        raise ValueError(
            f"source: openml's {entry.title} has {len(bunch.data)} rows, more than "
            f"{entry.n_train} expected; {where_to_put(name, splits[0])}"
        )
    rows = {"train": slice(entry.n_train), "test": slice(entry.n_train, None)}
    return tuple(_images(name, entry, bunch, rows[split]) for split in splits)


def _fetch(title: str, name: str, split: str) -> Any:
    from sklearn.datasets import fetch_openml

    # scikit-learn's fast parser needs pandas, which we do not depend on
    parser = "pandas" if importlib.util.find_spec("pandas") else "liac-arff"
    try:
        return fetch_openml(title, version=1, as_frame=False, parser=parser)
    except (OSError, HTTPException) as error:
        message = f"source: openml.org cannot be reached for {title}; {where_to_put(name, split)}"
        raise FileNotFoundError(message) from error


def _images(name: str, entry: OpenML, bunch: Any, rows: slice) -> Images:
    pixels = entry.to_pixels(_bytes(bunch.data[rows], entry.title))
    labels = _labels(bunch.target[rows], name)
    return Images(pixels, labels, name, f"{entry.title}, version 1, from openml.org")


def _bytes(data: Num[np.ndarray, "n d"], title: str) -> UInt8[np.ndarray, "n d"]:
    if not (data.min() >= 0 and data.max() <= 255):  # false for NaN too
        raise ValueError(f"source: openml's {title} has pixels outside 0 to 255; use the originals")
    return data.astype(np.uint8)


def _labels(target: Shaped[np.ndarray, " n"], name: str) -> Int64[np.ndarray, " n"]:
    labels = target.astype(np.int64)  # openml has class names, "0" to "9"
    return digits(labels, "source: openml's SVHN") if name == "svhn" else labels
