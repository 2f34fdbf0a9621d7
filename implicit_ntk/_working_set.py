"""How much memory a computation takes, read off its trace: nothing is compiled and nothing allocated.

The compiler plans its buffers by when an array is made and when it is last read. So does `working_set`,
on the jaxpr: what it leaves out (copies into other layouts, loop states that are not updated in place)
is in `SLACK`, and fusion only makes the truth smaller.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
from jax.extend.core import Jaxpr, JaxprEqn, Var

from implicit_ntk._memory import memory_limit

SLACK = 1.5
"""What compiled solves were seen to take, at most 1.3 times what is alive in their traces, and a margin."""

LOOPS = ("while", "scan")
"""They hold what they return twice: as it was before an iteration, and as it is after."""


def working_set(function: Callable[..., Any], *args: Any) -> int:
    """Bytes that `function(*args)` holds at once, results included and arguments not: an upper estimate.

    Arrays among the arguments may be `jax.ShapeDtypeStruct`s. Traces the function, once for arguments of
    one form; allocates nothing.
    """
    leaves, structure = jax.tree.flatten(args)
    forms = tuple(_form(leaf) if eqx.is_array(leaf) else leaf for leaf in leaves)
    return _working_set(function, forms, structure, memory_limit())


@functools.lru_cache(maxsize=64)
def _working_set(function: Callable[..., Any], leaves: tuple, structure: Any, limit: int) -> int:
    """By what it depends on: tiles inside the function follow the memory limit."""
    closed, _, _ = eqx.filter_make_jaxpr(function)(*jax.tree.unflatten(structure, leaves))
    return int(SLACK * _peak(closed.jaxpr))


def _form(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _peak(jaxpr: Jaxpr) -> int:
    """The most bytes alive at once, beside the arguments."""
    freed = _freed_after(jaxpr)
    live = peak = 0
    for i, eqn in enumerate(jaxpr.eqns):
        peak = max(peak, live + _during(eqn))
        live += sum(map(_nbytes, eqn.outvars)) - freed[i]
    return peak


def _freed_after(jaxpr: Jaxpr) -> list[int]:
    """For each equation the bytes that nobody reads after it. Arguments and results stay."""
    made_by = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.outvars}
    last = dict(made_by)
    for i, eqn in enumerate(jaxpr.eqns):
        last.update((v, i) for v in eqn.invars if isinstance(v, Var) and v in made_by)
    results = {v for v in jaxpr.outvars if isinstance(v, Var)}
    freed = [0] * len(jaxpr.eqns)
    for v, i in last.items():
        freed[i] += 0 if v in results else _nbytes(v)
    return freed


def _during(eqn: JaxprEqn) -> int:
    """Bytes that one equation makes: those of a call are made inside it."""
    made = sum(map(_nbytes, eqn.outvars))
    inside = max(map(_peak, _inner(eqn)), default=0)
    return made + inside if eqn.primitive.name in LOOPS else max(made, inside)


def _inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The computations that an equation runs: bodies, branches, rules."""
    for leaf in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns")):
        if hasattr(leaf, "eqns"):
            yield getattr(leaf, "jaxpr", leaf)


def _nbytes(v: Var) -> int:
    """The size of an array; tokens have none."""
    return getattr(v.aval, "size", 0) * getattr(getattr(v.aval, "dtype", None), "itemsize", 0)
