"""GG22's network under neural-tangents: the ways of writing its equilibrium that can be differentiated.

Runs in an environment of its own, where neither implicit_ntk nor a recent jax is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import neural_tangents as nt

TOLERANCE = 1e-6
MAX_STEPS = 200

Solve = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""From (A, gamma, phi) to the equilibrium z, differentiable in A."""


def kernel(arrays: dict, solver: str, implementation: str) -> Callable[[], jax.Array]:
    """Computes `H` of the network in `arrays`, jitted, with `A` as the only parameter."""
    name, _, steps = solver.partition(":")
    solve = SOLVERS[name](*map(int, steps.split()))
    # With NumPy constants captured STRUCTURED_DERIVATIVES cannot read their dtype.
    A, W, b, X, gamma = (jnp.asarray(arrays[name]) for name in ("A", "W", "b", "X", "gamma"))

    def network(A: jax.Array, X: jax.Array) -> jax.Array:
        return solve(A, gamma, jax.nn.relu(X @ W)) @ b[:, None] / jnp.sqrt(b.size)

    chosen = nt.NtkImplementation[implementation]
    empirical = nt.empirical_ntk_fn(network, trace_axes=(-1,), vmap_axes=0, implementation=chosen)
    run = jax.jit(lambda A, X: empirical(X, None, A))
    return lambda: run(A, X)


def cell(A: jax.Array, gamma: jax.Array, phi: jax.Array, z: jax.Array) -> jax.Array:
    return jax.nn.relu(gamma * (z @ A) + phi)


def unrolled(steps: int) -> Solve:
    """So many applications of the cell in a `scan`; the derivative is that of the truncation."""

    def solve(A: jax.Array, gamma: jax.Array, phi: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda z, _: (cell(A, gamma, phi, z), None), phi, None, steps)[0]

    return solve


def iterated(step: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Picard in a `while_loop`, until a step is `TOLERANCE` of the iterate."""

    def moves(state: tuple) -> jax.Array:
        z, new, count = state
        return (count < MAX_STEPS) & (jnp.linalg.norm(new - z) > TOLERANCE * jnp.linalg.norm(new))

    def advance(state: tuple) -> tuple:
        _, z, count = state
        return z, step(z), count + 1

    return jax.lax.while_loop(moves, advance, (start, step(start), 1))[1]


def reverse_rule() -> Solve:
    """The textbook `custom_vjp`: Picard forward, Picard for the adjoint."""

    @jax.custom_vjp
    def solve(A: jax.Array, gamma: jax.Array, phi: jax.Array) -> jax.Array:
        return iterated(lambda z: cell(A, gamma, phi, z), phi)

    def forward(A: jax.Array, gamma: jax.Array, phi: jax.Array) -> tuple:
        z = solve(A, gamma, phi)
        return z, (A, gamma, phi, z)

    def backward(saved: tuple, cotangent: jax.Array) -> tuple:
        A, gamma, phi, z = saved
        pull = jax.vjp(lambda z: cell(A, gamma, phi, z), z)[1]
        p = iterated(lambda p: pull(p)[0] + cotangent, cotangent)
        return jax.vjp(lambda A, gamma, phi: cell(A, gamma, phi, z), A, gamma, phi)[1](p)

    solve.defvjp(forward, backward)
    return solve


def both_modes_rule() -> Solve:
    """`custom_jvp` whose tangent is a `custom_linear_solve`, and so can be transposed."""

    @jax.custom_jvp
    def solve(A: jax.Array, gamma: jax.Array, phi: jax.Array) -> jax.Array:
        return iterated(lambda z: cell(A, gamma, phi, z), phi)

    @solve.defjvp
    def tangent(primals: tuple, tangents: tuple) -> tuple:
        z = solve(*primals)
        push = jax.linearize(lambda z: cell(*primals, z), z)[1]
        rhs = jax.jvp(lambda A, gamma, phi: cell(A, gamma, phi, z), primals, tangents)[1]

        def picard(matvec: Callable, rhs: jax.Array) -> jax.Array:
            return iterated(lambda dz: rhs + dz - matvec(dz), rhs)

        return z, jax.lax.custom_linear_solve(lambda dz: dz - push(dz), rhs, picard, picard)

    return solve


SOLVERS = {"scan": unrolled, "custom_vjp": reverse_rule, "custom_jvp": both_modes_rule}
