"""Kernels over widths and seeds beside their limits."""

from implicit_ntk.experiments.widths._moments import Architecture as Architecture
from implicit_ntk.experiments.widths._monotone import Monotone as Monotone
from implicit_ntk.experiments.widths._store import store_widths as store_widths
from implicit_ntk.experiments.widths._summary import (
    limit_columns as limit_columns,
    limit_rows as limit_rows,
    widths_markdown as widths_markdown,
)
from implicit_ntk.experiments.widths._widths import (
    WidthsConfig as WidthsConfig,
    WidthsResult as WidthsResult,
    run_widths as run_widths,
)
