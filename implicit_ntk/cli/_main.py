"""Parse, dispatch, and say in one line what went wrong."""

import sys
from typing import Annotated

import tyro

from implicit_ntk.cli._doctor import Doctor
from implicit_ntk.cli._kernel import Kernel
from implicit_ntk.cli._residuals import Residuals
from implicit_ntk.cli._run import Run
from implicit_ntk.cli._sweep import Sweep
from implicit_ntk.cli._widths import Widths
from implicit_ntk.equilibrium import ConvergenceError

Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Kernel, tyro.conf.subcommand("kernel")]
    | Annotated[Residuals, tyro.conf.subcommand("residuals")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Widths, tyro.conf.subcommand("widths")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)
EXPECTED = (ValueError, TypeError, FileNotFoundError, FileExistsError, MemoryError, ConvergenceError)


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for bad input, 1 for failure, 130 for Ctrl-C)."""
    try:
        return _parsed(args).execute()
    except EXPECTED as error:
        print(f"implicit-ntk: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, ConvergenceError | MemoryError) else 2
    except KeyboardInterrupt as stop:
        print(f"implicit-ntk: {str(stop) or 'stopped; nothing was written'}", file=sys.stderr)
        return 130


def _parsed(args: list[str] | None) -> Run | Kernel | Residuals | Sweep | Widths | Doctor:
    return tyro.cli(
        Command,
        args=args,
        prog="implicit-ntk",
        config=(tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes),
        description="Over-parameterised implicit networks through their neural tangent kernel.",
    )
