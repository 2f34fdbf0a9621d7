"""How far is the kernel from the products that it cannot do without?

The time of `ink.ntk(net, X)` over that of (forward + adjoint evaluations) bare products (n,m)x(m,m) in
the same run, and the peak memory that the compiler plans over that of `A`, in arrays of (n, m).

    python benchmarks/kernel_vs_gemm.py [--sizes 500,1000 1000,2000 1000,4000] [--repeats 15]

On a GPU, also with products of low precision, refined to float32 by `ink.MixedPicard`, and with the
rate that the kernel achieves over that of the bare products:

    python benchmarks/kernel_vs_gemm.py --sizes 1000,32768 10000,8192 --spot --precision highest
    python benchmarks/kernel_vs_gemm.py --sizes 1000,32768 10000,8192 --spot --precision tensorfloat32
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from _timing import describe, device, interleaved
from jaxtyping import Float

import implicit_ntk as ink

IN_SIZE = 64
PRECISIONS = ("highest", "tensorfloat32")
SPOT_ROWS = 4


def problem(n: int, m: int) -> tuple[ink.ReluImplicit, jax.Array]:
    """GG22's network at gamma0 = 0.4 and unit inputs."""
    net = ink.ReluImplicit.init(jax.random.key(0), IN_SIZE, m, gamma0=0.4)
    X = jax.random.normal(jax.random.key(1), (n, IN_SIZE))
    return net, X / jnp.linalg.norm(X, axis=1, keepdims=True)


def evaluations(net: ink.ReluImplicit, X: jax.Array, method: ink.Method | None = None) -> tuple[int, int]:
    """How many products the two solves of the kernel take."""
    at = ink.jacobian(net, X, method).linearization
    return int(at.equilibrium.steps.max()), int(at.adjoint.steps.max())


def products(precision: str) -> Callable[..., jax.Array]:
    """As many products as the solves take, `Z A` and `Z A^T`, and nothing else."""

    @jax.jit
    def run(Z: jax.Array, A: jax.Array, forward: jax.Array, adjoint: jax.Array) -> jax.Array:
        Z = jax.lax.fori_loop(0, forward, lambda _, Z: jnp.matmul(Z, A, precision=precision), Z)
        return jax.lax.fori_loop(0, adjoint, lambda _, Z: jnp.matmul(Z, A.T, precision=precision), Z)

    return run


def method_of(precision: str) -> ink.Method:
    """Picard in full precision; or by increments of low precision, to the same residual in float32."""
    return ink.Method() if precision == "highest" else ink.Method.of(ink.MixedPicard())


def peak_arrays(net: ink.ReluImplicit, X: jax.Array, method: ink.Method) -> float:
    """Peak memory of the compiled kernel beyond `A` and its other arguments, in arrays of (n, m)."""
    compiled = jax.jit(lambda net, X: ink.ntk(net, X, method=method)).lower(net, X).compile()
    memory = compiled.memory_analysis()
    spent = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return spent / (X.shape[0] * net.width * X.dtype.itemsize)


def compare(n: int, m: int, repeats: int, precision: str) -> None:
    """The answer at one size."""
    net, X = problem(n, m)
    method, bare_products = method_of(precision), products(precision)
    forward, adjoint = evaluations(net, X, method)
    Z, A = jnp.ones((n, m)), net.A / (3 * m**0.5)
    runs = [lambda: ink.ntk(net, X, method=method), lambda: bare_products(Z, A, forward, adjoint)]
    kernel, bare = interleaved(runs, repeats).T
    solves, gram = 2 * n * m * m * (forward + adjoint), 4 * n * n * m
    reached, possible = (solves + gram) / kernel.min() / 1e12, solves / bare.min() / 1e12
    print(
        f"n = {n}, m = {m}, {precision}: "
        f"kernel / {forward} + {adjoint} products = {describe(kernel / bare)}; "
        f"best {kernel.min() * 1e3:.1f} ms against {bare.min() * 1e3:.1f} ms; {reached:.3g} TFLOP/s of the "
        f"{possible:.3g} that products reach ({reached / possible:.2f}); "
        f"peak beyond A: {peak_arrays(net, X, method):.1f} arrays of n x m"
    )


def spot_check(n: int, m: int, precision: str) -> None:
    """A few rows against the same network in float64, by the same solver."""
    net, X = problem(n, m)
    H = np.asarray(ink.ntk(net, X, method=method_of(precision))[:SPOT_ROWS, :SPOT_ROWS], np.float64)
    exact = in_float64(net, X[:SPOT_ROWS])
    error = np.linalg.norm(H - exact) / np.linalg.norm(exact)
    print(f"n = {n}, m = {m}, {precision}: {SPOT_ROWS} rows are off by {error:.1e} of the kernel in float64")


def in_float64(net: ink.ReluImplicit, X: jax.Array) -> Float[np.ndarray, "n n"]:
    """The kernel of the same numbers in float64."""
    with jax.enable_x64(True):
        net, X = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (net, X))
        return np.asarray(ink.ntk(net, X))


def main() -> None:
    """Print one answer a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = ["500,1000", "1000,2000", "1000,4000"]
    parser.add_argument("--sizes", nargs="+", default=sizes, help="n,m ...")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--precision", choices=PRECISIONS, default="highest", help="of the products")
    parser.add_argument("--spot", action="store_true", help="also the error of a few rows in float64")
    options = parser.parse_args()
    print(f"kernel_vs_gemm on {device()}")
    for size in options.sizes:
        n, m = map(int, size.split(","))
        compare(n, m, options.repeats, options.precision)
        if options.spot:
            spot_check(n, m, options.precision)


if __name__ == "__main__":
    main()
