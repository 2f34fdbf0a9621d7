"""The main experiment in a table, and in words."""

import dataclasses
import itertools

import numpy as np

from implicit_ntk.experiments._twin import TwinResult
from implicit_ntk.experiments._twin_run import TwinRun

_STEPS = {"exponential": "exponential steps", "euler": "Euler's steps"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One width over its seeds: medians, and for the deviation the extremes."""

    width: int
    deviation: float
    deviation_least: float
    deviation_most: float
    unseen_deviation: float
    limit_deviation: float
    """`f_inf - fhat_inf` on unseen data, root mean square; NaN where no run reaches `t = inf`."""
    integrator_error: float
    train_loss: float
    test_error: float
    lambda_min: float
    lambda_max: float
    resolved: bool
    contraction: float


def table(result: TwinResult) -> list[Row]:
    """One row a width, from narrow to wide."""
    return [_row(result, width) for width in sorted(result.config.widths)]


def summary_markdown(result: TwinResult) -> str:
    """What was run, the table, what it says, and what to distrust."""
    return "\n".join([*_heading(result), "", *_markdown_table(table(result)), "", *findings(result)]) + "\n"


def findings(result: TwinResult) -> list[str]:
    """Sentences that the numbers bear out: how the deviation goes with the width, and warnings."""
    rows = table(result)
    lines = [*_with_the_width(rows), _integrator_error(result)]
    lines += [_unresolved(result, row) for row in rows if not row.resolved]
    lines += _unreached(result)
    if result.config.integrator == "euler" and any(row.integrator_error > row.deviation / 2 for row in rows):
        lines.append("- **Euler's error is not small beside the deviation**: lower --ramp and --dt.")
    return lines


def _with_the_width(rows: list[Row]) -> list[str]:
    """How the deviations go with it."""
    if len(rows) < 2:
        return ["- One width only: nothing to compare."]
    values = {
        "deviation from the linearised twin": [(row.width, row.deviation) for row in rows],
        "root mean square of f_inf - fhat_inf on unseen data": [
            (row.width, row.limit_deviation) for row in rows
        ],
    }
    return [_fall(what, pairs) for what, pairs in values.items() if np.isfinite(pairs).all()]


def _integrator_error(result: TwinResult) -> str:
    most = max(np.nanmax(run.integrator_error) for run in result.runs)
    if result.config.integrator == "euler":
        where = "measured on the linearised dynamics"
        return f"- Euler's own error, {where}, is at most {most:.4f} in the same units."
    return (
        f"- The estimated errors of the exponential steps, on training and unseen data, add up to at most "
        f"{most:.4f} in the same units: those of first order; the solution that is carried on is of second. "
        "--step-rtol lowers them."
    )


def _unreached(result: TwinResult) -> list[str]:
    """Runs whose slowest mode is resolved, but whose residual did not vanish."""
    if not np.isinf(result.times[-1]):
        return []
    stuck = [run for run in result.runs if run.resolved and run.last < len(result.times) - 1]
    return [
        f"- At m = {run.width}, seed {run.seed}, the residual did not vanish in {result.config.precision}: "
        f"its limit is not known; {_remedy(result)}."
        for run in stuck
    ]


def _heading(result: TwinResult) -> list[str]:
    c, data = result.config, result.data
    outputs = "f - f_0 (so that u(0) = 0)" if c.centred else "f"
    return [
        f"# {c.dataset} {data.classes[0]}/{data.classes[1]}: gradient flow beside its linearised twin",
        "",
        f"{c.n_train} training and {c.n_test} unseen samples ({data.source}); implicit layer trained on "
        f"{outputs} to t = {result.times[-1]:g} by {_STEPS[c.integrator]}; gamma0 = {c.gamma0:g}, "
        f"phi = {c.injection_activation}, {c.seeds} seeds a width, {c.precision}. Medians over seeds; "
        "brackets: least and most.",
    ]


def _markdown_table(rows: list[Row]) -> list[str]:
    lines = [
        "| m | sup ‖u − û‖ / ‖y − u(0)‖ | unseen data | rms(f_∞ − f̂_∞) unseen | final train loss / n | "
        "final test error | λ_min H(0) | λ_max H(0) | γ‖A(0)‖ |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        label = "" if row.resolved else " (not resolved)"
        lines.append(
            f"| {row.width} | {row.deviation:.4f} [{row.deviation_least:.4f}, {row.deviation_most:.4f}] | "
            f"{row.unseen_deviation:.4f} | {format_known(row.limit_deviation)} | {row.train_loss:.2e} | "
            f"{row.test_error:.3f} | {row.lambda_min:.2e}{label} | {row.lambda_max:.3g} | "
            f"{row.contraction:.3f} |"
        )
    return lines


def format_known(value: float) -> str:
    """Four decimals, or a dash for what is not known."""
    return f"{value:.4f}" if np.isfinite(value) else "-"


def _fall(what: str, values: list[tuple[int, float]]) -> str:
    """How a quantity goes with the width, from narrow to wide."""
    (narrow, first), (wide, last) = values[0], values[-1]
    falls = all(a > b for (_, a), (_, b) in itertools.pairwise(values))
    verb = "falls with the width" if falls else "does **not** fall with every width"
    exponent = np.log(first / last) / np.log(wide / narrow)
    return (
        f"- The {what} {verb}: {first:.4f} at m = {narrow}, {last:.4f} at m = {wide}, "
        f"{first / last:.2f} times less (as m^{-exponent:.2f} between the two)."
    )


def _unresolved(result: TwinResult, row: Row) -> str:
    return (
        f"- At m = {row.width} lambda_min = {row.lambda_min:.1e} is below what "
        f"{result.config.precision} and the solver resolve: {_remedy(result)}."
    )


def _remedy(result: TwinResult) -> str:
    if result.config.precision == "float32":
        return "rerun with --precision float64"
    return "take fewer samples, or wider networks"


def _row(result: TwinResult, width: int) -> Row:
    runs = result.of_width(width)
    deviation = result.sup_deviation(width)
    return Row(
        width=width,
        deviation=float(np.median(deviation)),
        deviation_least=float(deviation.min()),
        deviation_most=float(deviation.max()),
        unseen_deviation=_median([np.nanmax(run.unseen_deviation) for run in runs]),
        limit_deviation=_median([_limit_deviation(result, run) for run in runs]),
        integrator_error=_median([np.nanmax(run.integrator_error) for run in runs]),
        train_loss=_median([run.metrics["loss"][run.last] / run.y.size for run in runs]),
        test_error=_median([run.metrics["test_error"][run.last] for run in runs]),
        lambda_min=_median([run.eigenvalues[0] for run in runs]),
        lambda_max=_median([run.eigenvalues[-1] for run in runs]),
        resolved=all(run.resolved for run in runs),
        contraction=_median([run.metrics["contraction"][0] for run in runs]),
    )


def _limit_deviation(result: TwinResult, run: TwinRun) -> float:
    """Root mean square of `f_inf - fhat_inf`, where infinity was asked for and reached."""
    if not np.isinf(result.times[-1]):
        return float("nan")
    return float(np.sqrt(np.mean((run.f[-1] - run.fhat[-1]) ** 2)))


def _median(values: list) -> float:
    """Over the seeds that know it."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else float("nan")
