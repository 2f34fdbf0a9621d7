"""The programs of this folder's tests are many and small and run once."""

import pytest


@pytest.fixture(autouse=True)
def _quick_compilation(quick_compilation: None) -> None:
    """For every test here."""
