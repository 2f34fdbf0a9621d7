"""Two classes, balanced, as signs."""

from typing import Any

import jax
import numpy as np
import pytest

from implicit_ntk.data import Images, balanced, signs


@pytest.fixture
def images(rng: np.random.Generator) -> Images:
    """20 images of class 3, 14 of class 7, 6 of class 1, mixed; pixel 0 is the position."""
    labels = rng.permutation(np.repeat([3, 7, 1], [20, 14, 6]))
    pixels = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    return Images(pixels, labels, "mixed", "made here")


def positions(images: Images) -> list[int]:
    return images.images[:, 0, 0].tolist()


@pytest.mark.parametrize("n", [0, 1, 2, 9, 28])
@pytest.mark.parametrize("seed", [None, 0])
def test_alternates(images: Images, n: int, seed: int | None) -> None:
    chosen = balanced(images, (7, 3), n, None if seed is None else jax.random.key(seed))
    assert chosen.labels.tolist() == [7, 3] * (n // 2) + [7] * (n % 2)
    assert len(set(positions(chosen))) == n
    assert [images.labels[p] for p in positions(chosen)] == chosen.labels.tolist()


def test_without_key_the_first_of_each_class(images: Images) -> None:
    chosen = balanced(images, (7, 3), 10)
    for class_ in (7, 3):
        first = np.flatnonzero(images.labels == class_)[:5]
        assert positions(chosen.take(np.flatnonzero(chosen.labels == class_))) == first.tolist()


def test_key_decides(images: Images, key: jax.Array) -> None:
    chosen = balanced(images, (3, 7), 20, key)
    assert positions(balanced(images, (3, 7), 20, key)) == positions(chosen)
    assert positions(balanced(images, (3, 7), 20, jax.random.fold_in(key, 1))) != positions(chosen)
    assert positions(balanced(images, (3, 7), 20)) != positions(chosen)
    assert positions(balanced(images, (3, 7), 11, key)) == positions(chosen)[:11]


def test_same_choice_with_and_without_x64(images: Images, key: jax.Array) -> None:
    with jax.enable_x64(True):
        wide = positions(balanced(images, (3, 7), 20, key))
    with jax.enable_x64(False):
        assert positions(balanced(images, (3, 7), 20, key)) == wide


def test_random_choice_is_uniform(images: Images, key: jax.Array) -> None:
    # each of the 6 images of class 1 is among the 3 chosen with probability 1/2
    hits = np.zeros(40)
    for k in jax.random.split(key, 100):
        hits[positions(balanced(images, (3, 1), 6, k))] += 1
    of_one = hits[images.labels == 1] / 100
    assert of_one.sum() == pytest.approx(3)
    assert np.abs(of_one - 0.5).max() < 5 * 0.5 / np.sqrt(100)


def test_as_many_as_there_are(images: Images) -> None:
    assert len(balanced(images, (3, 1))) == 12
    assert len(balanced(images, (3, 1), 13)) == 13  # an odd one more of the first class
    assert len(balanced(images, (3, 4))) == 0


@pytest.mark.parametrize(
    ("classes", "n", "message"),
    [
        ((3, 1), 14, "n: 14 needs 7 images of class 1, but there are 6 in mixed .made here"),
        ((1, 3), 13, "n: 13 needs 7 images of class 1, but there are 6"),
        ((5, 3), 4, "n: 4 needs 2 images of class 5, but there are 0"),
        ((3, 7), -1, "n: -1 is too small; give at least 0"),
        ((3, 3), 4, r"classes: \(3, 3\) are not two different classes"),
        ((3,), 4, r"classes: \(3,\) are not two different classes"),
        ((1, 3, 7), 4, r"classes: \(1, 3, 7\) are not two different classes"),
        ((-1, 3), 4, "classes: -1 is too small"),
    ],
)
def test_errors(images: Images, classes: tuple[int, ...], n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balanced(images, classes, n)


@pytest.mark.parametrize("bad", [0, "seed", np.zeros(2, np.uint32)])
def test_not_a_key(images: Images, bad: Any) -> None:
    with pytest.raises(TypeError, match="key"):
        balanced(images, (3, 7), 4, bad)


def test_several_keys_are_not_a_key(images: Images, key: jax.Array) -> None:
    with pytest.raises(TypeError, match="key"):
        balanced(images, (3, 7), 4, jax.random.split(key))


@pytest.mark.parametrize("bad", [7, (3, 7.5), (3, "7")])
def test_classes_that_are_not_numbers(images: Images, bad: Any) -> None:
    with pytest.raises(TypeError, match="classes"):
        balanced(images, bad)


def test_old_style_key(images: Images) -> None:
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    assert positions(balanced(images, (3, 7), 8, old)) == positions(balanced(images, (3, 7), 8, new))


def test_signs() -> None:
    assert signs(np.array([5, 2, 2, 5]), (5, 2)).tolist() == [-1.0, 1.0, 1.0, -1.0]
    with pytest.raises(ValueError, match="labels: 4 is not of classes 5, 2"):
        signs(np.array([5, 4]), (5, 2))
