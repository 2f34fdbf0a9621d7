"""Experiments: one file each, from a configuration to numbers; figures are drawn by `plotting`."""

from implicit_ntk.experiments._config import TwinConfig as TwinConfig
from implicit_ntk.experiments._environment import environment as environment
from implicit_ntk.experiments._store import check_free as check_free
from implicit_ntk.experiments._store import store as store
from implicit_ntk.experiments._summary import Row as Row
from implicit_ntk.experiments._summary import findings as findings
from implicit_ntk.experiments._summary import summary_markdown as summary_markdown
from implicit_ntk.experiments._summary import table as table
from implicit_ntk.experiments._twin import TwinResult as TwinResult
from implicit_ntk.experiments._twin import TwinRun as TwinRun
from implicit_ntk.experiments._twin import run_twin as run_twin
