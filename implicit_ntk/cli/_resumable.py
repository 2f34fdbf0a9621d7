"""What a run that leaves checkpoints stands in: its folder, its bar, and ears for Ctrl-C."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from implicit_ntk.cli._destination import ResumableDestination
from implicit_ntk.cli._interrupts import interrupts
from implicit_ntk.cli._progress import progress_bar
from implicit_ntk.experiments import run_folder


@contextmanager
def resumable_run(
    config: object, folder: Path, destination: ResumableDestination, console: Console
) -> Iterator[tuple[Path, Callable[[float, str], None]]]:
    """Where to write the results, and `progress(share, what)`, which raises when asked to stop."""
    say = functools.partial(console.print, soft_wrap=True)
    with (
        interrupts() as heard,
        run_folder(config, folder, destination.overwrite, destination.resume, say) as results,
        progress_bar(console) as bar,
    ):
        task = bar.add_task("compiling", total=1.0)

        def progress(share: float, what: str) -> None:
            bar.update(task, completed=share, description=what)
            heard()

        yield results, progress
