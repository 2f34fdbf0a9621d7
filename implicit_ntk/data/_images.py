"""A set of labelled images, as the readers return it."""

import dataclasses

import numpy as np
from jaxtyping import Integer, UInt8

Pixels = UInt8[np.ndarray, "n h w"] | UInt8[np.ndarray, "n h w 3"]


# eq=False: comparing arrays with == has no single truth value
@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Labelled images with original pixel values, and where they came from.

    `images` (n, h, w) grey or (n, h, w, 3) RGB, uint8; `labels` (n,) integers; `name` of the data
    set; `source` for a human reader: files or supplier, and the licence of what is bundled.

    **Raises:** `ValueError` on other shapes, other pixel types, or unequal numbers of images and
    labels.
    """

    images: Pixels
    labels: Integer[np.ndarray, " n"]
    name: str
    source: str

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8:
            raise ValueError(f"images: {self.images.dtype} pixels; pass uint8")
        if self.images.ndim != 3 and not (self.images.ndim == 4 and self.images.shape[3] == 3):
            raise ValueError(f"images: shape {self.images.shape}; pass (n, h, w) or (n, h, w, 3)")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: shape {self.labels.shape} for {len(self.images)} images; pass one each"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Integer[np.ndarray, " k"] | slice) -> "Images":
        """The images at `index`, an array of positions or a slice, in that order."""
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])
