"""The benchmarks run, on sizes too small to time anything, and print their answers."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALL = {
    "kernel_vs_gemm.py": (["--sizes", "20,30", "--repeats", "2"], "kernel / "),
    "solvers.py": (
        [
            "--only",
            "peers",
            "edge",
            "monotone",
            *("--n", "20", "--m", "30"),
            *("--repeats", "2"),
            "--scales=.4",
        ],
        "PeacemanRachford",
    ),
    "step_vs_plain.py": (["--n", "20", "--m", "30", "--repeats", "2"], "tied tolerance / cold"),
}


def test_every_benchmark_is_tried_here():
    assert {path.name for path in FOLDER.glob("[!_]*.py")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_benchmark_prints_its_answer(name):
    flags, answer = SMALL[name]
    done = subprocess.run([sys.executable, str(FOLDER / name), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert answer in done.stdout
