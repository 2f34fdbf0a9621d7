"""The end of training over widths, scales and seeds."""

from implicit_ntk.experiments.sweep._config import SweepConfig as SweepConfig
from implicit_ntk.experiments.sweep._exponents import (
    Exponent as Exponent,
    Interval as Interval,
    fit_exponent as fit_exponent,
)
from implicit_ntk.experiments.sweep._rows import QUANTITIES as QUANTITIES, SweepRow as SweepRow
from implicit_ntk.experiments.sweep._store import write_sweep as write_sweep
from implicit_ntk.experiments.sweep._summary import (
    SweepCell as SweepCell,
    SweepLaw as SweepLaw,
    exponent_columns as exponent_columns,
    exponent_rows as exponent_rows,
    mean_columns as mean_columns,
    mean_rows as mean_rows,
    sweep_cells as sweep_cells,
    sweep_findings as sweep_findings,
    sweep_laws as sweep_laws,
    sweep_markdown as sweep_markdown,
)
from implicit_ntk.experiments.sweep._sweep import SweepResult as SweepResult, run_sweep as run_sweep
