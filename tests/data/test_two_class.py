"""From a name to a two-class problem."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from implicit_ntk.data import NAMES, TwoClass, load, parallel_pairs, to_inputs, two_class

Write = Callable[..., np.ndarray]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Every data set that can be loaded on this machine."""
    name = str(request.param)
    directory = os.environ.get("IMPLICIT_NTK_DATA")
    if not directory and name in ("cifar-10", "svhn"):
        pytest.skip(f"{name} is not bundled, and IMPLICIT_NTK_DATA is not set")
    folder = "cifar-10-batches-bin" if name == "cifar-10" else name
    if directory and name != "digits" and not (Path(directory) / folder).is_dir():
        pytest.skip(f"the directory that IMPLICIT_NTK_DATA names has no {folder}")
    return name


def check(data: TwoClass, n_train: int, n_test: int, dtype: type) -> None:
    """What holds for every problem."""
    for X, y, n in ((data.X, data.y, n_train), (data.X_test, data.y_test, n_test)):
        assert X.dtype == y.dtype == dtype
        assert (X.shape, y.shape) == ((n, data.X.shape[1]), (n,))
        norms = np.linalg.norm(X.astype(float), axis=1)
        np.testing.assert_allclose(norms, 1.0, rtol=4 * np.finfo(dtype).eps)
        assert set(y.tolist()) == {-1.0, 1.0}
        assert abs(y.sum()) == n % 2
    together = np.concatenate([data.X, data.X_test])
    assert len(parallel_pairs(together)) == 0  # none shared between train and test, either


@pytest.mark.parametrize(("seed", "dtype"), [(None, np.float64), (0, np.float32)])
def test_every_name(name: str, dtype: type, seed: int | None) -> None:
    key = None if seed is None else jax.random.key(seed)
    data = two_class(name, n_train=121, n_test=60, key=key, dtype=dtype)
    check(data, 121, 60, dtype)
    assert data.X.shape[1] == (64 if name == "digits" else 784)
    assert (data.name, data.classes) == (name, (0, 1))
    assert data.perturbed.shape == (0,)
    assert data.source


def test_other_classes(name: str) -> None:
    if not os.environ.get("IMPLICIT_NTK_DATA") and name != "digits":
        pytest.skip("IMPLICIT_NTK_DATA is not set: only classes 0 and 1 are bundled")
    data = two_class(name, (5, 3), 40, 20)
    assert data.classes == (5, 3)
    images = load(name)
    X = to_inputs(images.images[images.labels == 3][:20]).astype(np.float32)
    np.testing.assert_array_equal(data.X[data.y == 1], X)


@pytest.mark.usefixtures("no_variable")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_first_of_each_class_in_file_order(name: str) -> None:
    data, images = two_class(name), load(name, "test")
    assert data.X.shape == data.X_test.shape == (200, 784)
    for class_, sign in ((0, -1.0), (1, 1.0)):
        expected = to_inputs(images.images[images.labels == class_][:100])
        np.testing.assert_array_equal(data.X_test[data.y_test == sign], expected.astype(np.float32))
    assert data.source.count("bundled subset") == 1


@pytest.mark.usefixtures("no_variable")
def test_key_decides(key: jax.Array) -> None:
    first, again = (two_class("mnist", n_train=50, n_test=50, key=key) for _ in range(2))
    np.testing.assert_array_equal(first.X, again.X)
    np.testing.assert_array_equal(first.X_test, again.X_test)
    other = two_class("mnist", n_train=50, n_test=50, key=jax.random.fold_in(key, 1))
    assert not np.array_equal(first.X, other.X)
    assert not np.array_equal(first.X_test, other.X_test)
    assert not np.array_equal(first.X, two_class("mnist", n_train=50, n_test=50).X)


@pytest.mark.usefixtures("no_variable")
def test_smaller_is_the_beginning_of_larger(key: jax.Array) -> None:
    for k in (key, None):
        small = two_class("mnist", n_train=11, n_test=6, key=k)
        large = two_class("mnist", n_train=40, n_test=20, key=k)
        np.testing.assert_array_equal(small.X, large.X[:11])
        np.testing.assert_array_equal(small.y_test, large.y_test[:6])


@pytest.mark.parametrize("seed", [None, 3])
def test_digits_uses_no_image_twice(seed: int | None) -> None:
    key = None if seed is None else jax.random.key(seed)
    data = two_class("digits", n_train=201, n_test=155, key=key)
    check(data, 201, 155, np.float32)


@pytest.fixture
def with_duplicates(tmp_path: Path, write_idx_pair: Write) -> Path:
    """MNIST files whose training images 0 and 3, of class 0, are the same but for brightness."""
    pixels = write_idx_pair(tmp_path / "mnist", "train", 30, "")
    write_idx_pair(tmp_path / "mnist", "t10k", 12)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte"
    pixels[0] = np.arange(12).reshape(4, 3)
    pixels[3] = 7 * pixels[0]
    path.write_bytes(path.read_bytes()[:16] + pixels.tobytes())
    return tmp_path


def test_parallel_samples_get_noise(with_duplicates: Path, key: jax.Array) -> None:
    options: dict[str, Any] = {"n_train": 20, "n_test": 8, "directory": with_duplicates}
    with pytest.raises(ValueError, match=r"key: 1 pairs .* the first \[0, 2\]; pass key=jax.random"):
        two_class("mnist", **options)
    data = two_class("mnist", **options, key=key)
    assert len(data.perturbed) == 1
    assert data.y[data.perturbed].tolist() == [-1.0]
    check(data, 20, 8, np.float32)


def test_black_image(with_duplicates: Path) -> None:
    path = with_duplicates / "mnist" / "train-images-idx3-ubyte"
    raw = path.read_bytes()
    path.write_bytes(raw[:16] + bytes(12) + raw[28:])
    with pytest.raises(ValueError, match="images: sample 0 is all zero; leave it out"):
        two_class("mnist", n_train=4, n_test=4, directory=with_duplicates)


@pytest.mark.usefixtures("no_variable")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_train": 1001},
            "n_train: 1001 needs 501 images of class 0, but there are 500 in mnist",
        ),
        ({"n_test": 1002}, "n_test: 1002 needs 501 images of class 0, but there are 500 in mnist"),
        ({"classes": (1, 8)}, "n_train: 200 needs 100 images of class 8, but there are 0 in mnist"),
        ({"classes": (1, 1)}, r"classes: \(1, 1\) are not two different classes"),
        ({"n_train": 1}, "n_train: 1 is too small; give at least 2, one for each class"),
        ({"n_test": -1}, "n_test: -1 is too small; give at least 0"),
        ({"name": "imagenet"}, "name: 'imagenet' is unknown"),
        ({"source": "web"}, "source: 'web' is unknown"),
        (
            {"name": "digits"},
            r"n_train \+ n_test: 400 needs 200 images of class 0, but there are 178 in digits",
        ),
    ],
)
def test_values(options: dict[str, Any], message: str) -> None:
    chosen: dict[str, Any] = {"name": "mnist"} | options
    with pytest.raises(ValueError, match=message):
        two_class(**chosen)


@pytest.mark.usefixtures("no_variable")
@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"dtype": np.float16}, "dtype"),
        ({"dtype": int}, "dtype"),
        ({"key": 0}, "key"),
        ({"n_train": 2.5}, "n_train"),
    ],
)
def test_types(options: dict[str, Any], argument: str) -> None:
    with pytest.raises(TypeError, match=argument):
        two_class("mnist", **options)


@pytest.mark.usefixtures("no_variable")
def test_no_test_images() -> None:
    data = two_class("mnist", n_train=10, n_test=0)
    assert (data.X_test.shape, data.y_test.shape) == ((0, 784), (0,))


@pytest.mark.usefixtures("no_variable")
def test_missing_files_are_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"name: svhn is not bundled; put train_32x32\.mat in"):
        two_class("svhn")
