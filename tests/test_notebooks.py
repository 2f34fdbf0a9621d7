"""Every notebook runs from top to bottom; its claims are assertions in it."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_its_claims_hold(path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of the compiler; most of the time is its own
    book = nbformat.read(path, as_version=4)
    claims = sum(cell.source.count("assert") for cell in book.cells if cell.cell_type == "code")
    assert claims > 0, "a notebook ends in a claim that an assertion checks"
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
