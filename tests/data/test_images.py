"""The container of images."""

import numpy as np
import pytest

from implicit_ntk.data import Images

# jaxtyping's checks, where the suite switches them on, come first, as a TypeError
BAD_SHAPE = (ValueError, TypeError)


def test_take() -> None:
    images = Images(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.array([5, 6, 7]), "a", "b")
    taken = images.take(np.array([2, 0]))
    assert len(taken) == 2
    assert taken.labels.tolist() == [7, 5]
    assert taken.images[:, 0, 0].tolist() == [8, 0]
    assert images.take(slice(1)).labels.tolist() == [5]
    assert (taken.name, taken.source) == ("a", "b")


@pytest.mark.parametrize(
    ("pixels", "labels", "argument"),
    [
        (np.zeros((2, 4, 4)), np.zeros(2, int), "images"),
        (np.zeros((2, 16), np.uint8), np.zeros(2, int), "images"),
        (np.zeros((2, 4, 4, 4), np.uint8), np.zeros(2, int), "images"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(3, int), "labels"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros((2, 1), int), "labels"),
    ],
)
def test_refuses(pixels: np.ndarray, labels: np.ndarray, argument: str) -> None:
    with pytest.raises(BAD_SHAPE, match=argument):
        Images(pixels, labels, "a", "b")
