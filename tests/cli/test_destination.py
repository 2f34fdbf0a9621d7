"""Where a run is written."""

from pathlib import Path

import pytest

from implicit_ntk.cli._destination import Destination


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a"])
def test_a_name_stays_within_the_folder(name: str, tmp_path: Path) -> None:
    """With `--overwrite` what stands there would be removed."""
    with pytest.raises(ValueError, match="^name must be that of a directory within --out"):
        Destination(name, tmp_path, overwrite=True).folder("kernel")


def test_name_and_default(tmp_path: Path) -> None:
    assert Destination("a", tmp_path).folder("kernel") == tmp_path / "a"
    assert Destination(None, tmp_path).folder("kernel").name.startswith("kernel-")
