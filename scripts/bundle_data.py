"""Makes the image files that come with the package: `python scripts/bundle_data.py ORIGINALS_DIR`.

ORIGINALS_DIR has the original files in `mnist/` and `fashion-mnist/`. The first 500 images of class
0 and of class 1 of each split are written, in their original order and with their original pixels,
as gzipped IDX under the original names. The same originals give the same bytes (with the same
zlib). Licences stand in `implicit_ntk/data/bundled/README.md`, which this script leaves alone.
"""

import argparse
from pathlib import Path

import numpy as np

from implicit_ntk.data import Images, load, write_idx_array

NAMES = ("mnist", "fashion-mnist")
CLASSES = (0, 1)
PER_CLASS = 500

BUNDLED = Path(__file__).parents[1] / "implicit_ntk" / "data" / "bundled"


def main() -> None:
    """Reads the command line, writes the files and says how large they are."""
    parser = argparse.ArgumentParser(description="Makes the image files of the package.")
    parser.add_argument("originals", type=Path, help="directory with mnist/ and fashion-mnist/")
    parser.add_argument("--output", type=Path, default=BUNDLED, help="default: in the package")
    arguments = parser.parse_args()
    total = sum(path.stat().st_size for path in bundle(arguments.originals, arguments.output))
    print(f"{total / 1e6:.2f} MB in {arguments.output}")


def bundle(originals: Path, output: Path) -> list[Path]:
    """Writes the subsets below `output` and returns the files written."""
    written = []
    for name in NAMES:
        (output / name).mkdir(parents=True, exist_ok=True)
        for split, start in (("train", "train"), ("test", "t10k")):
            written += write(subset(load(name, split, originals)), output / name / start)
    return written


def subset(images: Images) -> Images:
    """The first `PER_CLASS` images of each of `CLASSES`, in file order."""
    index = [np.flatnonzero(images.labels == class_)[:PER_CLASS] for class_ in CLASSES]
    if any(len(found) < PER_CLASS for found in index):
        raise ValueError(f"originals: fewer than {PER_CLASS} images of a class in {images.source}")
    return images.take(np.sort(np.concatenate(index)))


def write(images: Images, start: Path) -> list[Path]:
    """The pair of IDX files whose names begin with `start`."""
    pixels = start.with_name(f"{start.name}-images-idx3-ubyte.gz")
    labels = start.with_name(f"{start.name}-labels-idx1-ubyte.gz")
    write_idx_array(pixels, images.images)
    write_idx_array(labels, images.labels.astype(np.uint8))
    return [pixels, labels]


if __name__ == "__main__":
    main()
