"""Two classes, equally many of each, as labels -1 and +1."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Integer

from ._checks import check_count
from ._images import Images
from ._keys import OptionalKey, split_optional


def balanced(
    images: Images,
    classes: Sequence[int] = (0, 1),
    n: int | None = None,
    key: OptionalKey = None,
) -> Images:
    """`n` images of two classes, alternating between them: a, b, a, b, ...

    Without `key` the first of each class in file order, with it a random choice. Every leading part
    is balanced to within one, and the n of a smaller call are the first of a larger one with the
    same key. `n=None` takes as many as the smaller class allows.

    **Raises:** `ValueError` for other than two different classes, or too few images, saying how
    many there are; `TypeError` for classes that are not a pair of ints and a `key` that is not one.
    """
    first, second = pair(classes)
    key_first, key_second = split_optional(key)
    of_first = _of_class(images.labels, first, key_first)
    of_second = _of_class(images.labels, second, key_second)
    size = 2 * min(len(of_first), len(of_second)) if n is None else check_count("n", n, least=0)
    check_enough(images, (first, second), size)
    index = np.empty(size, np.int64)
    index[0::2] = of_first[: (size + 1) // 2]
    index[1::2] = of_second[: size // 2]
    return images.take(index)


def signs(labels: Integer[np.ndarray, " n"], classes: Sequence[int] = (0, 1)) -> Float[np.ndarray, " n"]:
    """Labels as -1 for the first class and +1 for the second, float64.

    **Raises:** `ValueError` if a label is of neither class.
    """
    first, second = pair(classes)
    other = labels[(labels != first) & (labels != second)]
    if len(other):
        raise ValueError(f"labels: {other[0]} is not of classes {first}, {second}; use balanced()")
    return np.where(labels == second, 1.0, -1.0)


def check_enough(images: Images, classes: Sequence[int], n: int, argument: str = "n") -> None:
    """Raises `ValueError` unless `n` images, half of each class, can be taken."""
    for class_, needed in zip(classes, ((n + 1) // 2, n // 2), strict=True):
        found = int(np.sum(images.labels == class_))
        if found < needed:
            raise ValueError(
                f"{argument}: {n} needs {needed} images of class {class_}, but there are {found} "
                f"in {images.name} ({images.source}); ask for fewer, for other classes, or load "
                "a fuller copy"
            )


def pair(classes: Any) -> tuple[int, int]:
    """`classes` as two different ints; raises `TypeError` or `ValueError` otherwise."""
    if not isinstance(classes, Sequence | np.ndarray):
        raise TypeError(f"classes: {classes!r} is not a pair; pass e.g. (0, 1)")
    values = tuple(check_count("classes", value, least=0) for value in classes)
    if len(values) != 2 or values[0] == values[1]:
        raise ValueError(f"classes: {values} are not two different classes; pass e.g. (0, 1)")
    return values


def _of_class(labels: Integer[np.ndarray, " n"], class_: int, key: OptionalKey) -> Int[np.ndarray, " k"]:
    """Positions of a class, in file order or shuffled."""
    index = np.flatnonzero(labels == class_)
    return index if key is None else index[np.asarray(jax.random.permutation(key, len(index)))]
