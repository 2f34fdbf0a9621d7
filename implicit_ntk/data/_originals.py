"""Which original files make up a data set, and how they are read from a directory."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from ._cifar import read_cifar10
from ._idx import read_idx
from ._images import Images
from ._svhn import read_svhn

VARIABLE = "IMPLICIT_NTK_DATA"


@dataclasses.dataclass(frozen=True)
class Original:
    """The original files of one data set.

    `folder` is the subfolder they are looked for in; `files` the names of each split;
    `read(paths, name)` makes `Images` of the files found. `partial` says that some of the names
    are enough (the five CIFAR-10 batches).
    """

    folder: str
    files: Mapping[str, tuple[str, ...]]
    read: Callable[[list[Path], str], Images]
    partial: bool = False

    def find(self, folder: Path, split: str) -> list[Path]:
        """The files of a split in `folder`; empty unless all that is needed is there."""
        names = self.files[split]
        found = [path for path in (_one_of_spellings(folder, name) for name in names) if path]
        return found if self.partial or len(found) == len(names) else []


def _one_of_spellings(folder: Path, name: str) -> Path | None:
    """The file called `name`, or the same gunzipped, in either spelling that is in use."""
    plain = name.removesuffix(".gz")
    spellings = (name, plain, plain.replace("-idx", ".idx"))
    return next((folder / s for s in spellings if (folder / s).is_file()), None)


def _idx(folder: str) -> Original:
    def names(start: str) -> tuple[str, ...]:
        return f"{start}-images-idx3-ubyte.gz", f"{start}-labels-idx1-ubyte.gz"

    files = {"train": names("train"), "test": names("t10k")}
    return Original(folder, files, lambda paths, name: read_idx(paths[0], paths[1], name))


ORIGINALS: Mapping[str, Original] = {
    "mnist": _idx("mnist"),
    "fashion-mnist": _idx("fashion-mnist"),
    "cifar-10": Original(
        folder="cifar-10-batches-bin",
        files={
            "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("test_batch.bin",),
        },
        read=lambda paths, name: read_cifar10(paths),
        partial=True,
    ),
    "svhn": Original(
        folder="svhn",
        files={"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        read=lambda paths, name: read_svhn(paths[0]),
    ),
}


def read_directory(name: str, split: str, directory: Path) -> Images:
    """One split from the original files in `directory/<folder>`, or in `directory` itself.

    **Raises:** `FileNotFoundError`, naming the files and the places, if they are not there.
    """
    original = ORIGINALS[name]
    for folder in _folders(original, directory):
        paths = original.find(folder, split)
        if paths:
            return original.read(paths, name)
    raise FileNotFoundError(
        f"directory: {directory} has no {split} files of {name}; {where_to_put(name, split)}, "
        "or choose another source"
    )


def where_to_put(name: str, split: str) -> str:
    """The remedy of every "not found": which files go where, and how the place is named."""
    original = ORIGINALS[name]
    files = ", ".join(original.files[split])
    return f"put {files} in DIR/{original.folder} and pass directory=DIR or set {VARIABLE}=DIR"


def _folders(original: Original, directory: Path) -> list[Path]:
    """Where to look: the folder of the data set, then the directory itself."""
    # MNIST and Fashion-MNIST name their files alike: a folder named after one data set is never
    # read as another
    others = {other.folder for other in ORIGINALS.values()} - {original.folder}
    inside = [] if directory.resolve().name in others else [directory]
    return [directory / original.folder, *inside]
