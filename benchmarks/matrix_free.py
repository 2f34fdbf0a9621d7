"""What is the smallest eigenvalue of a kernel that is never formed, and what does that cost?

The bottom and the top of the spectrum, trace and log-determinant of the kernel of many images from
products `J (J^T v)`, with their errors, the time, and the peak memory over that of the kernel alone. Then
the same at a size where the dense eigenvalues can be had, with the true errors beside the stated ones.

    python benchmarks/matrix_free.py [--n 20000] [--width 500] [--precision float64] [--check 2000]

MNIST and, where more are asked for, Fashion-MNIST from the folder that IMPLICIT_NTK_DATA names; without it,
random points on a sphere.
"""

import argparse
import itertools
import os
import resource
import time
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from _timing import device, seconds
from jaxtyping import Float

import implicit_ntk as ink
from implicit_ntk.data import load, sphere, unit_norm
from implicit_ntk.kernel import Eigenpairs, Estimate, KernelOperator

DIMENSION = 64


class Answers(NamedTuple):
    """What the operator says."""

    smallest: Eigenpairs
    largest: Eigenpairs
    trace: jax.Array
    logdet: Estimate


def samples(n: int) -> tuple[Float[np.ndarray, "n d"], str]:
    """Rows of unit length, and what they are."""
    if not os.environ.get("IMPLICIT_NTK_DATA"):
        return sphere(jax.random.key(2), n, DIMENSION, dtype=np.float64)[0], "points on a sphere"
    rows, names = np.empty((0, 28 * 28)), []
    for name, split in itertools.product(("mnist", "fashion-mnist"), ("train", "test")):
        if len(rows) < n:
            images = load(name, split).images[: n - len(rows)]
            rows = np.concatenate([rows, images.reshape(-1, 28 * 28)])
            names.append(f"{name} ({split}: {len(images)})")
    return unit_norm(rows), "images of " + ", ".join(names)


def network(in_size: int, width: int) -> ink.ReluImplicit:
    """GG22's network at gamma0 = 0.4."""
    return ink.ReluImplicit.init(jax.random.key(0), in_size, width)


def answers(op: KernelOperator) -> Answers:
    """One preconditioner for all that wants one."""
    trace, preconditioner = op.trace(), op.preconditioner()
    print(
        f"  preconditioner of rank {preconditioner.rank}, shift {float(preconditioner.shift):.2e}", flush=True
    )
    smallest = op.smallest(preconditioner=preconditioner)
    print(f"  lambda_min  {described(smallest)}", flush=True)
    largest = op.largest()
    print(f"  lambda_max  {described(largest)}", flush=True)
    logdet = op.logdet(preconditioner, probes=8, steps=24)
    errors = f"{float(logdet.stderr):.1e} (probes), {float(logdet.quadrature_error):.1e} (quadrature)"
    print(f"  trace       {float(trace):.10g}, exact")
    print(f"  log det     {float(logdet.value):.8g} +- {errors}, {int(logdet.products)} products", flush=True)
    return Answers(smallest, largest, trace, logdet)


def described(pairs: Eigenpairs) -> str:
    """An eigenvalue, its error, the verdict and the price."""
    value, error = float(pairs.values[0]), float(pairs.errors[0])
    verdict = "resolved" if pairs.resolved[0] else "not resolved"
    return f"{value:.8e} +- {error:.1e}, {verdict}, {int(pairs.products)} products with H"


def at_scale(n: int, width: int, dtype: np.dtype) -> None:
    """The answers at full size, and what they took."""
    X, what = samples(n)
    began, before = time.perf_counter(), peak_bytes()
    op = ink.kernel_operator(cast(network(X.shape[1], width), dtype), X.astype(dtype))
    jax.block_until_ready(op)
    print(f"n = {len(X)} {what}, m = {width}, {dtype}: solved in {time.perf_counter() - began:.0f} s")
    found = answers(op)
    spent = time.perf_counter() - began
    product = seconds(lambda: op.mv(found.smallest.vectors[0]))
    share = (peak_bytes() - before) / (len(X) ** 2 * dtype.itemsize)
    print(
        f"  {spent:.0f} s in all, compilation included; a product takes {product:.2f} s; "
        f"peak memory over that of H alone: {share:.2f}"
    )


def against_dense(n: int, width: int, dtype: np.dtype) -> None:
    """The same where the kernel's eigenvalues can be had, in float64."""
    X, what = samples(n)
    net = network(X.shape[1], width)
    print(f"n = {len(X)} {what}, m = {width}, {dtype}, beside eigvalsh of the kernel in float64")
    began = time.perf_counter()
    found = answers(ink.kernel_operator(cast(net, dtype), X.astype(dtype)))
    spent = time.perf_counter() - began
    began = time.perf_counter()
    eigenvalues = np.linalg.eigvalsh(np.asarray(ink.ntk(net, X)))
    dense = time.perf_counter() - began
    truth = {
        "lambda_min": (found.smallest.values[0], eigenvalues[0]),
        "lambda_max": (found.largest.values[0], eigenvalues[-1]),
        "trace": (found.trace, eigenvalues.sum()),
    }
    for name, (value, true) in truth.items():
        print(f"  {name}: relative error {abs(float(value) / true - 1):.1e}")
    logdet = np.log(eigenvalues).sum()
    print(f"  log det: {float(found.logdet.value):.8g} for {logdet:.8g}")
    print(f"  {spent:.0f} s, compilation included, against {dense:.0f} s")


def cast(net: ink.ReluImplicit, dtype: np.dtype) -> ink.ReluImplicit:
    """The same weights, rounded."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, net)


def peak_bytes() -> int:
    """The most memory held so far: of the device where it tells, else of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--precision", choices=("float64", "float32"), default="float64")
    parser.add_argument("--check", type=int, default=2000, help="samples of the comparison with dense")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"matrix_free on {device()}")
    dtype = np.dtype(options.precision)
    # First, for a process's peak memory never falls: the comparison does form its kernel.
    at_scale(options.n, options.width, dtype)
    against_dense(min(options.check, options.n), options.width, dtype)


if __name__ == "__main__":
    main()
