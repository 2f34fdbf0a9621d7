"""How does the cost of the kernel grow? As a n m^2 an evaluation, and b n^2 m on top.

Times `ink.ntk` over two decades in the width m, at fixed n, and two in the samples n, at fixed m. Fits a
power law to the upper decade of each sweep, where overheads are over, and to the points of both

    seconds = a evaluations n m^2 + b n^2 m.

    python benchmarks/kernel_cost.py [--widths 40 ... 4000] [--samples 80 ... 8000] [--n 400] [--m 400]
        [--repeats 5] [--figure docs/figures/kernel_cost.png]
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from _timing import device, interleaved
from jaxtyping import Float
from kernel_vs_gemm import evaluations, problem
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import implicit_ntk as ink
from implicit_ntk.plotting import style
from implicit_ntk.plotting._style import panel_letter

WIDTHS = [40, 80, 160, 320, 400, 640, 1280, 2560, 4000]
SAMPLES = [80, 160, 320, 640, 800, 1280, 2560, 5120, 8000]
DECADE = 10.001

Vector = Float[np.ndarray, " points"]


class Sweep(NamedTuple):
    """Kernels by one of their sizes: `best` seconds of the repeats, evaluations of the two solves."""

    n: Vector
    m: Vector
    evaluations: Vector
    best: Vector

    def above(self, x: Vector) -> "Sweep":
        """Its upper decade in x."""
        return Sweep(*(column[x >= x.max() / DECADE] for column in self))


class Fit(NamedTuple):
    """Least squares: coefficients and their standard errors."""

    found: Float[np.ndarray, " k"]
    errors: Float[np.ndarray, " k"]


def sweep(sizes: list[tuple[int, int]], repeats: int) -> Sweep:
    """All sizes in turn, so that a slow minute of the machine is nobody's alone."""
    problems = [problem(n, m) for n, m in sizes]
    counts = [sum(evaluations(net, X)) for net, X in problems]
    best = interleaved([lambda net=net, X=X: ink.ntk(net, X) for net, X in problems], repeats).min(axis=0)
    n, m = np.array(sizes, float).T
    return Sweep(n, m, np.array(counts, float), best)


def least_squares(table: Float[np.ndarray, "points k"], values: Vector) -> Fit:
    """With errors from what is left, as if that were noise."""
    found = np.linalg.lstsq(table, values, rcond=None)[0]
    left = values - table @ found
    variance = left @ left / (len(values) - table.shape[1])
    return Fit(found, np.sqrt(variance * np.diag(np.linalg.inv(table.T @ table))))


def power_law(x: Vector, y: Vector) -> Fit:
    """`y = exp(c) x^p` as (p, c)."""
    return least_squares(np.stack([np.log(x), np.ones(len(x))], axis=1), np.log(y))


def model(points: Sweep) -> Fit:
    """Seconds a multiplication, `(a, b)`, by relative errors."""
    return least_squares(_terms(points) / points.best[:, None], np.ones(len(points.best)))


def _terms(points: Sweep) -> Float[np.ndarray, "points 2"]:
    return np.stack([points.evaluations * points.n * points.m**2, points.n**2 * points.m], axis=1)


def draw(in_m: Sweep, in_n: Sweep, laws: tuple[Fit, Fit], cost: Fit) -> Figure:
    """Points, the power laws of their upper decades, and the model."""
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(6.3, 2.8), layout="constrained")
        panels = (
            (axes[0], "a", in_m, in_m.m, in_m.evaluations, laws[0], "width $m$", "seconds an evaluation"),
            (axes[1], "b", in_n, in_n.n, np.ones_like(in_n.n), laws[1], "samples $n$", "seconds"),
        )
        for ax, letter, points, x, unit, law, xlabel, ylabel in panels:
            fixed = f"$n = {points.n[0]:.0f}$" if letter == "a" else f"$m = {points.m[0]:.0f}$"
            panel_letter(ax, letter, fixed)
            _panel(ax, x, points.best / unit, _terms(points) @ cost.found / unit, law)
            ax.set(xlabel=xlabel, ylabel=ylabel)
        return figure


def _panel(ax: Axes, x: Vector, y: Vector, predicted: Vector, law: Fit) -> None:
    upper = np.array([x.max() / DECADE, x.max()])
    (p, c), (error, _) = law
    ax.plot(x, predicted, color="0.6", label="model, $e$ evaluations:\n$a\\,e\\,n m^2 + b\\,n^2 m$")
    ax.plot(
        upper,
        np.exp(c) * upper**p,
        color="#35b779",
        linestyle=(0, (5, 1.5)),
        label=f"exponent ${p:.2f} \\pm {error:.2f}$",
    )
    ax.plot(x, y, "o", color="#31688e", markersize=4, label="measured")
    ax.set(xscale="log", yscale="log")
    ax.legend(frameon=False)


def main() -> None:
    """Print the exponents and the model, and draw them where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--samples", nargs="+", type=int, default=SAMPLES)
    parser.add_argument("--n", type=int, default=400, help="samples of the sweep in m")
    parser.add_argument("--m", type=int, default=400, help="width of the sweep in n")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    print(f"kernel_cost on {device()}")
    in_m = sweep([(options.n, m) for m in options.widths], options.repeats)
    in_n = sweep([(n, options.m) for n in options.samples], options.repeats)
    report(in_m, in_n, options.figure)


def report(in_m: Sweep, in_n: Sweep, path: Path | None) -> None:
    """The fits, in words and in a figure."""
    for points in (in_m, in_n):
        for n, m, count, best in zip(*points, strict=True):
            print(f"n = {n:.0f}, m = {m:.0f}: {best * 1e3:.2f} ms, {count:.0f} evaluations")
    top_m, top_n = in_m.above(in_m.m), in_n.above(in_n.n)
    laws = power_law(top_m.m, top_m.best / top_m.evaluations), power_law(top_n.n, top_n.best)
    cost = model(Sweep(*(np.concatenate(pair) for pair in zip(top_m, top_n, strict=True))))
    gram = _terms(top_n) * cost.found
    for what, law in zip(("m, an evaluation", "n, in all"), laws, strict=True):
        print(f"exponent in {what}: {law.found[0]:.3f} +- {law.errors[0]:.3f}, upper decade")
    expected = power_law(top_n.n, gram.sum(axis=1)).found[0]
    print(f"exponent in n of the model over the same decade: {expected:.3f}")
    (a, b), (error_a, error_b) = cost
    print(f"a = {a * 1e12:.1f} +- {error_a * 1e12:.1f} ps, b = {b * 1e12:.1f} +- {error_b * 1e12:.1f} ps")
    if path is not None:
        with style():
            draw(in_m, in_n, laws, cost).savefig(path)


if __name__ == "__main__":
    main()
