"""The benchmarks run, on sizes too small to time anything, and print their answers."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALL = {
    "devices.py": (["--sizes", "16,32", "--meshes", "2x2", "--repeats", "2"], "| 16, 32 | 2x2 |"),
    "flow.py": (
        ["--n", "8", "--widths", "64", "--until", "9", "--rtol", ".1", "--reference", ".05", "--euler", "1"],
        "over ours",
    ),
    "flow_large.py": (
        ["--n", "12", "--m", "40", "--check", "8", "--until", "9", "--rtol", ".1"],
        "KrylovExponential(0.1)",
    ),
    "kernel_cost.py": (
        [*("--widths", "8", "16", "24"), *("--samples", "8", "16", "24"), *("--n", "8", "--m", "8")],
        "exponent in n, in all",
    ),
    "kernel_vs_gemm.py": (
        ["--sizes", "20,30", "--repeats", "2", "--precision", "tensorfloat32", "--spot"],
        "rows are off by",
    ),
    "matrix_free.py": (["--n", "40", "--width", "10", "--check", "30"], "lambda_min: relative error"),
    "ntk_vs_neural_tangents.py": (
        ["--ours-only", "--size", "20,30", "--large", "--repeats", "2"],
        "ink.ntk, rtol = 3e-6",
    ),
    "precisions.py": (["--n", "8", "--m", "40", "--rtol", ".1"], "float64: CONVERGED"),
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


LONG = ("flow_large.py", "precisions.py", "solvers.py")
"""Compiled several times over."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in SMALL]
)
def test_benchmark_prints_its_answer(name, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compilation is all that takes time here
    flags, answer = SMALL[name]
    done = subprocess.run([sys.executable, str(FOLDER / name), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert answer in done.stdout
