"""openml, without a network: what comes back is converted, and what fails says what to do."""

import dataclasses
from collections.abc import Callable
from http.client import IncompleteRead
from typing import Any
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import sklearn.datasets
from sklearn.utils import Bunch

from implicit_ntk.data import _openml as module, load, two_class

TRAIN, TEST = 6, 4

TITLES = {
    "mnist": "mnist_784",
    "fashion-mnist": "Fashion-MNIST",
    "cifar-10": "CIFAR_10",
    "svhn": "SVHN",
}


def flat_mnist(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


def flat_planes(images: np.ndarray) -> np.ndarray:
    return np.stack([np.concatenate([x[..., c].ravel() for c in range(3)]) for x in images])


FLAT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mnist": flat_mnist,
    "fashion-mnist": flat_mnist,
    "cifar-10": flat_planes,
    "svhn": flat_mnist,
}


@pytest.fixture
def openml(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], list[str]]:
    """Makes openml answer with something for one data set; returns the list of questions."""

    def answer(name: str, what: Any) -> list[str]:
        asked: list[str] = []

        def fetch_openml(title: str, *, version: int, as_frame: bool, parser: str) -> Bunch:
            assert (version, as_frame) == (1, False)
            assert parser in ("pandas", "liac-arff")
            asked.append(title)
            if isinstance(what, Exception):
                raise what
            return what

        monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
        small = dataclasses.replace(module.OPENML[name], n_train=TRAIN)
        monkeypatch.setitem(module.OPENML, name, small)
        return asked

    return answer


def bunch(name: str, rng: np.random.Generator) -> tuple[np.ndarray, Bunch]:
    """Images and openml's form of them: floats, and class names for labels."""
    side = 28 if "mnist" in name else 32
    colours = () if "mnist" in name else (3,)
    images = rng.integers(1, 256, (TRAIN + TEST, side, side, *colours), dtype=np.uint8)
    labels = np.arange(TRAIN + TEST) % 2
    names = np.array([str(v or 10) if name == "svhn" else str(v) for v in labels], object)
    return images, Bunch(data=FLAT[name](images).astype(float), target=names)


@pytest.mark.usefixtures("no_variable")
@pytest.mark.parametrize("name", TITLES)
@pytest.mark.parametrize("dtype", [float, np.int64])  # liac-arff gives floats, pandas integers
def test_conversion(
    name: str, dtype: type, openml: Callable[..., list[str]], rng: np.random.Generator
) -> None:
    images, answer = bunch(name, rng)
    answer.update(data=answer.data.astype(dtype))
    asked = openml(name, answer)
    for split, rows in (("train", slice(TRAIN)), ("test", slice(TRAIN, None))):
        found = load(name, split, source="openml")
        np.testing.assert_array_equal(found.images, images[rows])
        np.testing.assert_array_equal(found.labels, (np.arange(TRAIN + TEST) % 2)[rows])
        assert found.name == name
        assert found.source == f"{TITLES[name]}, version 1, from openml.org"
    assert asked == [TITLES[name]] * 2


@pytest.mark.usefixtures("no_variable")
def test_two_class_asks_once(openml: Callable[..., list[str]], rng: np.random.Generator) -> None:
    asked = openml("svhn", bunch("svhn", rng)[1])
    data = two_class("svhn", n_train=6, n_test=4, source="openml")
    assert data.X.shape == (6, 784)
    assert data.X_test.shape == (4, 784)
    assert asked == ["SVHN"]


@pytest.mark.usefixtures("no_variable")
@pytest.mark.parametrize(
    "error",
    [
        URLError("no route"),
        HTTPError("https://openml.org", 503, "down", None, None),  # type: ignore[arg-type]
        TimeoutError(),
        IncompleteRead(b""),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_network(openml: Callable[..., list[str]], error: Exception) -> None:
    openml("mnist", error)
    message = (
        "source: openml.org cannot be reached for mnist_784; put t10k-images-idx3-ubyte.gz, "
        "t10k-labels-idx1-ubyte.gz in DIR/mnist and pass directory=DIR or set IMPLICIT_NTK_DATA=DIR"
    )
    with pytest.raises(FileNotFoundError) as raised:
        load("mnist", "test", source="openml")
    assert str(raised.value) == message
    assert raised.value.__cause__ is error


@pytest.mark.usefixtures("no_variable")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(data=b.data[:TRAIN]), "has 6 rows, more than 6 expected; put train-im"),
        (lambda b: b.data.__setitem__((0, 0), 256), "has pixels outside 0 to 255"),
        (lambda b: b.data.__setitem__((0, 0), -1), "has pixels outside 0 to 255"),
        (lambda b: b.data.__setitem__((0, 0), np.nan), "has pixels outside 0 to 255"),
    ],
)
def test_other_data(
    openml: Callable[..., list[str]],
    rng: np.random.Generator,
    change: Callable[[Bunch], None],
    message: str,
) -> None:
    _, answer = bunch("mnist", rng)
    change(answer)
    openml("mnist", answer)
    with pytest.raises(ValueError, match=f"source: openml's mnist_784 {message}"):
        load("mnist", source="openml")
