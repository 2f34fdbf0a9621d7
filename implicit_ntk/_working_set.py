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

SLACK = 2.0
"""What compiled programs were seen to take over what is alive in their traces: at most 1.3 of solves,
and 1.95 of the Gram of a monotone network, whose many terms the compiler holds together."""

LOOPS = ("while", "scan")
"""They hold what they return twice: as it was before an iteration, and as it is after."""

VIEWS = ("stop_gradient", "transpose", "reshape", "squeeze")
"""They say how an array is read: compilers make no array of a transposed factor."""


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
    views = _views(jaxpr)
    freed = _freed_after(jaxpr, views)
    live = peak = 0
    for i, eqn in enumerate(jaxpr.eqns):
        if views.keys().isdisjoint(eqn.outvars):
            peak = max(peak, live + _during(eqn))
            live += sum(map(_nbytes, eqn.outvars))
        live -= freed[i]
    return peak


def _views(jaxpr: Jaxpr) -> dict[Var, Var]:
    """What stands for another array, and that array. A result is an array of its own."""
    views: dict[Var, Var] = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in VIEWS and isinstance(eqn.invars[0], Var):
            views[eqn.outvars[0]] = views.get(eqn.invars[0], eqn.invars[0])
    for v in jaxpr.outvars:
        if isinstance(v, Var):
            views.pop(v, None)
    return views


def _freed_after(jaxpr: Jaxpr, views: dict[Var, Var]) -> list[int]:
    """For each equation the bytes that nobody reads after it. Arguments and results stay."""
    made_by = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.outvars if v not in views}
    last = dict(made_by)
    for i, eqn in enumerate(jaxpr.eqns):
        read = (views.get(v, v) for v in eqn.invars if isinstance(v, Var))
        last.update((v, i) for v in read if v in made_by)
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
