"""Leaves that fit together: the shapes that a network's annotations name."""

import dataclasses
from typing import Any

import equinox as eqx

from implicit_ntk._checks import AnyArray
from implicit_ntk._tracing import is_traced

OUT = "*out"


def check_shapes(net: eqx.Module) -> None:
    """Raise `ValueError` unless the leaves have the shapes of their annotations, such as `"m *out"`.

    One letter is one size, and `*out` is `()` or `(k,)`, throughout the network. Nothing is asked of leaves
    that are no arrays or are traced: transformations rebuild modules with whatever they carry.
    """
    annotated = {
        field.name: field.type.dim_str.split()  # type: ignore[union-attr]
        for field in dataclasses.fields(net)
        if hasattr(field.type, "dim_str")
    }
    leaves = {name: getattr(net, name) for name in annotated}
    if any(not isinstance(leaf, AnyArray) or is_traced(leaf) for leaf in leaves.values()):
        return
    sizes: dict[str, Any] = {}
    for name, leaf in leaves.items():
        if not _fits(leaf.shape, annotated[name], sizes):
            known = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
            raise ValueError(
                f"{name} must have shape ({', '.join(annotated[name])}), got {leaf.shape}, where {known}; "
                f"{type(net).__name__}.init draws leaves that fit"
            )


def _fits(shape: tuple[int, ...], letters: list[str], sizes: dict[str, Any]) -> bool:
    """Is this shape that of the letters? Those that are new take their size from it."""
    parts: list[Any] = list(shape)
    if letters[-1:] == [OUT]:
        parts = [*shape[: len(letters) - 1], shape[len(letters) - 1 :]]
    if len(parts) != len(letters) or (OUT in letters and len(parts[-1]) > 1):
        return False
    return all(
        int(letter) == part if letter.isdigit() else sizes.setdefault(letter, part) == part
        for letter, part in zip(letters, parts, strict=True)
    )
