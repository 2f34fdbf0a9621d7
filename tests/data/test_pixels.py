"""Grey, resize, flatten, unit norm."""

import numpy as np
import pytest

from implicit_ntk.data import grey, resize, to_inputs, unit_norm

# jaxtyping's checks, where the suite switches them on, come first, as a TypeError
BAD_SHAPE = (ValueError, TypeError)


def by_repetition(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area resampling the long way: repeat every pixel, then take means of whole blocks."""
    h, w = image.shape
    fine = np.kron(image, np.ones((height, width)))
    return fine.reshape(height, h, width, w).mean(axis=(1, 3))


@pytest.mark.parametrize(
    ("old", "new"),
    [((32, 32), (28, 28)), ((4, 6), (2, 3)), ((5, 3), (3, 2)), ((3, 4), (7, 9)), ((4, 4), (4, 4))],
)
def test_resize_is_area_resampling(
    rng: np.random.Generator, old: tuple[int, int], new: tuple[int, int]
) -> None:
    images = rng.uniform(0, 255, (3, *old))
    found = resize(images, *new)
    assert found.shape == (3, *new)
    np.testing.assert_allclose(found, [by_repetition(x, *new) for x in images], rtol=1e-12)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-12)


def test_resize_of_bytes(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (2, 8, 8), dtype=np.uint8)
    found = resize(images, 3, 3)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, resize(images.astype(float), 3, 3))


def test_resize_keeps_left_and_up(rng: np.random.Generator) -> None:
    image = np.zeros((1, 32, 32))
    image[0, :8, :16] = 1.0
    found = resize(image, 28, 28)[0]
    expected = np.zeros((28, 28))
    expected[:7, :14] = 1.0
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("colour", "value"),
    [((255, 0, 0), 76.245), ((0, 255, 0), 149.685), ((0, 0, 255), 29.07), ((9, 9, 9), 9.0)],
)
def test_grey_is_luminance(colour: tuple[int, int, int], value: float) -> None:
    found = grey(np.full((1, 2, 2, 3), colour, np.uint8))
    np.testing.assert_allclose(found, np.full((1, 2, 2), value), rtol=1e-12)


def test_inputs_of_grey_images(rng: np.random.Generator) -> None:
    images = rng.integers(1, 256, (5, 4, 3), dtype=np.uint8)
    X = to_inputs(images)
    assert X.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1.0, rtol=1e-15)
    np.testing.assert_allclose(X[2], images[2].ravel() / np.linalg.norm(images[2]), rtol=1e-14)


def test_inputs_of_colour_images(rng: np.random.Generator) -> None:
    images = rng.integers(1, 256, (2, 32, 32, 3), dtype=np.uint8)
    X = to_inputs(images)
    assert X.shape == (2, 784)
    expected = by_repetition(images[1] @ [0.299, 0.587, 0.114], 28, 28).ravel()
    np.testing.assert_allclose(X[1], expected / np.linalg.norm(expected), rtol=1e-12)


def test_no_images() -> None:
    assert to_inputs(np.zeros((0, 28, 28), np.uint8)).shape == (0, 784)
    assert to_inputs(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 784)


def test_black_image() -> None:
    images = np.ones((3, 4, 4), np.uint8)
    images[1] = 0
    with pytest.raises(ValueError, match="images: sample 1 is all zero; leave it out"):
        to_inputs(images)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (np.float32, 1.0),
        (np.float32, 1e-30),
        (np.float32, 1e30),
        (np.float64, 1.0),
        (np.float64, 1e-200),
        (np.float64, 1e200),
    ],
)
def test_unit_norm(rng: np.random.Generator, dtype: type, size: float) -> None:
    X = (size * rng.standard_normal((6, 9))).astype(dtype)
    U = unit_norm(X)
    assert U.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(np.linalg.norm(U.astype(float), axis=1), 1.0, rtol=4 * eps)
    ratio = U.astype(float) / X.astype(float)
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], X.shape), rtol=4 * eps)
    assert ratio.min() > 0


def test_unit_norm_of_float32_is_rounded_once(rng: np.random.Generator) -> None:
    X = rng.standard_normal((50, 2000)).astype(np.float32)
    exact = X.astype(float) / np.linalg.norm(X.astype(float), axis=1, keepdims=True)
    np.testing.assert_array_equal(unit_norm(X), exact.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_unit_norm_of_what_is_not_finite(bad: float) -> None:
    X = np.ones((4, 3))
    X[2, 1] = bad
    with pytest.raises(ValueError, match="X: row 2 has a NaN or an infinity"):
        unit_norm(X)


def test_unit_norm_refuses() -> None:
    with pytest.raises(ValueError, match="X: sample 0 is all zero"):
        unit_norm(np.zeros((1, 3)))
    with pytest.raises(TypeError, match="X"):
        unit_norm(np.ones((2, 3), int))
    with pytest.raises(BAD_SHAPE, match="X"):
        unit_norm(np.ones(3))


def test_shapes() -> None:
    with pytest.raises(BAD_SHAPE, match="images"):
        grey(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(BAD_SHAPE, match="images"):
        resize(np.zeros((2, 4, 4, 3)), 2, 2)
    with pytest.raises(ValueError, match="height: 0 is too small; give at least 1"):
        resize(np.zeros((2, 4, 4)), 0, 2)
    with pytest.raises(ValueError, match="width: -1 is too small; give at least 1"):
        resize(np.zeros((2, 4, 4)), 2, -1)
