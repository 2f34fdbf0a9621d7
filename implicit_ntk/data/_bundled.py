"""The small subsets that come with the package: classes 0 and 1 of MNIST and Fashion-MNIST."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ._images import Images
from ._originals import read_directory, where_to_put

DIRECTORY = Path(__file__).parent / "bundled"

SOURCES: Mapping[str, str] = {
    "mnist": "MNIST (Y. LeCun, C. Cortes, C. J. C. Burges), commonly stated as CC BY-SA 3.0",
    "fashion-mnist": "Fashion-MNIST, (c) 2017 Zalando SE, MIT licence",
}


def read_bundled(name: str, split: str) -> Images:
    """500 + 500 images of classes 0 and 1, original pixels, in the original order.

    **Raises:** `FileNotFoundError` for a data set that is not bundled.
    """
    if name not in SOURCES:
        raise FileNotFoundError(f"name: {name} is not bundled; {where_to_put(name, split)}")
    images = read_directory(name, split, DIRECTORY)
    source = f"bundled subset, classes 0 and 1, of {SOURCES[name]}"
    return dataclasses.replace(images, source=source)
