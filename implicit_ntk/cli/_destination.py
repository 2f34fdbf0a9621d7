"""Where a run is written: the flags that all experiments share."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from implicit_ntk.experiments import check_free, is_finished


@dataclasses.dataclass(frozen=True)
class Destination:
    """The directory of a run."""

    name: str | None = None
    """Name of the run's directory (default: what was run, and the time)."""
    out: Path = Path("runs")
    """Directory in which the run's directory is made."""
    overwrite: bool = False
    """Replace a run of the same name."""

    def folder(self, what: str) -> Path:
        """The run's directory.

        Raises `FileExistsError` where a run stands that may not be replaced, `ValueError` for a name that
        leads elsewhere than into `out`: what stands there would be replaced.
        """
        folder = self._named(what)
        check_free(folder, self.overwrite)
        return folder

    def _named(self, what: str) -> Path:
        if self.name is not None and (Path(self.name).name != self.name or self.name in ("", "..")):
            raise ValueError(f"name must be that of a directory within --out, got {self.name!r}")
        return self.out / (self.name or f"{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}")


@dataclasses.dataclass(frozen=True)
class ResumableDestination(Destination):
    """The directory of a run that leaves checkpoints."""

    resume: bool = False
    """Go on with the run of that --name where it stopped, or begin it; of a finished one, say where it is."""

    def folder_of(self, config: object, what: str) -> tuple[Path, bool]:
        """The run's directory, and whether the run of these settings is finished there.

        Raises as `folder`, and `ValueError` where --resume names a run of other settings, or none.
        """
        if self.resume and self.name is None:
            raise ValueError("resume needs the --name of the run to go on with")
        folder = self._named(what)
        if self.resume and not self.overwrite and is_finished(config, folder):
            return folder, True
        check_free(folder, self.overwrite, self.resume)
        return folder, False
