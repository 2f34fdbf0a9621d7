"""What does the public interface cost over thirty lines written by hand?

One forward and backward pass of `0.5 ||f(X) - y||^2` with respect to `A`, through `net(X)` and `jax.grad`,
over a plain jitted Picard iteration with its adjoint written out: with the same per-sample stopping
rule, and with one that stops on the whole batch. Then the cost of a step along an Euler trajectory over
that of a cold step at the same point.

    python benchmarks/step_vs_plain.py [--n 500] [--m 1000] [--repeats 25]
"""

import argparse
import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from _timing import describe, device, interleaved
from kernel_vs_gemm import problem

import implicit_ntk as ink
from implicit_ntk.dynamics import pose, segment, start

RTOL = 1e-6


def per_sample(residual: jax.Array, scale: jax.Array) -> jax.Array:
    """Which rows are still moving."""
    return jnp.sum(residual**2, 1) > RTOL**2 * jnp.sum(scale**2, 1)


def whole_batch(residual: jax.Array, scale: jax.Array) -> jax.Array:
    """Whether anything is: one test for all rows."""
    return jnp.full(residual.shape[0], jnp.sum(residual**2) > RTOL**2 * jnp.sum(scale**2))


def plain(moving: Callable) -> Callable:
    """Loss and gradient by a hand-written Picard iteration and adjoint; rows that are done are frozen."""

    def picard(step: Callable, z: jax.Array, scale: jax.Array | None) -> jax.Array:
        def body(carry: tuple) -> tuple:
            z, active, k = carry
            new = step(z)
            active = active & moving(new - z, new if scale is None else scale)
            return jnp.where(active[:, None], new, z), active, k + 1

        def running(carry: tuple) -> jax.Array:
            return jnp.any(carry[1]) & (carry[2] < 1000)

        return jax.lax.while_loop(running, body, (z, jnp.ones(z.shape[0], bool), 0))[0]

    def loss_and_gradient(net: ink.ReluImplicit, X: jax.Array, y: jax.Array) -> tuple:
        with jax.default_matmul_precision("highest"):
            phi, read = jax.nn.relu(X @ net.W), net.b / jnp.sqrt(net.width)
            Z = picard(lambda Z: jax.nn.relu(net.gamma * Z @ net.A + phi), phi, None)
            r = Z @ read - y
            slopes, rhs = net.gamma * (Z > 0), r[:, None] * read[None, :]
            P = picard(lambda P: rhs + (slopes * P) @ net.A.T, rhs, rhs)
            return jnp.sum(r**2) / 2, Z.T @ (slopes * P)

    return jax.jit(loss_and_gradient)


@jax.jit
def public(net: ink.ReluImplicit, X: jax.Array, y: jax.Array) -> tuple:
    """The same through the public interface."""

    def loss(A: jax.Array) -> jax.Array:
        return jnp.sum((dataclasses.replace(net, A=A)(X) - y) ** 2) / 2

    return jax.value_and_grad(loss)(net.A)


def compare_step(n: int, m: int, repeats: int) -> None:
    """Public over plain, interleaved."""
    net, X = problem(n, m)
    y = jnp.sign(jax.random.normal(jax.random.key(2), (n,)))
    by_sample, by_batch = plain(per_sample), plain(whole_batch)
    (_, ours), (_, theirs) = public(net, X, y), by_sample(net, X, y)
    difference = float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))
    runs = [lambda: public(net, X, y), lambda: by_sample(net, X, y), lambda: by_batch(net, X, y)]
    a, b, c = interleaved(runs, repeats).T
    print(f"n = {n}, m = {m}, forward + backward; gradients differ by {difference:.0e}")
    print(f"  public / plain, per-sample stop:  {describe(a / b)}")
    print(f"  public / plain, whole-batch stop: {describe(a / c)}")


def compare_trajectory(n: int, m: int, repeats: int, dt: float = 0.05, steps: int = 40) -> None:
    """Warm steps along Euler over cold ones: time a step, and products a step."""
    net, X = problem(n, m)
    y = jnp.sign(jax.random.normal(jax.random.key(2), (n,)))
    posed, middle, end = pose(net, X, y), jnp.asarray(10 * dt), jnp.asarray((10 + steps) * dt)
    runs, products = [], []
    for share in (ink.Euler(dt).solver_share, 0.0):
        integrator = ink.Euler(dt, solver_share=share)
        state, _ = segment(posed, integrator, start(posed, integrator), middle)
        begun = state.integrator
        runs.append(eqx.Partial(advance, posed, integrator, begun, end))
        ended = runs[-1]()
        assert int(ended.steps - begun.steps) == steps
        spent = ended.forward_evaluations + ended.adjoint_evaluations
        products.append(int(spent - begun.forward_evaluations - begun.adjoint_evaluations) / steps)
    at = ink.jacobian(net, X).linearization
    cold_products = int(at.equilibrium.steps.max() + at.adjoint.steps.max())
    runs.append(eqx.Partial(cold_step, posed, posed.initial_leaves))
    times = interleaved(runs, max(3, repeats // 4))
    tied, fixed, cold = times[:, 0] / steps, times[:, 1] / steps, times[:, 2]
    print(f"Euler, dt = {dt:g}, {steps} steps; cold: {cold_products} evaluations a step")
    print(f"  tied tolerance / cold at 1e-6:  {describe(tied / cold)}; {products[0]:.1f} evaluations a step")
    print(f"  fixed tolerance / cold at 1e-6: {describe(fixed / cold)}; {products[1]:.1f} evaluations a step")


@eqx.filter_jit
def advance(posed: object, integrator: ink.Euler, state: object, until: jax.Array) -> object:
    """Euler steps and nothing else."""
    with posed.method.products():
        return integrator.advance(posed, state, until)


@eqx.filter_jit
def cold_step(posed: object, leaves: dict) -> dict:
    """One Euler step whose solves start from nothing, at the default tolerance."""
    with posed.method.products():
        nothing = jnp.zeros(())
        z0 = posed.net.initial_state(posed.train.phi)
        states = posed.solve(leaves, z0, None, nothing, nothing)
        gradient = posed.gradient(leaves, states)
        return jax.tree.map(lambda leaf, g: leaf - 0.05 * g, leaves, gradient)


def main() -> None:
    """Print the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--m", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    print(f"step_vs_plain on {device()}")
    compare_step(options.n, options.m, options.repeats)
    compare_trajectory(options.n, options.m, options.repeats)


if __name__ == "__main__":
    main()
