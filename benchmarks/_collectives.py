"""What a compiled program sends between devices, read off its text."""

import re
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"f64": 8, "f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}


class Traffic(NamedTuple):
    """Bytes that each device receives: in one turn of every loop, and once, outside of them."""

    a_turn: float
    once: float


def traffic(text: str) -> Traffic:
    """Of a program after partitioning (`compiled.as_text()`), by the cost of rings.

    Of a result of B bytes among g devices an all-gather brings B (g-1)/g, an all-reduce twice as much.
    Branches count as if they were taken.
    """
    computations = dict(re.findall(r"^(?:ENTRY )?%(\S+) \(.*?\{$(.*?)^\}", text, flags=re.M | re.S))
    in_loops: set[str] = set()
    waiting = re.findall(r"body=%([\w.-]+)", text)
    while waiting:
        name = waiting.pop()
        if name not in in_loops:
            in_loops.add(name)
            waiting += [
                called for called in re.findall(r"%([\w.-]+)", computations[name]) if called in computations
            ]
    a_turn = sum(received(computations[name]) for name in in_loops)
    return Traffic(a_turn, sum(map(received, computations.values())) - a_turn)


def received(computation: str) -> float:
    """The bytes of the collectives of one computation."""
    found = re.findall(rf"= (.+?) ({'|'.join(KINDS)})(?:-start)?\((.*)", computation)
    return sum(share(kind, group_size(rest)) * size(shapes) for shapes, kind, rest in found)


def share(kind: str, group: int) -> float:
    """What part of its result a collective brings to each device."""
    if kind == "collective-permute":
        return 1.0
    parts = {"all-reduce": 2 * (group - 1) / group, "reduce-scatter": group - 1.0}
    return parts.get(kind, (group - 1) / group)


def group_size(attributes: str) -> int:
    """How many devices take part: `[4,2]<=[8]`, `{{0,1},{2,3}}` or `mesh['a'=4,'b'=2] {'b'}`."""
    groups = re.search(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)|mesh\[(.*?)\] ?\{(.*?)\})", attributes)
    if groups is None:
        return 1
    number, listed, axes, taken = groups.groups()
    if taken is not None:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes))
        return int(np.prod([int(sizes[axis]) for axis in re.findall(r"'(\w+)'", taken)]))
    return int(number) if number else len(listed.split(","))


def size(shapes: str) -> int:
    """Bytes of one array, or of a tuple of them."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(BYTES[kind] * int(np.prod([int(n) for n in axes.split(",") if n])) for kind, axes in arrays)
