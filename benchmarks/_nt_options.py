"""Each way to compute the kernel, and what came of it."""

import dataclasses
from pathlib import Path

import numpy as np
from _nt_problem import Exact
from _nt_process import Failed, Worker, interpreter

ALL = ("JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS", "STRUCTURED_DERIVATIVES", "AUTO")
ANY_JAX = ALL[:2]
ENVIRONMENTS = {"jax0425": ALL, "jax053": ANY_JAX}
"""Those of `make bench-nt`, and the implementations that run there."""

SOLVERS = {"scan": ALL, "custom_vjp": (ALL[0], ALL[2]), "custom_jvp": ANY_JAX}
"""How the equilibrium is written, and the implementations that can differentiate it."""

LARGE = (("jax0425", "scan", ALL[2]), ("jax053", "custom_vjp", ALL[0]), ("jax053", "custom_jvp", ALL[1]))
"""The fastest of each kind, for sizes at which one call is as much as there is time for."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One way. `tuned`: as loose as an error allows, where the others keep the tolerance 1e-6."""

    environment: str = ""
    solver: str = ""
    implementation: str = ""
    steps: int | None = None
    rtol: str = ""
    tuned: bool = False

    def __str__(self) -> str:
        if not self.environment:
            return f"ink.ntk, {f'rtol = {self.rtol}' if self.rtol else 'defaults'}"
        length = f" of {self.steps}" if self.steps else ""
        return f"{self.solver}{length}, {self.implementation}, {self.environment}"

    def arguments(self) -> list[str]:
        """For the process that computes it."""
        if not self.environment:
            return ["ours", *([self.rtol] if self.rtol else [])]
        length = f":{self.steps}" if self.steps else ""
        return ["theirs", self.solver + length, self.implementation]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of an option: its error, its peak in bytes, and seconds taken in turn with ours; or its failure."""

    option: Option
    failure: str = ""
    error: float = np.nan
    peak: float = np.nan
    seconds: np.ndarray = dataclasses.field(default_factory=lambda: np.full((1, 2), np.nan))
    """A row a repeat: ours, then the option."""

    @property
    def ratio(self) -> float:
        """Its time over that of ours at the defaults, median over median."""
        ours, its = np.median(self.seconds, axis=0)
        return float(its / ours)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What every process gets."""

    cores: str
    gibibytes: float
    timeout: float
    repeats: int
    budget: float
    clock: str

    def start(self, option: Option, problem: Path) -> Worker:
        """The process of an option; its kernel goes to a file beside the problem."""
        result = problem.with_name(f"{option}.npy")
        shared = [str(problem), str(result), self.cores, str(self.gibibytes)]
        return Worker(option.environment, shared + option.arguments(), result, self.timeout)


def beside(ours: Worker, option: Option, problem: Path, exact: Exact, limits: Limits) -> Outcome:
    """Start the option, then time ours and it in turn."""
    try:
        with limits.start(option, problem) as its:
            peak = its.answer()["peak"]
            error = exact.error(np.load(its.result).astype(float))
            return Outcome(option, "", error, peak, in_turn(ours, its, limits))
    except Failed as failure:
        return Outcome(option, str(failure))


def in_turn(ours: Worker, its: Worker, limits: Limits) -> np.ndarray:
    """Seconds of ours, its, ours, its: until the repeats are done or the budget is spent."""
    seconds: list[tuple[float, float]] = []
    while len(seconds) < limits.repeats and np.sum(seconds) < limits.budget:
        seconds.append((without_fail(ours)[limits.clock], its.ask()[limits.clock]))
    return np.array(seconds)


def without_fail(ours: Worker) -> dict[str, float]:
    """Have ours compute once more; its failure is not to be taken for one of theirs."""
    try:
        return ours.ask()
    except Failed as failure:
        raise RuntimeError(f"ours failed: {failure}") from failure


def every(steps: int, cut: list[int]) -> list[Option]:
    """All of theirs whose environments are here: at the tolerance, and scans besides at the lengths `cut`."""
    options = [
        Option(environment, solver, implementation, steps if solver == "scan" else None)
        for environment, runs in ENVIRONMENTS.items()
        for solver, takes in SOLVERS.items()
        for implementation in takes
        if implementation in runs
    ]
    cuts = [
        Option("jax0425", "scan", implementation, length, tuned=True)
        for length in cut
        for implementation in ("STRUCTURED_DERIVATIVES", "JACOBIAN_CONTRACTION")
    ]
    return here(options + cuts)


def at_scale(steps: int) -> list[Option]:
    """Those of theirs that a large kernel is tried with."""
    return here([Option(*which, steps if which[1] == "scan" else None) for which in LARGE])


def here(options: list[Option]) -> list[Option]:
    """Those whose environments have been made."""
    return [option for option in options if interpreter(option.environment).exists()]
