"""A kernel in a table: what it is of, how it was made, and what its spectrum says."""

import numpy as np

from implicit_ntk.experiments.kernel._kernel import KernelResult
from implicit_ntk.experiments.kernel._limit import Limit
from implicit_ntk.experiments.kernel._matrix_free import MatrixFreeResult
from implicit_ntk.experiments.kernel._subject_summary import (
    Rows,
    condition_rows,
    cost_rows,
    subject_rows,
    value_rows,
)
from implicit_ntk.kernel import Spectrum

MOST = 0.9
"""The share of the targets for which eigenvectors are counted."""


def kernel_rows(result: KernelResult) -> Rows:
    """What is printed and written of a kernel."""
    return [
        *subject_rows(result.subject),
        ("steps", _steps(result)),
        *_spectral(result),
        ("trace", f"{result.trace:.4g}: {_shares(result)}"),
        *_ranks(result),
        *_aligned(result),
        *_limit(result),
        *cost_rows(result.seconds),
    ]


def matrix_free_rows(result: MatrixFreeResult) -> Rows:
    """What is printed and written of a kernel that was never formed."""
    top, low, error = (
        float(x[0]) for x in (result.largest.values, result.smallest.values, result.smallest.errors)
    )
    logdet = result.logdet
    spread = f"+- {float(logdet.stderr):.0e} (probes) +- {float(logdet.quadrature_error):.0e} (quadrature)"
    doubt = "" if logdet.resolved else ", not resolved"
    count = len(result.largest.values)
    aligned = [] if result.share is None else [("share of y", f"{result.share:.1%} along the top {count}")]
    return [
        *subject_rows(result.subject),
        ("lambda_min", f"{low:.4e} +- {error:.0e}, {'resolved' if low > error else 'not resolved'}"),
        ("lambda_max", f"{top:.6g} +- {float(result.largest.errors[0]):.0e}"),
        *condition_rows(top, low, error),
        ("trace", f"{result.trace:.4g}"),
        ("stable rank", f"{result.trace / top:.2f}"),
        ("log-determinant", f"{float(logdet.value):.6g} {spread}{doubt}"),
        *aligned,
        ("products with H", _products(result)),
        *cost_rows(result.seconds),
    ]


def _products(result: MatrixFreeResult) -> str:
    found = {
        "largest": result.largest,
        "smallest": result.smallest,
        "determinant": result.logdet,
        "density": result.density,
    }
    return ", ".join(f"{name} {int(part.products)}" for name, part in found.items())


def _steps(result: KernelResult) -> str:
    forward, adjoint = result.solves.steps, result.solves.adjoint_steps
    return (
        f"forward {np.median(forward):.0f} (at most {forward.max()}), "
        f"adjoint {np.median(adjoint):.0f} (at most {adjoint.max()})"
    )


def _shares(result: KernelResult) -> str:
    return ", ".join(f"{name} {value / result.trace:.1%}" for name, value in result.block_traces.items())


def _spectral(result: KernelResult) -> Rows:
    if result.eigen is None:
        return []
    found, precision = result.eigen.spectrum, result.subject.config.precision
    largest, least, noise = (float(x) for x in (found.lambda_max, found.lambda_min, found.resolution))
    return [
        *value_rows("lambda_min", least, noise, precision),
        ("lambda_max", f"{largest:.4g}"),
        *condition_rows(largest, least, noise),
        ("resolved", f"{int(found.rank)} of {found.eigenvalues.size} eigenvalues"),
    ]


def _ranks(result: KernelResult) -> Rows:
    if result.eigen is None:
        return []
    found: Spectrum = result.eigen.spectrum
    return [
        ("effective rank", f"{float(found.effective_rank):.1f}"),
        ("stable rank", f"{float(found.stable_rank):.2f}"),
    ]


def _aligned(result: KernelResult) -> Rows:
    if result.eigen is None or result.eigen.aligned is None:
        return []
    cumulative, rank = result.eigen.aligned.cumulative, int(result.eigen.spectrum.rank)
    count = int(np.argmax(cumulative >= MOST)) + 1
    doubt = f", of which {rank} are resolved" if count > rank else ""
    return [
        ("alignment with y", f"{result.eigen.aligned.target:.3f}, <H, yy^T> / (||H||_F ||yy^T||_F)"),
        ("share of y", f"{MOST:.0%} in the top {count} of {cumulative.size} eigenvectors{doubt}"),
    ]


def _limit(result: KernelResult) -> Rows:
    if not isinstance(result.limit, Limit):
        return [("limit kernel", result.limit)]
    found = result.limit.eigen.spectrum
    least, noise = float(found.lambda_min), float(found.resolution)
    return [
        ("limit kernel", f"||H - H_inf||_F / ||H_inf||_F = {result.limit.distance:.3g}"),
        *value_rows("its lambda_min", least, noise, result.subject.config.precision),
    ]
