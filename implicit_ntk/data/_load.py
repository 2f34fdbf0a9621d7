"""`load`: a data set by name, from wherever it is."""

import os
from collections.abc import Sequence
from pathlib import Path

from ._bundled import read_bundled
from ._checks import check_one_of
from ._digits import read_digits
from ._files import AnyPath
from ._images import Images
from ._openml import read_openml
from ._originals import ORIGINALS, VARIABLE, read_directory

NAMES = (*ORIGINALS, "digits")

# Data sets without a split of their own
UNDIVIDED = ("digits",)

_SPLITS = ("train", "test")
_SOURCES = ("auto", "directory", "bundled", "openml")


def load(name: str, split: str = "train", directory: AnyPath | None = None, source: str = "auto") -> Images:
    """One split of "mnist", "fashion-mnist", "cifar-10", "svhn" or "digits".

    `source` says where from:

    - "directory": the original files in `directory`, or else in the directory that the environment
      variable `IMPLICIT_NTK_DATA` names. There they stand in `mnist/`, `fashion-mnist/` (IDX),
      `cifar-10-batches-bin/` (binary version; the batches that are there) and `svhn/` (`.mat`),
      or directly in the directory.
    - "bundled": classes 0 and 1 of MNIST and Fashion-MNIST, 500 + 500 images a split.
    - "openml": downloaded and cached by scikit-learn. Never tried unless asked for.
    - "auto": the first of `directory`, `IMPLICIT_NTK_DATA` and bundled that is given. A directory
      that lacks the files is an error, not a reason to go on to the next.

    "digits" comes with scikit-learn, has one split, "train", and takes no directory.

    **Raises:** `ValueError` on an unknown option or one that does not apply, `FileNotFoundError` if
    the files are not there (the message says which to put where), `ValueError` on damaged files.
    """
    check_one_of("split", split, _SPLITS)
    return load_splits(name, (split,), directory, source)[0]


def load_splits(
    name: str, splits: Sequence[str], directory: AnyPath | None, source: str
) -> tuple[Images, ...]:
    """`load` for several splits, with one download where there is one."""
    check_one_of("name", name, NAMES)
    check_one_of("source", source, _SOURCES)
    if name in UNDIVIDED:
        _check_undivided(name, splits, directory, source)
        return (read_digits(),)
    place = _place(directory, source)
    if isinstance(place, Path):
        return tuple(read_directory(name, split, place) for split in splits)
    if place == "openml":
        return read_openml(name, splits)
    return tuple(read_bundled(name, split) for split in splits)


def _check_undivided(name: str, splits: Sequence[str], directory: AnyPath | None, source: str) -> None:
    if "test" in splits:
        raise ValueError(f"split: {name} has only 'train'; take disjoint parts of it, as two_class does")
    if directory is not None or source not in ("auto", "bundled"):
        raise ValueError(f"source: {name} comes with scikit-learn; leave out directory and source")


def _place(directory: AnyPath | None, source: str) -> Path | str:
    """A directory, "bundled" or "openml"."""
    if source in ("bundled", "openml"):
        if directory is not None:
            raise ValueError(f"directory: not used by source={source!r}; leave one of them out")
        return source
    named = directory if directory is not None else os.environ.get(VARIABLE) or None
    if named is not None:
        return _existing_directory(Path(named))
    if source == "directory":
        raise ValueError(f"directory: none given; pass directory=DIR or set {VARIABLE}=DIR")
    return "bundled"


def _existing_directory(directory: Path) -> Path:
    if not directory.is_dir():
        raise FileNotFoundError(
            f"directory: {directory} is not a directory; correct directory= or {VARIABLE}"
        )
    return directory
