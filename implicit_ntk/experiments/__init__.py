"""Experiments: one file each, from a configuration to numbers; figures are drawn by `plotting`."""

from implicit_ntk.experiments._config import TwinConfig as TwinConfig
from implicit_ntk.experiments._environment import environment as environment
from implicit_ntk.experiments._residuals import (
    ResidualsConfig as ResidualsConfig,
    ResidualsResult as ResidualsResult,
    run_residuals as run_residuals,
)
from implicit_ntk.experiments._store import (
    check_free as check_free,
    store as store,
    store_residuals as store_residuals,
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
