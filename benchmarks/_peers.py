"""jaxopt and optimistix on the same fixed point, each differentiated its own way.

They are no dependency: `make bench-peers` installs them in an environment of its own.
"""

import importlib.util
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

Solve = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""From (A, gamma, phi) to the equilibria Z, differentiable in A."""

MAX_STEPS = 2000


def cell(Z: jax.Array, A: jax.Array, gamma: jax.Array, phi: jax.Array) -> jax.Array:
    """One application of GG22's layer to the whole batch."""
    return jax.nn.relu(gamma * (Z @ A) + phi)


def jaxopt_picard(linear: str, tol: float, adjoint_tol: float) -> Solve:
    """`FixedPointIteration`, stopped on the norm of the batch's step; `linear` solves for the adjoint."""
    import jaxopt

    solver = jaxopt.FixedPointIteration(
        cell, maxiter=MAX_STEPS, tol=tol, implicit_diff=True, implicit_diff_solve=_linear(linear, adjoint_tol)
    )
    return lambda A, gamma, phi: solver.run(phi, A, gamma, phi).params


def jaxopt_anderson(linear: str, tol: float, adjoint_tol: float) -> Solve:
    """`AndersonAcceleration` with five terms of history."""
    import jaxopt

    solver = jaxopt.AndersonAcceleration(
        cell,
        history_size=5,
        maxiter=MAX_STEPS,
        tol=tol,
        implicit_diff=True,
        implicit_diff_solve=_linear(linear, adjoint_tol),
    )
    return lambda A, gamma, phi: solver.run(phi, A, gamma, phi).params


def optimistix_picard(tol: float, adjoint_tol: float) -> Solve:
    """`FixedPointIteration` mapped over the rows, GMRES for the adjoint (dense LU is its default)."""
    import lineax as lx
    import optimistix as optx

    solver = optx.FixedPointIteration(rtol=tol, atol=0.0)
    adjoint = optx.ImplicitAdjoint(linear_solver=lx.GMRES(rtol=adjoint_tol, atol=0.0))

    def row(phi: jax.Array, A: jax.Array, gamma: jax.Array) -> jax.Array:
        found = optx.fixed_point(
            lambda z, args: cell(z, *args), solver, phi, (A, gamma, phi), adjoint=adjoint, max_steps=MAX_STEPS
        )
        return found.value

    return lambda A, gamma, phi: jax.vmap(row, in_axes=(0, None, None))(phi, A, gamma)


def available() -> dict[str, tuple[Callable[[float, float], Solve], bool]]:
    """By name: from (tolerance, adjoint tolerance) to a solve; is its tolerance that of the whole batch?"""
    peers: dict[str, tuple[Callable[[float, float], Solve], bool]] = {}
    if importlib.util.find_spec("jaxopt"):
        peers["jaxopt Picard, BiCGSTAB"] = partial(jaxopt_picard, "bicgstab"), True
        peers["jaxopt Picard, normal CG (its default)"] = partial(jaxopt_picard, "normal_cg"), True
        peers["jaxopt Anderson, BiCGSTAB"] = partial(jaxopt_anderson, "bicgstab"), True
    if importlib.util.find_spec("optimistix"):
        peers["optimistix Picard, GMRES, rows mapped"] = optimistix_picard, False
    return peers


def _linear(name: str, tol: float) -> Callable:
    from jaxopt import linear_solve

    return partial(getattr(linear_solve, f"solve_{name}"), tol=tol, maxiter=MAX_STEPS)


def loss_and_gradient(solve: Solve) -> Callable:
    """`0.5 ||Z b/sqrt(m) - y||^2` and its gradient in A, jitted; and the equilibria."""

    def loss(A: jax.Array, gamma: jax.Array, phi: jax.Array, b: jax.Array, y: jax.Array) -> tuple:
        Z = solve(A, gamma, phi)
        return jnp.sum((Z @ b / jnp.sqrt(b.size) - y) ** 2) / 2, Z

    return jax.jit(jax.value_and_grad(loss, has_aux=True))
