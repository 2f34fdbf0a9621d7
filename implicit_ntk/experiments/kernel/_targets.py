"""From class labels to what the outputs of a network are to learn."""

import numpy as np
from jaxtyping import Float, Shaped

Labels = Shaped[np.ndarray, " n"]
Targets = Float[np.ndarray, " n"] | Float[np.ndarray, "n k"]


def targets_of(
    labels: Labels | Targets | None, classes: tuple[int, ...], out: tuple[int, ...]
) -> Targets | None:
    """Targets for outputs of the shape `out`, `()` or `(k,)`; None where there are no labels.

    Two classes give a scalar output the signs -1 and +1. Else a class is a column, one for its samples and
    zero for others, less `1/k`: (n, k), which a scalar output cannot learn but whose alignment with its
    kernel is as telling. Floating-point labels are targets already.

    **Raises:** `ValueError` where k outputs meet another number of classes or columns, where there is one
    class, or the targets are all zero or not finite.
    """
    if labels is None:
        return None
    y = labels if labels.dtype.kind == "f" else _of_classes(labels, classes, out)
    y = y[:, None] if out == (1,) and y.ndim == 1 else y
    if out and y.shape[1:] != out:
        columns = 1 if y.ndim == 1 else y.shape[1]
        raise ValueError(f"outputs must be as many as the columns of the targets, {columns}, got {out[0]}")
    if not np.isfinite(y).all() or not y.any():
        raise ValueError("y must hold finite numbers, not all zero; leave it out where there are no targets")
    return y


def _of_classes(labels: Labels, classes: tuple[int, ...], out: tuple[int, ...]) -> Targets:
    if len(classes) < 2:
        raise ValueError(f"classes must be two or more, got {classes}; floating-point y are targets as is")
    if len(classes) == 2 and out in ((), (1,)):
        return np.where(labels == classes[1], 1.0, -1.0)
    return (labels[:, None] == np.asarray(classes)) - 1 / len(classes)
