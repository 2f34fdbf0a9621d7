"""How far is the kernel from the products that it cannot do without?

The time of `ink.ntk(net, X)` over that of (forward + adjoint evaluations) bare products (n,m)x(m,m) in
the same run, and the peak memory that the compiler plans over that of `A`, in arrays of (n, m).

    python benchmarks/kernel_vs_gemm.py [--sizes 500,1000 1000,2000] [--repeats 15]
"""

import argparse

import jax
import jax.numpy as jnp
from _timing import describe, device, interleaved

import implicit_ntk as ink

IN_SIZE = 64


def problem(n: int, m: int) -> tuple[ink.ReluImplicit, jax.Array]:
    """GG22's network at gamma0 = 0.4 and unit inputs."""
    net = ink.ReluImplicit.init(jax.random.key(0), IN_SIZE, m, gamma0=0.4)
    X = jax.random.normal(jax.random.key(1), (n, IN_SIZE))
    return net, X / jnp.linalg.norm(X, axis=1, keepdims=True)


def evaluations(net: ink.ReluImplicit, X: jax.Array) -> tuple[int, int]:
    """How many products the two solves of the kernel take."""
    at = ink.jacobian(net, X).linearization
    return int(at.equilibrium.steps.max()), int(at.adjoint.steps.max())


@jax.jit
def products(Z: jax.Array, A: jax.Array, forward: jax.Array, adjoint: jax.Array) -> jax.Array:
    """As many products as the solves take, `Z A` and `Z A^T`, and nothing else."""
    Z = jax.lax.fori_loop(0, forward, lambda _, Z: jnp.matmul(Z, A, precision="highest"), Z)
    return jax.lax.fori_loop(0, adjoint, lambda _, Z: jnp.matmul(Z, A.T, precision="highest"), Z)


def peak_arrays(net: ink.ReluImplicit, X: jax.Array) -> float:
    """Peak memory of the compiled kernel beyond `A` and its other arguments, in arrays of (n, m)."""
    compiled = jax.jit(lambda net, X: ink.ntk(net, X)).lower(net, X).compile()
    memory = compiled.memory_analysis()
    spent = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return spent / (X.shape[0] * net.width * X.dtype.itemsize)


def compare(n: int, m: int, repeats: int) -> None:
    """The answer at one size."""
    net, X = problem(n, m)
    forward, adjoint = evaluations(net, X)
    Z, A = jnp.ones((n, m)), net.A / (3 * m**0.5)
    runs = [lambda: ink.ntk(net, X), lambda: products(Z, A, forward, adjoint)]
    kernel, bare = interleaved(runs, repeats).T
    flops = 2 * n * m * m * (forward + adjoint)
    print(
        f"n = {n}, m = {m}: kernel / {forward} + {adjoint} products = {describe(kernel / bare)}; best "
        f"{kernel.min() * 1e3:.1f} ms against {bare.min() * 1e3:.1f} ms "
        f"({flops / bare.min() / 1e9:.0f} GFLOP/s); "
        f"peak beyond A: {peak_arrays(net, X):.1f} arrays of n x m"
    )


def main() -> None:
    """Print one answer a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["500,1000", "1000,2000"], help="n,m ...")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    print(f"kernel_vs_gemm on {device()}")
    for size in options.sizes:
        n, m = map(int, size.split(","))
        compare(n, m, options.repeats)


if __name__ == "__main__":
    main()
