"""The matrix products of a step that no solver counts, in units of (n, m) with (m, m): read off the trace."""

import math
from collections.abc import Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jaxtyping import PyTree

from implicit_ntk.dynamics import AbstractIntegrator, FlowProblem, start


def products_outside_solves(posed: FlowProblem, integrator: AbstractIntegrator) -> tuple[float, float]:
    """(a step, a try of a step). A solver's loop is one that holds no other, whose work is counted there.

    The loop over steps holds that over tries, where there is one; of branches the dearest counts.
    """

    def advance(state: PyTree) -> PyTree:
        return integrator.advance(posed, state, posed.eigenvalues[-1])

    state = start(posed, integrator).integrator
    n, m = posed.y.shape[0], posed.net.width
    program = jax.make_jaxpr(advance)(state)
    steps = [eqn for eqn in _loops(program.jaxpr) if _holds_loops(_body(eqn))]
    assert len(steps) == 1, "one loop over steps"
    tries = [eqn for eqn in _loops(_body(steps[0])) if _holds_loops(_body(eqn))]
    unit = 2 * n * m**2
    return _flops(_body(steps[0])) / unit, sum(_flops(_body(eqn)) for eqn in tries) / unit


def _body(eqn: JaxprEqn) -> Jaxpr:
    return eqn.params["body_jaxpr"].jaxpr


def _inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value


def _loops(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The outermost while loops."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "while":
            yield eqn
        else:
            for inner in _inner(eqn):
                yield from _loops(inner)


def _holds_loops(jaxpr: Jaxpr) -> bool:
    return next(_loops(jaxpr), None) is not None


def _flops(jaxpr: Jaxpr) -> float:
    """Of the products outside of loops."""
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _of_product(eqn)
        elif name == "cond":
            total += max(_flops(branch.jaxpr) for branch in eqn.params["branches"])
        elif name == "scan":
            total += eqn.params["length"] * _flops(eqn.params["jaxpr"].jaxpr)
        elif name != "while":
            total += sum(_flops(inner) for inner in _inner(eqn))
    return total


def _of_product(eqn: JaxprEqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
