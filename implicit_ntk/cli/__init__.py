"""The command `implicit-ntk`: `run` an experiment, let the `doctor` look at the machine."""

from implicit_ntk.cli._main import main as main
