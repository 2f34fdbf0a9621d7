"""Experiments: from a configuration to numbers; figures are drawn by `plotting`."""

from implicit_ntk.experiments._checkpoint import (
    load_arrays as load_arrays,
    load_tree as load_tree,
    save_tree as save_tree,
)
from implicit_ntk.experiments._config import TwinConfig as TwinConfig
from implicit_ntk.experiments._environment import environment as environment
from implicit_ntk.experiments._folder import (
    check_free as check_free,
    checkpoints_beside as checkpoints_beside,
    is_finished as is_finished,
    run_folder as run_folder,
)
from implicit_ntk.experiments._keeping import Checkpoints as Checkpoints
from implicit_ntk.experiments._residuals import (
    ResidualsConfig as ResidualsConfig,
    ResidualsResult as ResidualsResult,
    run_residuals as run_residuals,
)
from implicit_ntk.experiments._store import (
    store as store,
    store_residuals as store_residuals,
    write_twin as write_twin,
)
from implicit_ntk.experiments._summary import (
    Row as Row,
    findings as findings,
    format_known as format_known,
    summary_markdown as summary_markdown,
    table as table,
)
from implicit_ntk.experiments._twin import TwinResult as TwinResult, run_twin as run_twin
from implicit_ntk.experiments._twin_run import TwinRun as TwinRun
from implicit_ntk.experiments.kernel import (
    KERNEL_FILE as KERNEL_FILE,
    Eigen as Eigen,
    KernelConfig as KernelConfig,
    KernelResult as KernelResult,
    Limit as Limit,
    MatrixFreeResult as MatrixFreeResult,
    NetworkConfig as NetworkConfig,
    Progress as Progress,
    SamplesConfig as SamplesConfig,
    Subject as Subject,
    kernel_rows as kernel_rows,
    matrix_free_rows as matrix_free_rows,
    run_kernel as run_kernel,
    run_matrix_free as run_matrix_free,
    write_kernel as write_kernel,
    write_matrix_free as write_matrix_free,
)
from implicit_ntk.experiments.sweep import (
    QUANTITIES as QUANTITIES,
    Exponent as Exponent,
    Interval as Interval,
    SweepCell as SweepCell,
    SweepConfig as SweepConfig,
    SweepLaw as SweepLaw,
    SweepResult as SweepResult,
    SweepRow as SweepRow,
    exponent_columns as exponent_columns,
    exponent_rows as exponent_rows,
    fit_exponent as fit_exponent,
    mean_columns as mean_columns,
    mean_rows as mean_rows,
    run_sweep as run_sweep,
    sweep_cells as sweep_cells,
    sweep_findings as sweep_findings,
    sweep_laws as sweep_laws,
    sweep_markdown as sweep_markdown,
    write_sweep as write_sweep,
)
from implicit_ntk.experiments.widths import (
    Architecture as Architecture,
    Monotone as Monotone,
    WidthsConfig as WidthsConfig,
    WidthsResult as WidthsResult,
    limit_columns as limit_columns,
    limit_rows as limit_rows,
    run_widths as run_widths,
    store_widths as store_widths,
    widths_markdown as widths_markdown,
)
