"""What a kernel leaves in its run's directory."""

import csv
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from implicit_ntk.experiments.kernel._eigen import Eigen
from implicit_ntk.experiments.kernel._kernel import KernelResult
from implicit_ntk.experiments.kernel._limit import Limit
from implicit_ntk.experiments.kernel._matrix_free import MatrixFreeResult
from implicit_ntk.experiments.kernel._subject import Subject
from implicit_ntk.experiments.kernel._subject_summary import Rows, markdown
from implicit_ntk.experiments.kernel._summary import kernel_rows, matrix_free_rows

KERNEL_FILE = "kernel.npy"
"""Where a kernel stands that is written as it is formed."""

Arrays = dict[str, Shaped[np.ndarray, "..."]]


def write_kernel(result: KernelResult, folder: Path) -> None:
    """Write `kernel.npz`, `summary.md` and, where there are eigenvalues, `spectrum.csv`.

    The kernel `H` is in `kernel.npz`, with what was found of it, unless it was formed in a file of its own.
    """
    arrays = _of_kernel(result)
    if not isinstance(result.H, np.memmap):
        arrays["H"] = result.H
    _write(folder, result.subject, kernel_rows(result), arrays)
    if result.eigen is not None:
        size = result.eigen.descending.size
        columns = {"index": np.arange(1, size + 1)} | _of_eigen(result.eigen, result.limit)
        _write_columns(folder / "spectrum.csv", columns)


def write_matrix_free(result: MatrixFreeResult, folder: Path) -> None:
    """Write `kernel.npz`, without a kernel, `summary.md`, and `spectrum.csv` of both ends."""
    pairs = {"largest": result.largest, "smallest": result.smallest}
    arrays = {f"{name}_eigenvectors": np.asarray(found.vectors) for name, found in pairs.items()}
    arrays |= {f"density_{name}": np.asarray(getattr(result.density, name)) for name in DENSITY}
    arrays |= {"trace": np.asarray(result.trace), "logdet": np.asarray(result.logdet.value)}
    _write(folder, result.subject, matrix_free_rows(result), arrays)
    _write_columns(folder / "spectrum.csv", _ends(result))


DENSITY = ("points", "density", "stderr", "quadrature_error")


def _write(folder: Path, subject: Subject, rows: Rows, arrays: Arrays) -> None:
    """Arrays with those of the samples; the table."""
    np.savez(folder / "kernel.npz", allow_pickle=False, **arrays, **_of_samples(subject))
    (folder / "summary.md").write_text(markdown(subject.config, rows), encoding="utf-8")


def _of_samples(subject: Subject) -> Arrays:
    samples = subject.samples
    y = {} if subject.y is None else {"y": subject.y}
    return {"X_indices": samples.indices, "X_sha256": np.array(samples.digest)} | y


def _of_kernel(result: KernelResult) -> Arrays:
    """The network's outputs `u`, the trace of each leaf's part; eigenvalues descend."""
    arrays = {
        "u": result.solves.u,
        "blocks": np.array(list(result.block_traces)),
        "block_traces": np.array(list(result.block_traces.values())),
    }
    if result.eigen is not None:
        arrays["resolution"] = np.asarray(result.eigen.spectrum.resolution)
        arrays |= _of_eigen(result.eigen, result.limit)
    return arrays


def _of_eigen(eigen: Eigen, limit: Limit | str) -> Arrays:
    """From the largest eigenvalue to the smallest."""
    columns = {"eigenvalues": eigen.descending}
    columns["resolved"] = eigen.descending > float(eigen.spectrum.resolution)
    if eigen.aligned is not None:
        columns |= {"share_of_y": eigen.aligned.shares, "cumulative_share": eigen.aligned.cumulative}
    if isinstance(limit, Limit):
        columns["limit_eigenvalues"] = limit.eigen.descending
    return columns


def _ends(result: MatrixFreeResult) -> Arrays:
    """The eigenvalues at the top and those at the bottom, descending, with their errors."""
    top, low = result.largest, result.smallest
    last = result.size - len(low.values)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([np.asarray(getattr(top, name)), np.asarray(getattr(low, name))[::-1]])

    indices = [np.arange(len(top.values)), last + np.arange(len(low.values))]
    columns = {"index": 1 + np.concatenate(indices), "eigenvalues": joined("values")}
    return columns | {"errors": joined("errors"), "resolved": joined("resolved")}


def _write_columns(path: Path, columns: Arrays) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
