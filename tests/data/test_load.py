"""`load`: every name from every place, and what it says when it cannot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from implicit_ntk.data import NAMES, load

Write = Callable[..., np.ndarray]


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        pytest.fail("openml was asked without source='openml'")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", refuse)


@pytest.fixture
def directory(
    tmp_path: Path, write_idx_pair: Write, write_cifar: Write, write_svhn: Write
) -> tuple[Path, dict[tuple[str, str], np.ndarray]]:
    """A directory with a little of everything, and the pixels in it."""
    cifar = tmp_path / "cifar-10-batches-bin"
    pixels = {
        ("mnist", "train"): write_idx_pair(tmp_path / "mnist", "train", 5),
        ("mnist", "test"): write_idx_pair(tmp_path / "mnist", "t10k", 4),
        ("fashion-mnist", "train"): write_idx_pair(tmp_path / "fashion-mnist", "train", 6, ""),
        ("fashion-mnist", "test"): write_idx_pair(tmp_path / "fashion-mnist", "t10k", 3, ""),
        ("cifar-10", "train"): np.concatenate(
            [write_cifar(cifar / f"data_batch_{i}.bin", 3) for i in (1, 2, 5)]
        ),
        ("cifar-10", "test"): write_cifar(cifar / "test_batch.bin", 3),
        ("svhn", "train"): write_svhn(tmp_path / "svhn" / "train_32x32.mat", 4),
        ("svhn", "test"): write_svhn(tmp_path / "svhn" / "test_32x32.mat", 3),
    }
    return tmp_path, pixels


@pytest.mark.usefixtures("no_variable", "no_download")
@pytest.mark.parametrize("way", ["argument", "variable", "inside"])
def test_directory(
    directory: tuple[Path, dict[tuple[str, str], np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    folders = {"cifar-10": "cifar-10-batches-bin"}
    for (name, split), pixels in directory[1].items():
        path: Path | None = directory[0]
        if way == "inside":
            path = directory[0] / folders.get(name, name)
        if way == "variable":
            monkeypatch.setenv("IMPLICIT_NTK_DATA", str(path))
            path = None
        for source in ("auto", "directory"):
            found = load(name, split, path, source)
            np.testing.assert_array_equal(found.images, pixels)
            np.testing.assert_array_equal(found.labels, np.arange(len(pixels)) % 3)
            assert found.name == name


@pytest.mark.usefixtures("no_variable", "no_download")
def test_argument_comes_before_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_idx_pair: Write
) -> None:
    write_idx_pair(tmp_path / "a" / "mnist", "train", 5)
    write_idx_pair(tmp_path / "b" / "mnist", "train", 7)
    monkeypatch.setenv("IMPLICIT_NTK_DATA", str(tmp_path / "a"))
    assert len(load("mnist", directory=tmp_path / "b")) == 7
    assert len(load("mnist")) == 5
    assert len(load("mnist", source="bundled")) == 1000


@pytest.mark.usefixtures("no_variable")
def test_spelling_with_a_dot(tmp_path: Path, write_idx_pair: Write) -> None:
    write_idx_pair(tmp_path, "train", 5, "")
    for path in sorted(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert len(load("mnist", directory=tmp_path)) == 5


@pytest.mark.usefixtures("no_variable")
def test_folder_of_one_data_set_is_not_read_as_another(tmp_path: Path, write_idx_pair: Write) -> None:
    write_idx_pair(tmp_path / "mnist", "train", 5)
    with pytest.raises(FileNotFoundError, match="no train files of fashion-mnist"):
        load("fashion-mnist", directory=tmp_path / "mnist")


@pytest.mark.usefixtures("no_variable")
def test_half_a_split_is_not_a_split(tmp_path: Path, write_idx_pair: Write) -> None:
    write_idx_pair(tmp_path, "train", 5)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="no train files of mnist; put train-images"):
        load("mnist", directory=tmp_path)


@pytest.mark.usefixtures("no_variable", "no_download")
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", "t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz in DIR/mnist"),
        ("fashion-mnist", "t10k-images-idx3-ubyte.gz, .* in DIR/fashion-mnist"),
        ("cifar-10", "test_batch.bin in DIR/cifar-10-batches-bin"),
        ("svhn", "test_32x32.mat in DIR/svhn"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, name: str, files: str) -> None:
    message = f"put {files} and pass directory=DIR or set IMPLICIT_NTK_DATA=DIR"
    with pytest.raises(FileNotFoundError, match=f"directory: .*no test files of {name}; {message}"):
        load(name, "test", tmp_path)
    if name in ("cifar-10", "svhn"):
        with pytest.raises(FileNotFoundError, match=f"name: {name} is not bundled; {message}"):
            load(name, "test")


@pytest.mark.usefixtures("no_variable", "no_download")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "MNIST"}, f"name: 'MNIST' is unknown; choose one of {', '.join(NAMES)}"),
        ({"name": "mnist", "split": "val"}, "split: 'val' is unknown; choose one of train, test"),
        ({"name": "mnist", "source": "web"}, "source: 'web' is unknown; choose one of auto, dir"),
        ({"name": "mnist", "source": "directory"}, "directory: none given; pass directory=DIR or"),
        ({"name": "mnist", "source": "bundled", "directory": "."}, "directory: not used by source"),
        ({"name": "mnist", "source": "openml", "directory": "."}, "directory: not used by source"),
        ({"name": "digits", "split": "test"}, "split: digits has only 'train'"),
        ({"name": "digits", "directory": "."}, "source: digits comes with scikit-learn"),
        ({"name": "digits", "source": "openml"}, "source: digits comes with scikit-learn"),
    ],
)
def test_options(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**options)


@pytest.mark.usefixtures("no_variable")
def test_directory_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPLICIT_NTK_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"directory: .*gone is not a directory"):
        load("mnist")


def test_digits() -> None:
    digits = load("digits")
    assert digits.images.shape == (1797, 8, 8)
    assert digits.images.max() == 16
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    X, _ = sklearn.datasets.load_digits(return_X_y=True)
    np.testing.assert_array_equal(digits.images.reshape(-1, 64), X)
