"""`H^-1 r` by preconditioned conjugate gradients."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from implicit_ntk.kernel.matrix_free._estimates import Solution
from implicit_ntk.kernel.matrix_free._preconditioner import Preconditioner
from implicit_ntk.kernel.matrix_free._products import KernelProducts

ROUNDS = 3
"""How often the iteration begins anew from the true residual, where the recursive one was too hopeful."""


class Iterate(NamedTuple):
    """Solution, recursive residual, direction, `r.P^-1 r`, steps."""

    x: Float[Array, " N"]
    r: Float[Array, " N"]
    p: Float[Array, " N"]
    square: Float[Array, ""]
    steps: Int[Array, ""]


@eqx.filter_jit
def conjugate_gradients(
    products: KernelProducts,
    preconditioner: Preconditioner,
    b: Float[Array, " N"],
    rtol: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> Solution:
    """Until the true residual is `rtol ||b||`, or it falls no more.

    Written here because lineax 0.1 takes a curvature below `100 n eps` for a breakdown, which in float32
    is every direction of some ten thousand samples, and compares residuals entry by entry.
    """
    with jax.default_matmul_precision("highest"):
        threshold = rtol * jnp.linalg.norm(b)

        def unfinished(state: tuple[Iterate, Array, Bool[Array, ""]]) -> Bool[Array, ""]:
            at, rounds, falling = state
            return (jnp.linalg.norm(at.r) > threshold) & (rounds < ROUNDS) & falling & (at.steps < max_steps)

        def one_round(
            state: tuple[Iterate, Array, Bool[Array, ""]],
        ) -> tuple[Iterate, Array, Bool[Array, ""]]:
            old, rounds, _ = state
            new = _iterated(products, preconditioner, old, threshold / 2, max_steps)
            new = _begun(preconditioner, new.x, b - products.apply(new.x), new.steps)
            at = _better(new, old)
            return at, rounds + 1, jnp.linalg.norm(at.r) < jnp.linalg.norm(old.r) / 2

        start = _begun(preconditioner, jnp.zeros_like(b), b, jnp.asarray(0))
        at, _, _ = lax.while_loop(unfinished, one_round, (start, jnp.asarray(0), jnp.asarray(True)))
        residual = jnp.linalg.norm(at.r)
        size = jnp.linalg.norm(b)
        return Solution(
            at.x.reshape(products.samples, *products.out_shape),
            jnp.where(size > 0, residual / jnp.where(size > 0, size, 1), 0),
            residual <= threshold,
            at.steps,
        )


def _begun(preconditioner: Preconditioner, x: Array, r: Array, steps: Array) -> Iterate:
    p = preconditioner.power(-1.0, r)
    return Iterate(x, r, p, r @ p, steps)


def _better(new: Iterate, old: Iterate) -> Iterate:
    """The new one, unless it is farther off or not finite, as where there is no solution."""
    better = jnp.linalg.norm(new.r) < jnp.linalg.norm(old.r)
    at = jax.tree.map(lambda new, old: jnp.where(better, new, old), new, old)
    return at._replace(steps=new.steps)


def _iterated(
    products: KernelProducts, preconditioner: Preconditioner, at: Iterate, threshold: Array, max_steps: Array
) -> Iterate:
    def unfinished(at: Iterate) -> Bool[Array, ""]:
        return (jnp.linalg.norm(at.r) > threshold) & (at.steps < max_steps) & (at.square > 0)

    def step(at: Iterate) -> Iterate:
        image = products.apply(at.p)
        length = at.square / (at.p @ image)
        r = at.r - length * image
        z = preconditioner.power(-1.0, r)
        square = r @ z
        return Iterate(at.x + length * at.p, r, z + square / at.square * at.p, square, at.steps + 1)

    return lax.while_loop(unfinished, step, at)
