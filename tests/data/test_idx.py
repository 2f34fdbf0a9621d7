"""IDX: what is written comes back, and damage is called by its name."""

import gzip
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from implicit_ntk.data import read_idx, read_idx_array, write_idx_array

GOOD = struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3) + bytes(range(6))
ZIPPED = gzip.compress(GOOD, mtime=0)  # the same bytes in every process, for names of tests


@pytest.mark.parametrize("shape", [(7,), (2, 3), (5, 4, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_round_trip(tmp_path: Path, rng: np.random.Generator, shape: tuple[int, ...], suffix: str) -> None:
    array = rng.integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / f"array{suffix}"
    write_idx_array(path, array)
    assert path.read_bytes().startswith(b"\x1f\x8b") == (suffix == ".gz")
    found = read_idx_array(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


def test_reads_the_format_of_the_specification(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(GOOD)
    np.testing.assert_array_equal(read_idx_array(tmp_path / "a"), [[0, 1, 2], [3, 4, 5]])


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / "plain.gz").write_bytes(GOOD)
    (tmp_path / "zipped").write_bytes(ZIPPED)
    for name in ("plain.gz", "zipped"):
        assert read_idx_array(tmp_path / name).shape == (2, 3)


def test_gzip_bytes_depend_on_the_array_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(100, dtype=np.uint8)
    write_idx_array(tmp_path / "one.gz", array)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    write_idx_array(tmp_path / "another.gz", array)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "another.gz").read_bytes()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is not an IDX file"),
        (b"\x00\x00\x08", "is not an IDX file"),
        (b"\x89PNG" + GOOD, "is not an IDX file"),
        (struct.pack(">BBBB", 0, 0, 8, 0), "is not an IDX file"),
        (struct.pack(">BBBBI", 0, 0, 13, 1, 1) + bytes(4), "holds IDX type 0x0d; only 0x08"),
        (GOOD[:9], "is truncated within its header"),
        (GOOD[:-1], r"is truncated: 5 bytes of values, \(2, 3\) needs 6"),
        (GOOD + b"x", r"is too long: 7 bytes of values, \(2, 3\) needs 6"),
        (struct.pack(">BBBBII", 0, 0, 8, 2, 0, 3), r"has an empty dimension, \(0, 3\)"),
        (struct.pack(">BBBBII", 0, 0, 8, 2, 2**32 - 1, 2**32 - 1), "is truncated"),
        (ZIPPED[:-9], "is a damaged gzip file"),
        (ZIPPED[:-8] + bytes(8), "is a damaged gzip file"),
        (b"\x1f\x8b" + bytes(20), "is a damaged gzip file"),
        (ZIPPED[:10] + b"\xff" * 20, "is a damaged gzip file"),
    ],
)
def test_damage(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(contents)
    with pytest.raises(ValueError, match=f"path: .*file {message}"):
        read_idx_array(tmp_path / "file")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path: .*nothing is not a file; give the"):
        read_idx_array(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.zeros(3), TypeError),
        (np.zeros((0, 28, 28), np.uint8), ValueError),
        (np.array(3, np.uint8), ValueError),
    ],
)
def test_write_refuses(tmp_path: Path, array: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match="array"):
        write_idx_array(tmp_path / "file", array)
    assert not (tmp_path / "file").exists()


def test_pair(tmp_path: Path, write_idx_pair: Callable[..., np.ndarray]) -> None:
    pixels = write_idx_pair(tmp_path, "train", 5)
    images, labels = (f"train-{rest}-ubyte.gz" for rest in ("images-idx3", "labels-idx1"))
    found = read_idx(tmp_path / images, str(tmp_path / labels), "drawn")
    np.testing.assert_array_equal(found.images, pixels)
    np.testing.assert_array_equal(found.labels, [0, 1, 2, 0, 1])
    assert (found.name, found.source) == ("drawn", f"{images}, {labels} in {tmp_path}")


def test_pair_of_unequal_numbers(tmp_path: Path, write_idx_pair: Callable[..., np.ndarray]) -> None:
    write_idx_pair(tmp_path, "train", 5)
    write_idx_pair(tmp_path, "t10k", 4)
    with pytest.raises(ValueError, match=r"labels_path: .* has 4 labels for 5 images"):
        read_idx(tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "t10k-labels-idx1-ubyte.gz")


def test_swapped_pair(tmp_path: Path, write_idx_pair: Callable[..., np.ndarray]) -> None:
    write_idx_pair(tmp_path, "train", 5)
    images, labels = (tmp_path / f"train-{rest}-ubyte.gz" for rest in ("images-idx3", "labels-idx1"))
    with pytest.raises(ValueError, match=r"has shape \(5,\), not images .* swapped"):
        read_idx(labels, images)
    with pytest.raises(ValueError, match=r"has shape \(5, 4, 3\), not labels .* swapped"):
        read_idx(images, images)
