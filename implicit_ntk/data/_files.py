"""Bytes of a file, gunzipped where needed."""

import gzip
import os
import zlib
from pathlib import Path

AnyPath = str | os.PathLike[str]

_GZIP_MAGIC = b"\x1f\x8b"


def existing(path: AnyPath) -> Path:
    """`path` as a `Path`; raises `FileNotFoundError` unless it is a file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: {path} is not a file; give the original file's path")
    return Path(path)


def read_bytes(path: AnyPath) -> bytes:
    """The contents of the file, gunzipped if they are gzip whatever the file is called.

    **Raises:** `FileNotFoundError`, or `ValueError` on a damaged gzip stream.
    """
    raw = existing(path).read_bytes()
    # Decided by content: browsers gunzip in passing and keep the .gz name.
    return _gunzip(raw, path) if raw.startswith(_GZIP_MAGIC) else raw


def _gunzip(raw: bytes, path: AnyPath) -> bytes:
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"path: {path} is a damaged gzip file; get it again") from error
