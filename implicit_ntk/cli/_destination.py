"""Where a run is written: the flags that all experiments share."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from implicit_ntk.experiments import check_free


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
        if self.name is not None and (Path(self.name).name != self.name or self.name in ("", "..")):
            raise ValueError(f"name must be that of a directory within --out, got {self.name!r}")
        folder = self.out / (self.name or f"{what}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
        check_free(folder, self.overwrite)
        return folder
