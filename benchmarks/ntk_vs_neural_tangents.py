"""How does the kernel stand beside neural-tangents?

GG22's network, the same arrays and the same cores, ours and theirs in turn; each option in a process of
its own. `make bench-nt` makes the environments that neural-tangents needs (Python 3.11; jax 0.4.25 and
0.5.3, the last ones with which it runs); what is not there is left out.

    python benchmarks/ntk_vs_neural_tangents.py [--size 256,1024] [--large 500,4000 1000,4000] [--ours-only]

Error: the largest of an entry over the largest entry, against the closed form in float64. Peak: by how
much a second call raises the resident memory. Every option works at tolerance 1e-6, or with as many steps as
Picard takes to it; besides, ours at looser tolerances, and scans cut to the length that an error needs.
"""

import argparse
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from _nt_options import Limits, Option, Outcome, at_scale, beside, every
from _nt_problem import Problem

AIMS = {1e-3: 9.0, 1e-5: 30.0}
"""How much faster ours has to be than the fastest of theirs, by the error that is allowed."""

MEMORY_AIM = 10.0
LOOSER = ("3e-5", "3e-6")
MEBIBYTE = 2**20


def at_size(problem: Problem, options: list[Option], limits: Limits) -> list[Outcome]:
    """A row an option, printed as it comes; the first is ours beside itself."""
    exact, outcomes = problem.exact, []
    print(f"\nn = {problem.n}, m = {problem.m}; Picard takes {exact.steps} steps to 1e-6; errors leave out")
    print(f"{problem.n - exact.clear.size} of the samples, with a unit at the kink of the relu\n")
    print("| option | error | seconds, best | median | over ours beside it, best | median | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(path, **problem.arrays)
        with limits.start(Option(), path) as ours:
            ours.answer()
            for option in (Option(), *options):
                outcomes.append(beside(ours, option, path, exact, limits))
                print(row(outcomes[-1]), flush=True)
    return outcomes


def row(outcome: Outcome) -> str:
    """In Markdown."""
    if outcome.failure:
        return f"| {outcome.option} | {outcome.failure} |"
    (our_best, best), (_, median) = outcome.seconds.min(axis=0), np.median(outcome.seconds, axis=0)
    return (
        f"| {outcome.option} | {outcome.error:.0e} | {best:.4f} | {median:.4f} "
        f"| {best / our_best:.2f} | {outcome.ratio:.2f} | {peak(outcome)} |"
    )


def peak(outcome: Outcome) -> str:
    """In MiB; nothing is said where the process had kept what the first call took."""
    return f"{outcome.peak / MEBIBYTE:.0f}" if outcome.peak >= MEBIBYTE else "?"


def verdicts(outcomes: list[Outcome]) -> Iterable[str]:
    """Of each aim, among options at tolerance 1e-6 and then with each as loose as the error allows."""
    for error, aim in AIMS.items():
        for tuned in (False, True):
            mine, theirs = (fastest(outcomes, error, tuned, whose) for whose in (False, True))
            at = "each as loose as that allows" if tuned else "each at tolerance 1e-6"
            if mine is None or theirs is None:
                yield f"error below {error:.0e}, {at}: nobody beside ours"
                continue
            speed, memory = theirs.ratio / mine.ratio, theirs.peak / max(mine.peak, MEBIBYTE)
            yield f"error below {error:.0e}, {at}: {theirs.option}, beside {mine.option}"
            yield f"  {speed:.1f} times faster, at least {aim:g} wanted: {met(speed >= aim)}"
            if theirs.peak >= MEBIBYTE:
                reached = met(memory >= MEMORY_AIM)
                yield f"  {memory:.1f} times less at the peak, {MEMORY_AIM:g} wanted: {reached}"


def fastest(outcomes: list[Outcome], error: float, tuned: bool, theirs: bool) -> Outcome | None:
    """The least ratio among those of one side that are accurate enough."""
    good = [
        outcome
        for outcome in outcomes
        if not outcome.failure
        and outcome.error < error
        and bool(outcome.option.environment) == theirs
        and (tuned or not outcome.option.tuned)
    ]
    return min(good, key=lambda outcome: outcome.ratio, default=None)


def met(yes: bool) -> str:
    return "met" if yes else "MISSED"


def compare(n: int, m: int, limits: Limits, wanted: str | None) -> None:
    """Every option of theirs with `wanted` in its name, and the verdicts."""
    problem = Problem(n, m)
    options = [Option(rtol=rtol, tuned=True) for rtol in LOOSER]
    if wanted is not None:
        theirs = every(problem.exact.steps, [problem.exact.shortest(error) for error in AIMS])
        options += [option for option in theirs if wanted in str(option)]
    print("", *verdicts(at_size(problem, options, limits)), sep="\n", flush=True)


def finish(n: int, m: int, limits: Limits, wanted: str | None) -> None:
    """Who computes a large kernel at all."""
    problem = Problem(n, m)
    theirs = [] if wanted is None else at_scale(problem.exact.steps)
    at_size(problem, [option for option in theirs if wanted in str(option)], limits)


def sizes(text: str) -> tuple[int, int]:
    n, m = map(int, text.split(","))
    return n, m


def main() -> None:
    """Print the tables and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=sizes, default=(256, 1024), help="n,m of the table of all options")
    parser.add_argument("--large", type=sizes, nargs="*", default=[(500, 4000), (1000, 4000)], help="n,m ...")
    parser.add_argument("--beside", default="", help="only the options with this in their name")
    parser.add_argument("--ours-only", action="store_true", help="start no other environment")
    parser.add_argument("--cores", default=str(min(os.sched_getaffinity(0))), help="0,1 ...: those to run on")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB of data that a process may hold")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for an answer")
    parser.add_argument(
        "--budget", type=float, default=60.0, help="seconds of an option after which repeats end"
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others work too")
    options = parser.parse_args()
    limits = Limits(
        options.cores, options.memory, options.timeout, options.repeats, options.budget, options.clock
    )
    print(
        f"ntk_vs_neural_tangents on core(s) {limits.cores}; a process has {limits.gibibytes:g} GiB "
        f"and {limits.timeout:g} s; {limits.clock} time"
    )
    wanted = None if options.ours_only else options.beside
    compare(*options.size, limits, wanted)
    for size in options.large:
        finish(*size, limits, wanted)


if __name__ == "__main__":
    main()
