"""What a number was made with: versions, devices, threads, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import implicit_ntk

PACKAGES = (
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "diffrax",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
)

SETTINGS = ("XLA_FLAGS", "NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that change how many threads add up a sum, or what is compiled."""

BITS = (
    "implicit_ntk",
    "commit",
    "python",
    "versions",
    "devices",
    "backend",
    "cpu",
    "threads",
    "settings",
    "x64",
)
"""What the bits of a result hang on."""


def environment() -> dict[str, Any]:
    """Versions of this package and what it stands on, devices, memory, threads and the commit."""
    return {
        "implicit_ntk": implicit_ntk.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "devices": [device.device_kind for device in jax.devices()],
        "backend": jax.default_backend(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "threads": _threads(),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "x64": jax.dtypes.canonicalize_dtype(float).name == "float64",
    }


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """The names of what differs between two environments and may change the bits of a result."""
    return [name for name in BITS if there.get(name) != here.get(name)]


def commit() -> str | None:
    """The commit of the checkout that the package runs from, marked where it has changes, or None."""
    folder = Path(implicit_ntk.__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _threads() -> int | None:
    """The cores that this process may use, which is as many threads as a product is divided among."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu() -> str:
    """The model of the processor: another one has other instructions, and adds up in another order."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
