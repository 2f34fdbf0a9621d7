"""The settings of the main experiment: the command line is generated from this class."""

import dataclasses
from typing import Literal

from implicit_ntk._checks import check_choice, check_positive
from implicit_ntk.equilibrium import default_rtol

STEP_RTOL = 1e-3

ABOVE_SOLVES = 10
"""Times the tolerance of the solves: the least tolerance of a step that means something."""


@dataclasses.dataclass(frozen=True)
class TwinConfig:
    """Train the implicit layer of GG22's network and set the run beside its linearised twin."""

    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "svhn", "digits"] = "mnist"
    """Images; MNIST and FashionMNIST 0/1 are bundled, others are read from --data-dir."""
    data_dir: str | None = None
    """Directory with the original files (default: IMPLICIT_NTK_DATA, then the bundled subset)."""
    classes: tuple[int, int] = (0, 1)
    """The two classes that become the labels -1 and +1."""
    n_train: int = 200
    """Training samples."""
    n_test: int = 200
    """Unseen samples."""
    widths: tuple[int, ...] = (250, 1000, 2000)
    """Widths m of the implicit layer."""
    seeds: int = 3
    """Initialisations a width."""
    gamma0: float = 0.4
    """Scale of the implicit layer, gamma = gamma0 / sqrt(m)."""
    injection_activation: Literal["relu", "identity", "tanh"] = "relu"
    """The paper's phi."""
    activation: Literal["relu", "identity", "tanh"] = "relu"
    """The cell's activation."""
    centred: bool = True
    """Train f - f_0, so that u(0) = 0."""
    integrator: Literal["exponential", "euler"] = "exponential"
    """Exponential steps go to the end of training; Euler's are short and many."""
    horizon: float | None = None
    """Last time T of the flow (default: the end of training, t = inf; 50 with --integrator euler)."""
    records: int = 41
    """Times at which the run is recorded, geometric after 0."""
    step_rtol: float | None = None
    """Error that an exponential step may make, as a share of the initial residual (default: 1e-3)."""
    dt: float | None = None
    """Largest Euler step (default: 1/lambda_max(H(0)), half of what is stable: H may grow)."""
    ramp: float | None = None
    """Euler's steps are at most ramp * (t + 1/lambda_max) (default: 0.02); 0 for constant steps."""
    rtol: float | None = None
    """Tolerance of the solves at recorded times (default: 1e-6 in float32, 1e-12 in float64)."""
    seed: int = 0
    """Of the random numbers."""
    precision: Literal["float32", "float64"] = "float32"
    """Of all arrays."""

    def __post_init__(self) -> None:
        for name in ("n_train", "n_test", "seeds"):
            check_positive(getattr(self, name), name)
        if not self.widths:
            raise ValueError("widths is empty; name at least one width")
        for width in self.widths:
            check_positive(width, "widths")
        if len(set(self.widths)) != len(self.widths):
            raise ValueError(f"widths holds {self.widths}, one of them twice; name each once")
        least = 4 if self.to_the_end else 3
        if self.records < least:
            raise ValueError(f"records must be at least {least}, got {self.records}")
        for name in ("horizon", "gamma0", "step_rtol", "dt", "rtol"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if self.ramp is not None and not 0 <= self.ramp <= 1:
            raise ValueError(f"ramp must lie in [0, 1], got {self.ramp}; 0 is constant steps")
        check_choice(self.integrator, ("exponential", "euler"), "integrator")
        self._check_options()
        check_choice(self.precision, ("float32", "float64"), "precision")
        if self.integrator == "exponential":
            check_step_rtol(
                STEP_RTOL if self.step_rtol is None else self.step_rtol, self.rtol, self.precision
            )

    def _check_options(self) -> None:
        """An option of the other integrator would do nothing."""
        other = {"exponential": ("dt", "ramp"), "euler": ("step_rtol",)}[self.integrator]
        for name in other:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is no option of the integrator {self.integrator}; leave it out")

    @property
    def to_the_end(self) -> bool:
        """Does the flow go on to t = inf?"""
        return self.horizon is None and self.integrator == "exponential"


def check_step_rtol(step_rtol: float, rtol: float | None, precision: str) -> None:
    """Raise `ValueError` for a tolerance of steps below what solves to `rtol` (None: default) resolve."""
    least = ABOVE_SOLVES * max(rtol or 0.0, default_rtol(precision))
    if step_rtol < least:
        raise ValueError(f"step_rtol must be at least {least:g}, for the solves resolve no less")
