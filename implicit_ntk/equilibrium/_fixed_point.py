"""The bare solver: `z = f(z, args)` for any function and any pytree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from implicit_ntk.equilibrium._adjoint import Problem
from implicit_ntk.equilibrium._affine import AffineMap
from implicit_ntk.equilibrium._batch import batch_shape
from implicit_ntk.equilibrium._driver import Equilibrium
from implicit_ntk.equilibrium._method import Method
from implicit_ntk.equilibrium._policy import FORWARD, Policy, checked


def fixed_point(
    f: Callable[[PyTree[Array], Any], PyTree[Array]],
    z0: PyTree[ArrayLike],
    args: Any = None,
    batch_ndim: int = 0,
    method: Method | None = None,
) -> Equilibrium:
    """Solve `z = f(z, args)` from the guess `z0`; the result's `z` is differentiable in `args`.

    **Arguments:**

    - `f`: any callable, closures and Equinox modules included: arrays that it captures are
      differentiated like `args`. It must return the structure, shapes and dtypes of `z0`.
    - `z0`: the guess, a pytree of floating-point arrays. No derivative flows through it.
    - `args`: any pytree. What in it is no array, such as a Python number, is a constant that the solve
      is compiled for: pass arrays for what changes.
    - `batch_ndim`: that many leading axes, shared by all leaves, index independent problems; each is
      stopped, frozen and reported on its own.
    - `method`: a `Method`; None for Picard with the implicit rule.

    **Returns:** an `Equilibrium`: `z`, and per problem `residual`, `error`, `steps`, `status`.

    **Raises:** `ConvergenceError` under the policy `"raise"` when called on concrete arrays; from inside
    a transformation what JAX makes of it (a `RuntimeError`, or, where a compiled function is called
    again, a `ValueError`), with the same sentence in its text; `ValueError`, `TypeError` for a guess or
    a function of the wrong form.
    """
    method = Method() if method is None else method
    if not isinstance(method, Method):
        raise TypeError(f"method must be a Method such as Method(solver=Picard()), got {method!r}")
    if not callable(f):
        raise TypeError(f"f must be callable as f(z, args), got {f!r}")
    z0 = _checked_guess(z0, batch_ndim)

    def run(policy: Policy) -> Equilibrium:
        return _fixed_point(f, z0, args, batch_ndim, method, policy)

    return checked(run, lambda eq: {FORWARD: eq}, method.on_failure, (f, z0, args, method))


@eqx.filter_jit
def _fixed_point(
    f: Callable, z0: PyTree[Array], args: Any, batch_ndim: int, method: Method, policy: Policy
) -> Equilibrium:
    with method.products():
        return solve_fixed_point(f, z0, args, batch_ndim, method, policy)


def solve_fixed_point(
    f: Callable,
    z0: PyTree[Array],
    args: Any,
    batch_ndim: int,
    method: Method,
    policy: Policy,
    affine: AffineMap | None = None,
) -> Equilibrium:
    """`fixed_point` without its door: traceable, unchecked, in the precision context of the caller.

    `affine` is the form of `z -> f(z, args)` where it has that form.
    """
    _check_form(f, z0, args)
    # Captured arrays become arguments, so that the rule differentiates them; and the products of `f`
    # are traced here, once, under the caller's precision, which every derivative then inherits. Equinox
    # hands back a function that captures nothing as it is, and so it is given one that captures `f`.
    traced = eqx.filter_closure_convert(lambda z, args: f(z, args), z0, args)
    method = method.prepared(affine)
    return method.adjoint.solve(
        Problem(traced, args, batch_ndim, policy, affine, method.full_precision), method.solver, z0
    )


def _checked_guess(z0: PyTree, batch_ndim: int) -> PyTree[Array]:
    leaves = jax.tree.leaves(z0)
    if not leaves:
        raise ValueError("z0 holds no arrays; pass a guess with the structure of the state")
    for leaf in leaves:
        array = isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex)
        if not array or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            found = getattr(leaf, "dtype", repr(leaf))
            raise TypeError(
                f"z0 must hold floating-point arrays, got {found}; convert integers with .astype(float)"
            )
    if not isinstance(batch_ndim, int) or batch_ndim < 0:
        raise ValueError(f"batch_ndim must be an integer >= 0, got {batch_ndim!r}")
    z0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), z0)
    batch_shape(z0, batch_ndim)
    return z0


def _check_form(f: Callable, z0: PyTree[Array], args: Any) -> None:
    """`f` must map the state to its own form: a mismatch would surface deep inside the loop."""
    given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), z0)
    found = eqx.filter_eval_shape(f, z0, args)
    if jax.tree.structure(given) != jax.tree.structure(found):
        raise ValueError(
            f"f must return the structure of z0, {jax.tree.structure(given)}, got {jax.tree.structure(found)}"
        )
    for want, got in zip(jax.tree.leaves(given), jax.tree.leaves(found), strict=True):
        if not isinstance(got, jax.ShapeDtypeStruct):
            raise TypeError(f"f must return arrays, got {got!r}; wrap it in jnp.asarray")
        if (want.shape, want.dtype) != (got.shape, got.dtype):
            raise ValueError(
                f"f must keep the form of z0: it maps {want.dtype}{list(want.shape)} to "
                f"{got.dtype}{list(got.shape)}; reshape or cast z0 or the result of f"
            )
