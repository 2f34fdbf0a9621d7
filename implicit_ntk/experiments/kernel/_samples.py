"""The samples of a kernel: some of a data set, or the user's own."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int

from implicit_ntk._checks import check_choice, check_positive
from implicit_ntk.data import NAMES, Images, load, to_inputs
from implicit_ntk.experiments.kernel._targets import Labels, Targets, targets_of

DATASET, SAMPLES = "mnist", 500
"""If nothing is said."""


@dataclasses.dataclass(frozen=True)
class SamplesConfig:
    """The samples: of a data set, or your own."""

    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "svhn", "digits"] | None = None
    """Its training images, grey, as rows of unit norm; if not given mnist."""
    data_dir: str | None = None
    """Directory with the original files; if not given IMPLICIT_NTK_DATA, then the bundled MNIST 0/1."""
    classes: tuple[int, ...] | None = None
    """As many samples of each of these classes; if not given of all that there are."""
    n: int | None = None
    """Samples; if not given 500, or all of a file of your own."""
    data: Path | None = None
    """Your own .npz instead: X (n, d) as it is, or images (n, h, w[, c]); perhaps y, labels or targets."""

    def check(self) -> None:
        """Raise `ValueError` for settings that are not such, or do not go together."""
        if self.n is not None:
            check_positive(self.n, "n")
        if self.dataset is not None:
            check_choice(self.dataset, NAMES, "dataset")
        for name in ("dataset", "data_dir", "classes"):
            if self.data is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} does not apply to a file of your own; leave it out")
        if self.classes is not None and len(set(self.classes)) != max(len(self.classes), 2):
            raise ValueError(f"classes must be two or more, each named once, got {self.classes}")

    def complete(self) -> "SamplesConfig":
        """The same samples with the defaults written out."""
        if self.data is not None:
            return self
        return dataclasses.replace(self, dataset=self.named, n=SAMPLES if self.n is None else self.n)

    @property
    def named(self) -> str:
        """The data set, or the file."""
        return (self.dataset or DATASET) if self.data is None else self.data.stem


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Rows, what is known of their classes or targets, and where they are from."""

    X: Float[np.ndarray, "n d"]
    labels: Labels | Targets | None
    classes: tuple[int, ...]
    image_shape: tuple[int, int, int] | None
    indices: Int[np.ndarray, " n"]
    """Positions in the file that they were read from."""
    source: str

    @property
    def digest(self) -> str:
        """SHA-256 of the rows, in their dtype, as hexadecimal digits."""
        return hashlib.sha256(np.ascontiguousarray(self.X).tobytes()).hexdigest()

    def targets(self, out: tuple[int, ...]) -> Targets | None:
        """What outputs of this shape are to learn: see `targets_of`."""
        return targets_of(self.labels, self.classes, out)


def read_samples(config: SamplesConfig, dtype: np.dtype) -> Samples:
    """The samples that a configuration asks for, in this dtype.

    Of a data set the first of each class in the file's order, the classes in turn, so that fewer samples
    are the first of more; grey, flat, of unit norm (GLL22, section 4).

    **Raises:** `FileNotFoundError`, or `ValueError` for classes or numbers that the data have not.
    """
    if config.data is not None:
        return _of_file(config.data, config.n, dtype)
    images = load(config.named, "train", config.data_dir)
    classes = config.classes or tuple(int(c) for c in np.unique(images.labels))
    indices = _in_turn(images, classes, SAMPLES if config.n is None else config.n)
    chosen = images.take(indices)
    X = to_inputs(chosen.images).astype(dtype)
    side = round(X.shape[1] ** 0.5)
    return Samples(X, chosen.labels, classes, (side, side, 1), indices, images.source)


def _in_turn(images: Images, classes: tuple[int, ...], n: int) -> Int[np.ndarray, " n"]:
    """The first of each class, then the second of each, to the n-th."""
    indices = np.empty(n, np.int64)
    for turn, label in enumerate(classes):
        found, wanted = np.flatnonzero(images.labels == label), indices[turn :: len(classes)].size
        if found.size < wanted:
            raise ValueError(
                f"n: {n} samples need {wanted} of class {label}, but there are {found.size} in {images.name} "
                f"({images.source}); ask for fewer, for other classes, or name a fuller --data-dir"
            )
        indices[turn :: len(classes)] = found[:wanted]
    return indices


def _of_file(path: Path, n: int | None, dtype: np.dtype) -> Samples:
    X, y = _arrays(path)
    if X.ndim not in (2, 3, 4) or X.dtype.kind not in "fiub" or 0 in X.shape:
        raise ValueError(
            f"data: X of {path} must hold numbers (n, d), (n, h, w) or (n, h, w, c), got {X.dtype} {X.shape}"
        )
    if y is not None and (y.shape[:1] != X.shape[:1] or y.ndim not in (1, 2) or y.dtype.kind not in "fiub"):
        raise ValueError(
            f"data: y of {path} must hold {len(X)} labels or rows of targets, got {y.dtype} {y.shape}"
        )
    if n is not None and n > len(X):
        raise ValueError(f"n: {n} samples asked for, but {path} has {len(X)}; ask for fewer")
    indices = np.arange(len(X) if n is None else n)
    image_shape = None if X.ndim == 2 else (X.shape[1], X.shape[2], X.shape[3] if X.ndim == 4 else 1)
    rows = X[indices].reshape(indices.size, -1).astype(dtype)
    labels = None if y is None else _labels(y[indices])
    return Samples(rows, labels, _classes(labels), image_shape, indices, path.name)


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if not path.is_file():
        raise FileNotFoundError(f"data: {path} is not a file; name an .npz file with an array X")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return file["X"], file.get("y")
    except (ValueError, KeyError, TypeError, OSError, EOFError, AttributeError, BadZipFile) as error:
        raise ValueError(
            f"data: {path} is no .npz file with an array X; write it with numpy.savez"
        ) from error


def _labels(y: np.ndarray) -> Labels | Targets:
    """Integers, one a row, are labels; rows of several are targets, as floating-point numbers are."""
    if y.dtype.kind == "f":
        return y
    return y.ravel() if y.size == len(y) else y.astype(float)


def _classes(labels: np.ndarray | None) -> tuple[int, ...]:
    """The classes of labels; none of targets."""
    if labels is None or labels.dtype.kind == "f":
        return ()
    return tuple(int(c) for c in np.unique(labels))
