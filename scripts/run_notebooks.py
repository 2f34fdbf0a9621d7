"""Run notebooks and keep their output in them: python scripts/run_notebooks.py BOOK.ipynb ...

Nothing that changes from one run to the next is kept, so that running twice leaves no difference.
"""

import sys
from pathlib import Path

import nbclient
import nbformat


def run(path: Path) -> None:
    """Execute one notebook in its own folder and write it back; an error in a cell is raised."""
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        book,
        timeout=None,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    book.metadata.get("language_info", {}).pop("version", None)
    nbformat.write(book, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print("==", name, flush=True)
        run(Path(name))
