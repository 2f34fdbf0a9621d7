"""`two_class`: from a name to a two-class problem as in the experiments of the papers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ._checks import check_count, check_dtype
from ._files import AnyPath
from ._images import Images
from ._keys import OptionalKey, split_optional
from ._load import UNDIVIDED, load_splits
from ._parallel import parallel_pairs
from ._perturb import perturb_parallel
from ._pixels import to_inputs
from ._select import balanced, check_enough, pair, signs


# eq=False: comparing arrays with == has no single truth value
@dataclasses.dataclass(frozen=True, eq=False)
class TwoClass:
    """A two-class problem: rows of unit norm and labels -1, +1, for training and for testing.

    `classes` are the original labels that became -1 and +1; `source` says where the images are
    from; `perturbed` are the positions of the training rows that got noise because they were
    parallel to an earlier one.
    """

    X: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, " n"]
    X_test: Float[np.ndarray, "n_test d"]
    y_test: Float[np.ndarray, " n_test"]
    name: str
    classes: tuple[int, int]
    source: str
    perturbed: Int[np.ndarray, " k"]


def two_class(
    name: str,
    classes: Sequence[int] = (0, 1),
    n_train: int = 200,
    n_test: int = 200,
    directory: AnyPath | None = None,
    source: str = "auto",
    key: OptionalKey = None,
    dtype: Any = np.float32,
) -> TwoClass:
    """Two classes of a data set, preprocessed as in GLL22, section 4, and GG22.

    Balanced (to within one, and so is every leading part: the classes alternate), made grey and
    28x28 where they are colour images, flattened, scaled to unit norm; classes[0] is -1, classes[1]
    is +1. One of each pair of parallel training samples gets noise (`perturb_parallel`).

    Without `key` the first images of each class are taken, with it random ones. It is needed where
    there are parallel samples. `name`, `directory` and `source` are those of `load`. Test images
    come from the test split; "digits" has none, and there train and test are disjoint parts.

    **Raises:** `ValueError` on options that do not apply, classes or numbers that the data set does
    not have (saying how many there are), a black image, or parallel samples without a key;
    `FileNotFoundError` if the files are not there; `TypeError` on a dtype or key that is not one.
    """
    dtype = check_dtype(dtype)
    classes = pair(classes)
    check_count("n_train", n_train, least=2, why=", one for each class")
    check_count("n_test", n_test, least=0)
    key_choice, key_noise = split_optional(key)
    train, test = _choose(name, classes, (n_train, n_test), directory, source, key_choice)
    X, y = _rows(train, classes, dtype)
    X_test, y_test = _rows(test, classes, dtype)
    X, perturbed = _distinct(X, key_noise)
    sources = "; ".join(dict.fromkeys([train.source, test.source]))
    return TwoClass(X, y, X_test, y_test, name, classes, sources, perturbed)


def _choose(
    name: str,
    classes: tuple[int, int],
    numbers: tuple[int, int],
    directory: AnyPath | None,
    source: str,
    key: OptionalKey,
) -> tuple[Images, Images]:
    """Balanced training and test images that have none in common."""
    if name in UNDIVIDED:
        (pool,) = load_splits(name, ("train",), directory, source)
        check_enough(pool, classes, sum(numbers), "n_train + n_test")
        both = balanced(pool, classes, sum(numbers), key)
        return both.take(slice(numbers[0])), both.take(slice(numbers[0], None))
    train, test = load_splits(name, ("train", "test"), directory, source)
    check_enough(train, classes, numbers[0], "n_train")
    check_enough(test, classes, numbers[1], "n_test")
    key_train, key_test = split_optional(key)
    return (
        balanced(train, classes, numbers[0], key_train),
        balanced(test, classes, numbers[1], key_test),
    )


def _rows(
    images: Images, classes: tuple[int, int], dtype: np.dtype
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    return to_inputs(images.images).astype(dtype), signs(images.labels, classes).astype(dtype)


def _distinct(
    X: Float[np.ndarray, "n d"], key: OptionalKey
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " k"]]:
    """`perturb_parallel`, but without a key an error where it would change anything."""
    if key is not None:
        return perturb_parallel(key, X)
    pairs = parallel_pairs(X)
    if len(pairs):
        raise ValueError(
            f"key: {len(pairs)} pairs of training samples are parallel, the first "
            f"{pairs[0].tolist()}; pass key=jax.random.key(seed), so that one of each gets noise"
        )
    return X, np.empty(0, np.int64)
