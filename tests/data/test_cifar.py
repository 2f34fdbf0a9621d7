"""The binary version of CIFAR-10."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from implicit_ntk.data import read_cifar10


def test_round_trip(tmp_path: Path, write_cifar: Callable[..., np.ndarray]) -> None:
    pixels = write_cifar(tmp_path / "a.bin", 4)
    found = read_cifar10(tmp_path / "a.bin")
    np.testing.assert_array_equal(found.images, pixels)
    np.testing.assert_array_equal(found.labels, [0, 1, 2, 0])
    assert found.name == "cifar-10"
    assert found.source == f"a.bin in {tmp_path}"


def test_planes_are_red_green_blue(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x07" + b"R" * 1024 + b"G" * 1024 + b"B" * 1024)
    found = read_cifar10([tmp_path / "a.bin"])
    assert bytes(found.images[0, 5, 9]) == b"RGB"
    assert found.labels.tolist() == [7]


def test_several_files_in_order(tmp_path: Path, write_cifar: Callable[..., np.ndarray]) -> None:
    first, second = write_cifar(tmp_path / "a.bin", 2), write_cifar(tmp_path / "b.bin", 3)
    found = read_cifar10([tmp_path / "b.bin", tmp_path / "a.bin"])
    np.testing.assert_array_equal(found.images, np.concatenate([second, first]))
    assert "b.bin, a.bin" in found.source


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "has 0 bytes, not a multiple of 3073"),
        (bytes(3072), "has 3072 bytes, not a multiple of 3073"),
        (bytes(2 * 3073 - 1), "has 6145 bytes, not a multiple of 3073"),
        (b"\x0a" + bytes(3072), "has label 10; CIFAR-10 has 0 to 9"),
    ],
)
def test_damage(tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(contents)
    with pytest.raises(ValueError, match=f"path: .*a.bin {message}"):
        read_cifar10(tmp_path / "a.bin")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path: .*a.bin is not a file"):
        read_cifar10(tmp_path / "a.bin")
    with pytest.raises(ValueError, match="paths: no file given"):
        read_cifar10([])
