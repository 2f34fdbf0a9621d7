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
    "lineax",
    "matfree",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
)


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
        "cpu_count": os.cpu_count(),
        "x64": jax.dtypes.canonicalize_dtype(float).name == "float64",
    }


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
