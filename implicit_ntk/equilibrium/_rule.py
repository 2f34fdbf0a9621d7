"""The implicit function theorem: derivatives of `z(args)`, where `f(z, args) = z`, from the solution alone.

With `J = df/dz` at the solution,

    dz = J dz + (df/dargs) dargs            (tangents)
    p = J^T p + zbar,  argsbar = (df/dargs)^T p       (cotangents)

Nothing here knows how `z` was found, nor how the two linear equations are solved: both come in as
values, `z` and `solve(apply, rhs, transposed)`, which returns the `x` of `x = apply(x) + rhs` (and, for
`linear_equation`, what is to be reported of it), `apply` being `J` or, transposed, `J^T`. Memory does not
grow with the number of iterations.

JAX runs a rule after the trace that it was made in, so that what a rule needs of arrays must come to it
as arguments: those of `solve` too, which is therefore a module where it holds any.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

LinearMap = Callable[[PyTree[Array]], PyTree[Array]]
LinearSolve = Callable[[LinearMap, PyTree[Array], bool], Any]
ParametricMap = Callable[[PyTree[Array], Any], PyTree[Array]]


def both_modes(f: ParametricMap, z: PyTree[Array], args: Any, solve: LinearSolve) -> PyTree[Array]:
    """The value `z` with its derivatives attached, in every mode and to every order.

    A `custom_jvp` whose rule calls itself: the solution that the rule differentiates at is again a
    function of `args`, which is what makes second and higher orders right. The tangent equation is a
    `custom_linear_solve`, so that JAX can transpose it.
    """
    arrays, call, solver = _open(f, args, solve)

    @jax.custom_jvp
    def attach(z: PyTree[Array], arrays: Any) -> PyTree[Array]:
        return z

    @attach.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        z, arrays = primals
        z = attach(z, arrays)
        _, rhs = jax.jvp(lambda arrays: call(z, arrays), (arrays,), (tangents[1],))
        _, push = jax.linearize(lambda z: call(z, arrays), z)
        return z, linear_equation(push, rhs, solver(arrays))

    return attach(z, arrays)


def reverse_only(f: ParametricMap, z: PyTree[Array], args: Any, solve: LinearSolve) -> PyTree[Array]:
    """The value `z` with its cotangent rule attached: a literal `custom_vjp`, first order, reverse mode."""
    arrays, call, solver = _open(f, args, solve)

    @jax.custom_vjp
    def attach(z: PyTree[Array], arrays: Any) -> PyTree[Array]:
        return z

    def forward(z: PyTree[Array], arrays: Any) -> tuple:
        # A plain `z` would be a constant to whoever differentiates once more, and the result wrong.
        z = attach(z, arrays)
        return z, (z, arrays)

    def backward(residuals: tuple, zbar: PyTree[Array]) -> tuple:
        z, arrays = residuals
        _, pull_state = jax.vjp(lambda z: call(z, arrays), z)
        p = solver(arrays)(lambda p: pull_state(p)[0], zbar, True)
        _, pull_arguments = jax.vjp(lambda arrays: call(z, arrays), arrays)
        return jax.tree.map(jnp.zeros_like, z), *pull_arguments(p)

    attach.defvjp(forward, backward)
    return attach(z, arrays)


def linear_equation(
    apply: LinearMap,
    rhs: PyTree[Array],
    solve: LinearSolve,
    has_aux: bool = False,
    transposed: bool = False,
) -> Any:
    """The `x` of `x = apply(x) + rhs`, differentiable in `rhs` and in all that `apply` closes over.

    `transposed` says that `apply` is `J^T`, which `solve` is told. With `has_aux`, `solve` returns
    `(x, aux)` and so does this; `aux` carries no derivative.
    """
    transpose = jax.linear_transpose(apply, rhs)
    # JAX transposes no solve that has a constant, such as zero, among the leaves of its right-hand side.
    to_leaf, to_tree = _as_one_leaf(rhs)

    def matvec(x: Array) -> Array:
        return to_leaf(jax.tree.map(jnp.subtract, to_tree(x), apply(to_tree(x))))

    def solver(apply: LinearMap, transposed: bool) -> Callable:
        def run(_: Callable, b: Array) -> Any:
            found = solve(apply, to_tree(b), transposed)
            return (to_leaf(found[0]), found[1]) if has_aux else to_leaf(found)

        return run

    found = lax.custom_linear_solve(
        matvec,
        to_leaf(rhs),
        solve=solver(apply, transposed),
        transpose_solve=solver(lambda p: transpose(p)[0], not transposed),
        has_aux=has_aux,
    )
    return (to_tree(found[0]), found[1]) if has_aux else to_tree(found)


def _as_one_leaf(tree: PyTree[Array]) -> tuple[Callable, Callable]:
    """From trees of this form to one array, and back; a single leaf keeps its shape."""
    leaves, form = jax.tree.flatten(tree)
    if len(leaves) == 1:
        return lambda tree: jax.tree.leaves(tree)[0], lambda leaf: jax.tree.unflatten(form, [leaf])
    return lambda tree: ravel_pytree(tree)[0], ravel_pytree(tree)[1]


def _open(f: ParametricMap, args: Any, solve: LinearSolve) -> tuple[Any, Callable, Callable]:
    """The arrays in all three; and, given these arrays, the map `f(., args)` and the solve."""
    arrays, static = eqx.partition((f, args, solve), eqx.is_array)

    def call(z: PyTree[Array], arrays: Any) -> PyTree[Array]:
        function, arguments, _ = eqx.combine(arrays, static)
        return function(z, arguments)

    def solver(arrays: Any) -> LinearSolve:
        return eqx.combine(arrays, static)[2]

    return arrays, call, solver
