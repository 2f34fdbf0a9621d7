"""Every product says how precise it is to be, in the user's cell and in each of its derivatives."""

import json
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from implicit_ntk.equilibrium import (
    ImplicitAdjoint,
    JacobianFree,
    Method,
    ReverseAdjoint,
    Unrolled,
    fixed_point,
)

PRODUCTS = ("dot_general", "conv_general_dilated")


def equations(jaxpr) -> Iterator:
    """The equations of a jaxpr and of all that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(leaf):
                yield from equations(getattr(leaf, "jaxpr", leaf))


def is_jaxpr(leaf) -> bool:
    return isinstance(leaf, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr)


def precisions(f, *args) -> list:
    """The precision of every product that `f` runs."""
    found = equations(jax.make_jaxpr(f)(*args).jaxpr)
    return [e.params["precision"] for e in found if e.primitive.name in PRODUCTS]


def dense(z, args):
    A, phi = args
    return jnp.tanh(z @ A + phi)


def einsum_under_jit(z, args):
    A, phi = args
    return jnp.tanh(jax.jit(lambda z: jnp.einsum("ni,ij->nj", z, A))(z) + phi)


def convolution(z, args):
    kernel, phi = args
    return jnp.tanh(0.1 * lax.conv_general_dilated(z, kernel, (1,), "SAME") + phi)


PROBLEMS = {
    "dense": (dense, (jnp.eye(5) / 2, jnp.ones((3, 5)))),
    "einsum": (einsum_under_jit, (jnp.eye(5) / 2, jnp.ones((3, 5)))),
    "convolution": (convolution, (jnp.ones((2, 2, 3)), jnp.ones((3, 2, 6)))),
}


def derivatives(cell, method):
    """Forward, jvp, vjp and Hessian-vector product of the equilibrium, without products of their own."""

    def loss(args):
        return jnp.sum(fixed_point(cell, jnp.zeros_like(args[1]), args, 1, method).z ** 2)

    def jvp(args):
        return jax.jvp(loss, (args,), (args,))[1]

    return {
        "forward": loss,
        "jvp": jvp,
        "vjp": jax.grad(loss),
        "hvp": lambda args: jax.jvp(jax.grad(loss), (args,), (args,))[1],
        "reverse over forward": jax.grad(jvp),
    }


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_product_is_of_the_highest_precision(problem):
    cell, args = PROBLEMS[problem]
    counts = {}
    for name, f in derivatives(cell, Method()).items():
        found = precisions(f, args)
        assert set(found) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}, name
        counts[name] = len(found)
    # The search does look into loops and rules.
    assert 1 <= counts["forward"] < counts["jvp"] < counts["hvp"]


@pytest.mark.parametrize("adjoint", [ReverseAdjoint(), Unrolled(4), JacobianFree()])
def test_other_adjoints_too(adjoint):
    cell, args = PROBLEMS["dense"]
    found = precisions(derivatives(cell, Method(adjoint=adjoint))["vjp"], args)
    assert set(found) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}


@pytest.mark.parametrize(("asked", "got"), [("default", "DEFAULT"), ("high", "HIGH"), ("bfloat16", None)])
def test_less_where_less_is_asked_for(asked, got):
    cell, args = PROBLEMS["dense"]
    for name in ("forward", "vjp"):
        for found in precisions(derivatives(cell, Method(precision=asked))[name], args):
            wanted = lax.Precision[got] if got else lax.Precision.DEFAULT
            assert found == (wanted, wanted)


def test_a_caller_of_lower_precision_is_not_listened_to():
    """The context that a user set for products of their own does not reach into the solve."""
    cell, args = PROBLEMS["dense"]
    with jax.default_matmul_precision("default"):
        found = precisions(derivatives(cell, Method())["vjp"], args)
    assert set(found) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}


def test_a_product_that_says_its_precision_keeps_it():
    def cell(z, args):
        return jnp.tanh(jnp.matmul(z, args[0], precision=lax.Precision.HIGH) + args[1])

    found = precisions(derivatives(cell, Method(adjoint=ImplicitAdjoint()))["vjp"], PROBLEMS["dense"][1])
    assert set(found) == {(lax.Precision.HIGH, lax.Precision.HIGH)}


def test_importing_changes_no_flag():
    program = """
import json, jax
before = dict(jax.config.values)
import implicit_ntk.equilibrium
after = dict(jax.config.values)
print(json.dumps([name for name in before if repr(before[name]) != repr(after[name])]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
