"""Experiments: one file each, from a configuration to numbers; figures are drawn by `plotting`."""

from implicit_ntk.experiments._config import TwinConfig as TwinConfig
from implicit_ntk.experiments._eigen import Eigen as Eigen
from implicit_ntk.experiments._environment import environment as environment
from implicit_ntk.experiments._kernel import KernelResult as KernelResult, run_kernel as run_kernel
from implicit_ntk.experiments._kernel_store import (
    KERNEL_FILE as KERNEL_FILE,
    write_kernel as write_kernel,
    write_matrix_free as write_matrix_free,
)
from implicit_ntk.experiments._kernel_summary import (
    kernel_rows as kernel_rows,
    matrix_free_rows as matrix_free_rows,
)
from implicit_ntk.experiments._limit import Limit as Limit
from implicit_ntk.experiments._matrix_free import (
    MatrixFreeResult as MatrixFreeResult,
    run_matrix_free as run_matrix_free,
)
from implicit_ntk.experiments._network import NetworkConfig as NetworkConfig
from implicit_ntk.experiments._residuals import (
    ResidualsConfig as ResidualsConfig,
    ResidualsResult as ResidualsResult,
    run_residuals as run_residuals,
)
from implicit_ntk.experiments._samples import SamplesConfig as SamplesConfig
from implicit_ntk.experiments._store import (
    check_free as check_free,
    run_folder as run_folder,
    store as store,
    store_residuals as store_residuals,
)
from implicit_ntk.experiments._subject import (
    KernelConfig as KernelConfig,
    Progress as Progress,
    Subject as Subject,
)
from implicit_ntk.experiments._summary import (
    Row as Row,
    findings as findings,
    summary_markdown as summary_markdown,
    table as table,
)
from implicit_ntk.experiments._twin import (
    TwinResult as TwinResult,
    TwinRun as TwinRun,
    run_twin as run_twin,
)
from implicit_ntk.experiments._width_moments import Architecture as Architecture
from implicit_ntk.experiments._width_monotone import Monotone as Monotone
from implicit_ntk.experiments._width_store import store_widths as store_widths
from implicit_ntk.experiments._width_summary import (
    limit_columns as limit_columns,
    limit_rows as limit_rows,
    widths_markdown as widths_markdown,
)
from implicit_ntk.experiments._widths import (
    WidthsConfig as WidthsConfig,
    WidthsResult as WidthsResult,
    run_widths as run_widths,
)
