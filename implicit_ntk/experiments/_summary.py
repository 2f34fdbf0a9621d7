"""The main experiment in a table, and in words."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float

from implicit_ntk.experiments._twin import TwinResult, TwinRun


@dataclasses.dataclass(frozen=True)
class Row:
    """One width over its seeds: medians, and for the deviation the extremes."""

    width: int
    deviation: float
    deviation_least: float
    deviation_most: float
    unseen_deviation: float
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
    lines = [_fall(rows)]
    lines.append(
        f"- Euler's own error, measured on the linearised dynamics, is at most "
        f"{max(row.integrator_error for row in rows):.4f} in the same units."
    )
    lines += [_unresolved(result, row) for row in rows if not row.resolved]
    if any(row.integrator_error > row.deviation / 2 for row in rows):
        lines.append("- **Euler's error is not small beside the deviation**: lower --ramp and --dt.")
    return lines


def _heading(result: TwinResult) -> list[str]:
    c, data = result.config, result.data
    outputs = "f - f_0 (so that u(0) = 0)" if c.centred else "f"
    return [
        f"# {c.dataset} {data.classes[0]}/{data.classes[1]}: gradient flow beside its linearised twin",
        "",
        f"{c.n_train} training and {c.n_test} unseen samples ({data.source}); implicit layer trained on "
        f"{outputs} to t = {c.horizon:g} by Euler; gamma0 = {c.gamma0:g}, phi = {c.injection_activation}, "
        f"{c.seeds} seeds a width, {c.precision}. Medians over seeds; brackets: least and most.",
    ]


def _markdown_table(rows: list[Row]) -> list[str]:
    lines = [
        "| m | sup ‖u − û‖ / ‖y − u(0)‖ | unseen data | final train loss / n | final test error | "
        "λ_min H(0) | λ_max H(0) | γ‖A(0)‖ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        label = "" if row.resolved else " (not resolved)"
        lines.append(
            f"| {row.width} | {row.deviation:.4f} [{row.deviation_least:.4f}, {row.deviation_most:.4f}] | "
            f"{row.unseen_deviation:.4f} | {row.train_loss:.2e} | {row.test_error:.3f} | "
            f"{row.lambda_min:.2e}{label} | {row.lambda_max:.3g} | {row.contraction:.3f} |"
        )
    return lines


def _fall(rows: list[Row]) -> str:
    if len(rows) < 2:
        return "- One width only: nothing to compare."
    first, last = rows[0], rows[-1]
    ratio = first.deviation / last.deviation
    falls = all(a.deviation > b.deviation for a, b in itertools.pairwise(rows))
    verb = "falls with the width" if falls else "does **not** fall with every width"
    exponent = np.log(ratio) / np.log(last.width / first.width)
    return (
        f"- The deviation from the linearised twin {verb}: {first.deviation:.4f} at m = {first.width}, "
        f"{last.deviation:.4f} at m = {last.width}, {ratio:.2f} times less "
        f"(as m^-{exponent:.2f} between the two)."
    )


def _unresolved(result: TwinResult, row: Row) -> str:
    return (
        f"- At m = {row.width} lambda_min = {row.lambda_min:.1e} is below what "
        f"{result.config.precision} and the solver resolve: rerun with --precision float64."
    )


def _row(result: TwinResult, width: int) -> Row:
    runs = result.of_width(width)
    deviation = result.sup_deviation(width)
    return Row(
        width=width,
        deviation=float(np.median(deviation)),
        deviation_least=float(deviation.min()),
        deviation_most=float(deviation.max()),
        unseen_deviation=_median([_unseen_deviation(run).max() for run in runs]),
        integrator_error=_median([run.integrator_error.max() for run in runs]),
        train_loss=_median([run.metrics["loss"][-1] / run.y.size for run in runs]),
        test_error=_median([run.metrics["test_error"][-1] for run in runs]),
        lambda_min=_median([run.eigenvalues[0] for run in runs]),
        lambda_max=_median([run.eigenvalues[-1] for run in runs]),
        resolved=all(run.resolved for run in runs),
        contraction=_median([run.metrics["contraction"][0] for run in runs]),
    )


def _unseen_deviation(run: TwinRun) -> Float[np.ndarray, " T"]:
    """`||f_t - fhat_t|| / ||y_test - f_0||` on unseen data."""
    return np.linalg.norm(run.f - run.fhat, axis=1) / np.linalg.norm(run.y_test - run.f[0])


def _median(values: list) -> float:
    return float(np.median(values))
