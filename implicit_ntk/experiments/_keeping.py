"""How often a run writes down where it stands."""

import dataclasses
import time
from pathlib import Path

from jaxtyping import PyTree

from implicit_ntk.experiments._checkpoint import load_tree, save_tree


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where checkpoints are written, None for nowhere, and the seconds between two; 0 for all there are."""

    folder: Path | None = None
    every: float = 30.0

    def __post_init__(self) -> None:
        if not self.every >= 0:
            raise ValueError(f"checkpoint-every must not be negative, got {self.every}; 0 is at every pause")

    def path(self, name: str) -> Path | None:
        """Of a file there."""
        return None if self.folder is None else self.folder / f"{name}.npz"

    def keeper(self, name: str) -> "Keeper":
        """Of the checkpoints of one run."""
        return Keeper(self.path(name), self.every)


class Keeper:
    """Writes a tree to a file now and then."""

    def __init__(self, path: Path | None, every: float) -> None:
        self._path, self._every, self._last = path, every, time.monotonic()

    def found(self) -> bool:
        """Is there a checkpoint to go on from?"""
        return self._path is not None and self._path.exists()

    def load(self, like: PyTree) -> PyTree:
        """The tree that was kept; raises as `load_tree`."""
        assert self._path is not None
        return load_tree(self._path, like)

    def offer(self, tree: PyTree) -> None:
        """Keep it if the last time is long enough ago."""
        if time.monotonic() - self._last >= self._every:
            self.keep(tree)

    def keep(self, tree: PyTree) -> None:
        """Keep it now."""
        if self._path is not None:
            save_tree(self._path, tree)
            self._last = time.monotonic()

    def forget(self) -> None:
        """Remove what was kept."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
