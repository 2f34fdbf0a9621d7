"""The table of docs/how-to-choose.md: steps and time of each solver, by cell, width and certificate."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from _beyond import solve_both
from _timing import interleaved
from kernel_vs_gemm import problem as network_and_inputs

import implicit_ntk as ink
from implicit_ntk.data import two_class

SCALES = (0.4, 0.9, 1.2)
COLUMNS = {
    "Picard": ink.Picard(max_steps=600),
    "MixedPicard": ink.MixedPicard(max_steps=600),
    "Chord": ink.Chord(max_steps=600),
    "Chord, low precision": ink.Chord(max_steps=600, low_precision=True),
    "Anderson": ink.Anderson(max_steps=600),
    "PeacemanRachford": ink.PeacemanRachford(max_steps=600),
}


def cells(n: int, widths: list[int]) -> Iterator[tuple[str, ink.AbstractNetwork, jax.Array]]:
    """The rows: what it is and how it is certified, the network, the inputs."""
    for m in widths:
        net, X = network_and_inputs(n, m)
        for gamma0 in SCALES:
            scaled = dataclasses.replace(net, gamma=jnp.asarray(gamma0 / m**0.5, X.dtype))
            bound = float(scaled.contraction())
            yield f"ReluImplicit, m = {m}, gamma0 = {gamma0:g} (bound {bound:.2f})", scaled, X
    for scale in (3**-0.5, 0.4 * 3**-0.5):
        m = widths[-1]
        net = ink.MonotoneImplicit.init(jax.random.key(0), X.shape[1], m, scale=scale)
        yield f"MonotoneImplicit, m = {m}, norm of W {float(net.contraction()):.2f}", net, X
    images = two_class("mnist", (0, 1), n_train=16, n_test=1).X
    net = ink.ConvImplicit.init(jax.random.key(0), (28, 28, 1), channels=16, inner_channels=32, stride=2)
    yield "ConvImplicit, 16 maps of 14 x 14, 16 digits (no bound)", net, images


def print_table(n: int, widths: list[int], repeats: int) -> None:
    """In Markdown: forward + adjoint steps, and the time of both solves over that of Picard."""
    print(f"n = {n}; steps forward + adjoint, and time over that of the first solver that converges")
    print(f"| cell | {' | '.join(COLUMNS)} |")
    print(f"|---|{'---|' * len(COLUMNS)}")
    for name, net, X in cells(n, widths):
        print(f"| {name} | {' | '.join(row(net, X, repeats))} |", flush=True)


def row(net: ink.AbstractNetwork, X: jax.Array, repeats: int) -> list[str]:
    """One text a solver; a dash where the cell has not its form."""
    answers, runs = {}, {}
    for name, solver in COLUMNS.items():
        method = ink.Method.of(solver, on_failure="report")
        try:
            forward, adjoint, status = solve_both(net, X, method)
        except ValueError:
            answers[name] = "-"
            continue
        if int(jnp.max(status)) > ink.Status.STALLED:
            answers[name] = f"fails ({ink.Status(int(jnp.max(status))).name})"
            continue
        answers[name] = f"{int(forward.max())} + {int(adjoint.max())}"
        runs[name] = lambda method=method: solve_both(net, X, method)
    times = interleaved(list(runs.values()), repeats)
    for i, name in enumerate(runs):
        answers[name] += f", {np.median(times[:, i] / times[:, 0]):.2f}"
    return [answers[name] for name in COLUMNS]
