"""A sweep in tables: means over seeds, exponents in the width, and what to distrust."""

import dataclasses

import numpy as np

from implicit_ntk.experiments.sweep._exponents import Exponent, Interval, geometric_interval, mean_interval
from implicit_ntk.experiments.sweep._rows import QUANTITIES, Quantity
from implicit_ntk.experiments.sweep._sweep import SweepResult
from implicit_ntk.experiments.widths._laws import Measured
from implicit_ntk.experiments.widths._summary import plus_minus

WIDEST = 3
"""Widths over which exponents are fitted beside all of them, since they drift."""
UNLIKELY = 0.01
"""Below this p value a power law is marked as one that does not hold."""
SMALL = 0.1
"""Share by which the integrator's error may change a quantity before it is said."""

Cells = list[list[str]]

BESIDES = {
    "lambda_min": "λ_min H(0)",
    "lambda_max": "λ_max H(0)",
    "contraction": "γ‖A(0)‖",
    "contraction_end": "γ‖A(T)‖",
    "loss": "loss",
    "test_error": "test error",
    "steps": "steps",
    "integrator_error": "integrator's bound",
}
"""What else is in the table of means."""


@dataclasses.dataclass(frozen=True)
class SweepCell:
    """One width and scale: the runs that were solved, those that failed, and means over the former."""

    width: int
    gamma0: float
    solved: int
    failed: int
    means: dict[str, Interval]
    geometric: dict[str, Interval]
    """Geometric means, which exponents are fitted to; without a standard error."""
    change: dict[str, float]
    """By what share a quantity changes at ten times the integrator's tolerance, of one seed."""


@dataclasses.dataclass(frozen=True)
class SweepLaw:
    """The exponent of one quantity at one scale, over all widths and over the widest; None: not to be had."""

    name: str
    gamma0: float
    all: Exponent | None
    widest: Exponent | None

    @property
    def quantity(self) -> Quantity:
        """What it is, and what is proven of it."""
        return QUANTITIES[self.name]


def sweep_cells(result: SweepResult) -> list[SweepCell]:
    """One row a width and scale."""
    return [_cell(result, *cell) for cell in result.config.cells]


def sweep_laws(result: SweepResult) -> list[SweepLaw]:
    """One row a quantity and scale."""
    return [
        SweepLaw(name, gamma0, result.exponent(name, gamma0), _of_the_widest(result, name, gamma0))
        for name in QUANTITIES
        for gamma0 in sorted(result.config.gamma0)
    ]


def _of_the_widest(result: SweepResult, name: str, gamma0: float) -> Exponent | None:
    """None where these are all there are."""
    return result.exponent(name, gamma0, WIDEST) if len(result.config.widths) > WIDEST else None


def mean_columns() -> list[str]:
    """The head of `mean_rows`."""
    return ["m", "gamma0", *(quantity.title for quantity in QUANTITIES.values())]


def mean_rows(cells: list[SweepCell]) -> Cells:
    """Means of the quantities, ± half of a confidence interval."""
    return [
        [_label(cell), f"{cell.gamma0:g}", *(_plus_minus(cell.means[name]) for name in QUANTITIES)]
        for cell in cells
    ]


def exponent_columns() -> list[str]:
    """The head of `exponent_rows`."""
    return ["quantity", "gamma0", "power of m [95%]", f"{WIDEST} widest", "proven"]


def exponent_rows(laws: list[SweepLaw]) -> Cells:
    """Exponents with their confidence intervals beside the proven bound."""
    return [
        [
            law.quantity.title,
            f"{law.gamma0:g}",
            _exponent(law.all),
            _exponent(law.widest),
            _bound(law.quantity),
        ]
        for law in laws
    ]


def sweep_findings(result: SweepResult) -> list[str]:
    """Sentences that the numbers bear out: the proven bound, and warnings."""
    cells = sweep_cells(result)
    return [
        *filter(None, map(_held, sweep_laws(result))),
        _accuracy(cells),
        *(_failed(cell) for cell in cells if cell.failed),
        *_unresolved(result),
    ]


def sweep_markdown(result: SweepResult) -> str:
    """What was run, the tables, what they say."""
    cells = sweep_cells(result)
    besides = [
        [_label(cell), f"{cell.gamma0:g}", *(f"{cell.means[name].value:.3g}" for name in BESIDES)]
        for cell in cells
    ]
    parts = [
        _heading(result),
        "## Means over seeds\n\n± half of the 95% confidence interval of the t-distribution. Deviations on "
        "unseen data are root mean squares over samples; suprema are over recorded times, H(T) and A(T) at "
        "the end.",
        _table(mean_columns(), mean_rows(cells)),
        _table(["m", "gamma0", *BESIDES.values()], besides),
        "## Exponents in the width\n\nSlopes of mean logarithms against log m with their 95% confidence "
        f"intervals over seeds; * where a single power of m does not fit (p < {UNLIKELY:g}). Proven: the "
        "rate of GG22's upper bound, which a quantity may well undercut.",
        _table(exponent_columns(), exponent_rows(sweep_laws(result))),
        "\n".join(f"- {sentence}" for sentence in sweep_findings(result)),
    ]
    return "\n\n".join(parts) + "\n"


def _heading(result: SweepResult) -> str:
    c, data = result.config, result.data
    outputs = "f - f_0 (so that u(0) = 0)" if c.centred else "f"
    return (
        f"# {c.dataset} {data.classes[0]}/{data.classes[1]}: the end of training over widths\n\n"
        f"{c.n_train} training and {c.n_test} unseen samples ({data.source}); implicit layer trained on "
        f"{outputs} to t = inf where lambda_min is resolved; phi = {c.injection_activation}, {c.seeds} seeds "
        f"at each of the widths {', '.join(map(str, sorted(c.widths)))}, step_rtol {c.step_rtol:g}, "
        f"{c.precision}, seed {c.seed}."
    )


def _cell(result: SweepResult, width: int, gamma0: float) -> SweepCell:
    draws = {name: result.of_cell(width, gamma0, name).astype(float) for name in (*QUANTITIES, *BESIDES)}
    solved = draws["loss"].size
    return SweepCell(
        width=width,
        gamma0=gamma0,
        solved=solved,
        failed=result.config.seeds - solved,
        means={name: mean_interval(draws[name]) for name in draws},
        geometric={name: geometric_interval(draws[name]) for name in QUANTITIES},
        change={name: result.change(width, gamma0, name) for name in QUANTITIES},
    )


def _label(cell: SweepCell) -> str:
    return f"{cell.width}" + (f" ({cell.failed} failed)" if cell.failed else "")


def _plus_minus(mean: Interval) -> str:
    return plus_minus(Measured(mean.value, (mean.high - mean.low) / 2))


def _exponent(law: Exponent | None) -> str:
    if law is None:
        return "-"
    found = law.estimate
    mark = "*" if law.p_value < UNLIKELY else ""
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]{mark}"


def _bound(quantity: Quantity) -> str:
    return "-" if quantity.bound is None else f"at most {quantity.bound:g} (GG22)"


def _held(law: SweepLaw) -> str | None:
    """What is proven is held against the runs."""
    bound, found = law.quantity.bound, law.all
    if bound is None or found is None:
        return None
    within = "falls at least as fast" if found.estimate.high <= bound else "is not shown to fall as fast"
    return (
        f"{law.quantity.title} at gamma0 = {law.gamma0:g} {within} as the proven m^{bound:g}: "
        f"exponent {_exponent(found)}."
    )


def _accuracy(cells: list[SweepCell]) -> str:
    changes = [(cell.change[name], cell, name) for cell in cells for name in QUANTITIES]
    known = [change for change in changes if np.isfinite(change[0])]
    if len(known) < len(changes):
        return (
            "**What the integrator's error makes of the numbers is not known: a run that tells it failed.**"
        )
    worst, cell, name = max(known, key=lambda change: change[0])
    large = " **That is not small: lower --step-rtol.**" if worst > SMALL else ""
    return (
        f"At ten times the integrator's tolerance the numbers of one seed change by at most {worst:.1%} "
        f"({QUANTITIES[name].title}, m = {cell.width}, gamma0 = {cell.gamma0:g}).{large}"
    )


def _failed(cell: SweepCell) -> str:
    return (
        f"At m = {cell.width}, gamma0 = {cell.gamma0:g} {cell.failed} of {cell.failed + cell.solved} runs "
        "were not solved to the end and are left out: a smaller gamma0 contracts more."
    )


def _unresolved(result: SweepResult) -> list[str]:
    rows = result.array
    count = int((rows["solved"] & ~rows["resolved"]).sum())
    remedy = (
        "rerun with --precision float64" if result.config.precision == "float32" else "take fewer samples"
    )
    return [f"{count} runs end at a finite time, lambda_min not resolved: {remedy}."] if count else []


def _table(head: list[str], cells: Cells) -> str:
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
