"""The lazy-or-rich meter in words and numbers."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from implicit_ntk.dynamics.along._regime import GroupsOverTime, Regime

LAZY = 0.1
"""A kernel that has moved by less than this share of its norm is called lazy."""


def summary_of(found: "Regime", index: int) -> str:
    """A verdict with its number, and a line for each quantity."""
    rows = [
        ("loss", f"{found.loss[index] / found.initial_loss:.2g} of the initial one"),
        ("kernel drift", _drift(found, index)),
        ("kernel velocity", f"{found.velocity[index]:.2g} of its norm an e-fold of the loss"),
        ("lambda_min", f"{found.lambda_min[index] / found.initial_lambda_min:.3g} of the initial one"),
        ("alignment with y", f"{found.kernel_target[index]:.3f}, at first {found.initial_kernel_target:.3f}"),
        ("eigenvectors", _turn(found, index)),
        ("activations", _flips(found, index)),
        ("way, relative", _groups(found.relative_distance, index, "{:.2g}")),
        ("loss explained", _groups(found.shares, index, "{:.1%}") + _identity(found, index)),
    ]
    return "\n".join([_verdict(found, index), *(f"  {name:<17} {text}" for name, text in rows)])


def _verdict(found: "Regime", index: int) -> str:
    drift = float(found.operator_drift[index])
    when = f"at t = {float(found.times[index]):.4g}"
    if math.isnan(drift):
        return f"No verdict {when}: a solve failed before (status {int(found.status)})"
    side, word = ("below", "Lazy") if drift < LAZY else ("not below", "Rich")
    return f"{word} {when}: the kernel has moved by {drift:.2g} of its norm, {side} {LAZY:g}"


def _drift(found: "Regime", index: int) -> str:
    operator, noise = float(found.operator_drift[index]), float(found.drift_noise[index])
    resolved = "above" if operator > noise else "not above"
    return (
        f"{operator:.2g} (operator norm), {found.frobenius_drift[index]:.2g} (Frobenius), "
        f"{resolved} the noise of {noise:.1g}"
    )


def _turn(found: "Regime", index: int) -> str:
    if not found.dimensions:
        return "no gap among the leading eigenvalues at t = 0"
    angles = [math.degrees(angle) for angle in found.rotation[index]]
    named = zip(found.dimensions, angles, strict=True)
    return ", ".join(f"first {d}: {_angle(angle)}" for d, angle in named)


def _angle(degrees: float) -> str:
    return "no gap any more" if math.isnan(degrees) else f"{degrees:.2g} degrees"


def _flips(found: "Regime", index: int) -> str:
    if found.flips is None:
        return "no patterns: the cell is not relu of an affine map"
    return f"{found.flips[index]:.2%} of units switched"


def _groups(groups: "GroupsOverTime", index: int, form: str) -> str:
    return ", ".join(f"{name} {form.format(float(values[index]))}" for name, values in groups.items())


def _identity(found: "Regime", index: int) -> str:
    return f"; L(0) - L(t) = int r^T H r ds holds to {abs(float(found.loss_residual[index])):.1g} of L(0)"
