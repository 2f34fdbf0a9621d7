"""What does a kernel cost on several devices, and what do they send each other?

The time of `ink.ntk(net, X)` on meshes over that on one device, in one run; the bytes that a device
receives in an iteration of the forward and of the adjoint solve, counted from the collectives of the
compiled program, against (n/samples) m (columns-1)/columns numbers; the same for what is sent once, for
the Gram; and the memory of a device over that of one that holds everything.

    python benchmarks/devices.py [--sizes 512,2048 2048,512] [--meshes 8x1 4x2 2x4 1x8] [--devices 8]

Where there are no others, the processor counts as `--devices` devices. They share its cores: their times
say nothing of speed.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import jax
import numpy as np
from _collectives import traffic
from _timing import device, interleaved
from kernel_vs_gemm import problem

import implicit_ntk as ink

COLUMNS = (
    "n, m",
    "mesh",
    "time / one device",
    "forward, KiB an iteration (model)",
    "adjoint (model)",
    "once (model)",
    "memory / one device",
)


def compiled(entry: Callable[..., jax.Array], net: ink.AbstractNetwork, X: jax.Array) -> jax.stages.Compiled:
    """The program of an entry on arrays where they are."""
    method = ink.Method(on_failure="nan")
    return jax.jit(lambda net, X: entry(net, X, method=method)).lower(net, X).compile()


def bytes_received(net: ink.AbstractNetwork, X: jax.Array, kernel: jax.stages.Compiled) -> list[float]:
    """By a device: in a forward iteration, in an adjoint one, and once."""
    forward = traffic(compiled(lambda net, X, method: ink.solve(net, X, method).z, net, X).as_text())
    both = traffic(kernel.as_text())
    return [forward.a_turn, both.a_turn - forward.a_turn, both.once]


def model(n: int, m: int, samples: int, columns: int, itemsize: int) -> list[float]:
    """An iteration brings a device the rest of its rows; the Gram its columns of all rows, of both factors.

    The partial Grams are then summed over the columns, and two more products are taken outside of the loops.
    """
    rows = n / samples * m * (columns - 1) / columns
    factors = 2 * n * m / columns * (samples - 1) / samples
    grams = 2 * 2 * n * n / samples * (columns - 1) / columns
    return [rows * itemsize, rows * itemsize, (factors + grams + 2 * rows) * itemsize]


def memory(kernel: jax.stages.Compiled) -> int:
    """Bytes that one device needs: its arguments, its temporaries, its result."""
    found = kernel.memory_analysis()
    return found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes


def compare(n: int, m: int, meshes: list[str], repeats: int) -> Iterator[str]:
    """A row of the table for each mesh."""
    net, X = problem(n, m)
    alone = compiled(ink.ntk, net, X)
    for shape in meshes:
        samples, columns = map(int, shape.split("x"))
        mesh = ink.device_mesh(samples, columns, jax.devices()[: samples * columns])
        parts, rows = ink.spread_network(net, mesh), ink.spread_rows(X, mesh)
        kernel = compiled(ink.ntk, parts, rows)
        difference = np.abs(np.asarray(kernel(parts, rows)) - alone(net, X)).max()
        assert difference < 1e-5, f"the kernels differ by {difference}"
        runs = [partial(alone, net, X), partial(kernel, parts, rows)]
        times = interleaved(runs, repeats)
        counted, said = bytes_received(parts, rows, kernel), model(n, m, samples, columns, X.dtype.itemsize)
        sent = [f"{a / 1024:.0f} ({b / 1024:.0f})" for a, b in zip(counted, said, strict=True)]
        ratio, share = np.median(times[:, 1] / times[:, 0]), memory(kernel) / memory(alone)
        yield " | ".join([f"| {n}, {m}", shape, f"{ratio:.2f}", *sent, f"{share:.3f} |"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["512,2048", "2048,512"], help="n,m ...")
    parser.add_argument(
        "--meshes", nargs="+", default=["8x1", "4x2", "2x4", "1x8"], help="SAMPLESxCOLUMNS ..."
    )
    parser.add_argument("--devices", type=int, default=8, help="how many the processor counts as")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    print(f"devices on {device()}")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for size in options.sizes:
        for row in compare(*map(int, size.split(",")), options.meshes, options.repeats):
            print(row, flush=True)


if __name__ == "__main__":
    main()
