"""How much memory there is, and the refusal to ask for more."""

import os

import jax


def memory_limit() -> int:
    """Bytes that one computation may use on one device: half of what it has, or `IMPLICIT_NTK_MEMORY` bytes.

    For arrays that are spread over devices a caller counts what one of them holds: `held_rows`.
    """
    asked = os.environ.get("IMPLICIT_NTK_MEMORY")
    if asked is not None:
        if not asked.strip().isdecimal():
            raise ValueError(f"IMPLICIT_NTK_MEMORY must be a number of bytes, got {asked!r}")
        return int(asked)
    stats = jax.local_devices()[0].memory_stats() or {}
    total = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total // 2


def require_memory(nbytes: int, what: str, remedy: str) -> None:
    """Raise `MemoryError` with the number and the remedy where `nbytes` is past the limit."""
    limit = memory_limit()
    if nbytes > limit:
        raise MemoryError(
            f"{what} needs {nbytes / 2**30:.2g} GiB, past the limit of {limit / 2**30:.2g} GiB; {remedy}, "
            "or set IMPLICIT_NTK_MEMORY (bytes)"
        )
