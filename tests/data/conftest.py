"""Small files in the original formats, and the originals where this machine has them."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.io

from implicit_ntk.data import write_idx_array


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A key of the test's own, from its name."""
    return jax.random.key(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the originals that this machine may have."""
    monkeypatch.delenv("IMPLICIT_NTK_DATA", raising=False)


@pytest.fixture
def originals() -> Path:
    """The directory of original files; skips where the variable does not name one."""
    if not os.environ.get("IMPLICIT_NTK_DATA"):
        pytest.skip("IMPLICIT_NTK_DATA is not set: no original files to compare with")
    return Path(os.environ["IMPLICIT_NTK_DATA"])


@pytest.fixture
def write_idx_pair(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """Writes the IDX files of one split, labels 0, 1, 2, 0, ...; returns the pixels."""

    def write(folder: Path, start: str, n: int, suffix: str = ".gz") -> np.ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        images = rng.integers(1, 256, (n, 4, 3), dtype=np.uint8)
        write_idx_array(folder / f"{start}-images-idx3-ubyte{suffix}", images)
        labels = np.arange(n, dtype=np.uint8) % 3
        write_idx_array(folder / f"{start}-labels-idx1-ubyte{suffix}", labels)
        return images

    return write


@pytest.fixture
def write_cifar(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """Writes one CIFAR-10 binary file, labels 0, 1, 2, 0, ...; returns the pixels."""

    def write(path: Path, n: int) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        planes = [images[i, :, :, c].tobytes() for i in range(n) for c in range(3)]
        records = [bytes([i % 3]) + b"".join(planes[3 * i : 3 * i + 3]) for i in range(n)]
        path.write_bytes(b"".join(records))
        return images

    return write


@pytest.fixture
def write_svhn(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """Writes one SVHN file, labels 10, 1, 2, 10, ...; returns the pixels."""

    def write(path: Path, n: int) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        labels = np.array([10, 1, 2], np.uint8)[np.arange(n) % 3]
        scipy.io.savemat(path, {"X": np.moveaxis(images, 0, 3), "y": labels[:, None]})
        return images

    return write
