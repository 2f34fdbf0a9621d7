"""From pixels to the inputs of GLL22 and GG22: grey, 28x28, flat, of unit norm."""

import numpy as np
from jaxtyping import Float, Real, UInt8

from ._checks import check_count
from ._images import Pixels
from ._unit_norm import unit_norm

# The size of MNIST, which GLL22 (section 4) brings the colour images to
SIDE = 28

# Luminance of ITU-R BT.601, which image libraries mean by "grey"
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def to_inputs(images: Pixels) -> Float[np.ndarray, "n d"]:
    """Images as rows of unit norm, float64: x = vec(image) / ||vec(image)||.

    Grey images keep their size. Colour images, (n, h, w, 3), are first made grey and resized to
    28x28 (GLL22, section 4); all of the image is kept, nothing is cropped or padded.

    **Raises:** `ValueError` for an image that is all zero.
    """
    shades = images if images.ndim == 3 else resize(grey(images), SIDE, SIDE)
    height, width = shades.shape[1:]
    return unit_norm(shades.reshape(-1, height * width).astype(np.float64), "images")


def grey(images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w"]:
    """Luminance 0.299 R + 0.587 G + 0.114 B, 0 to 255, float64, not rounded.

    **Raises:** `ValueError` unless the last axis has three colours.
    """
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images: shape {images.shape} is not (n, h, w, 3); grey needs colours")
    return images @ _LUMINANCE


def resize(images: Real[np.ndarray, "n h w"], height: int, width: int) -> Float[np.ndarray, "n height width"]:
    """Images resampled by area: each new pixel is the mean of the old ones under it.

    R I C^T with `area_weights` R (height, h) and C (width, w). Keeps the mean of an image exactly,
    needs no choice of filter, and has no aliasing. float64.

    **Raises:** `ValueError` unless `images` is (n, h, w) and the new size is positive.
    """
    if images.ndim != 3:
        raise ValueError(f"images: shape {images.shape} is not (n, h, w); make colours grey first")
    rows = area_weights(images.shape[1], check_count("height", height, least=1))
    columns = area_weights(images.shape[2], check_count("width", width, least=1))
    return rows @ images @ columns.T


def area_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Row i: the share of old pixels in [i, i+1) old/new; rows sum to 1."""
    edges = np.arange(new + 1)[:, None] * (old / new)
    pixels = np.arange(old)[None, :]
    # the part of each old pixel that lies left of an edge; its increments are the overlaps
    covered = np.clip(edges - pixels, 0.0, 1.0)
    return np.diff(covered, axis=0) * (new / old)
