"""The 8x8 digits that come with scikit-learn."""

import numpy as np

from ._images import Images


def read_digits() -> Images:
    """1797 images (n, 8, 8) with 17 grey levels, 0 to 16, and their digits (n,)."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return Images(
        images=X.reshape(-1, 8, 8).astype(np.uint8),
        labels=y.astype(np.int64),
        name="digits",
        source="optical digits of the UCI repository (its test set), bundled with scikit-learn",
    )
