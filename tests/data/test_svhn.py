"""The `.mat` files of SVHN."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from implicit_ntk.data import read_svhn

X = np.zeros((32, 32, 3, 2), np.uint8)
Y = np.array([[1], [10]], np.uint8)


def test_round_trip(tmp_path: Path, write_svhn: Callable[..., np.ndarray]) -> None:
    pixels = write_svhn(tmp_path / "train_32x32.mat", 4)
    found = read_svhn(tmp_path / "train_32x32.mat")
    np.testing.assert_array_equal(found.images, pixels)
    assert found.labels.tolist() == [0, 1, 2, 0]  # 10 is the digit 0
    assert found.name == "svhn"
    assert found.source == f"train_32x32.mat in {tmp_path}"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": X}, "has no X and y"),
        ({"y": Y}, "has no X and y"),
        ({"X": np.moveaxis(X, 3, 0), "y": Y}, r"has X of shape \(2, 32, 32, 3\), uint8"),
        ({"X": X.astype(float), "y": Y}, r"has X of shape \(32, 32, 3, 2\), float64"),
        ({"X": X, "y": Y + 1}, "has labels outside 1 to 10"),
        ({"X": X, "y": Y[:1]}, r"has y of shape \(1, 1\), uint8, not \(n, 1\) .* for 2 images"),
        ({"X": X, "y": Y / 2}, r"has y of shape \(2, 1\), float64"),
    ],
)
def test_other_contents(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    scipy.io.savemat(tmp_path / "a.mat", arrays)
    with pytest.raises(ValueError, match=message):
        read_svhn(tmp_path / "a.mat")


@pytest.mark.parametrize("keep", [0, 1, 100, 130, 2000, -100])
def test_truncated(tmp_path: Path, write_svhn: Callable[..., np.ndarray], keep: int) -> None:
    write_svhn(tmp_path / "a.mat", 3)
    (tmp_path / "a.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"path: .*a.mat (is not a readable MATLAB 5|has no X and y)"):
        read_svhn(tmp_path / "a.mat")


def test_not_a_mat_file(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ValueError, match="is not a readable MATLAB 5 file; get it again"):
        read_svhn(tmp_path / "a.mat")
    with pytest.raises(FileNotFoundError, match=r"path: .*b.mat is not a file"):
        read_svhn(tmp_path / "b.mat")
