"""The settings of a sweep: the command line is generated from this class."""

import dataclasses
import math
from typing import Literal

from implicit_ntk._checks import check_choice, check_positive
from implicit_ntk.experiments._config import check_step_rtol


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Train GG22's network to the end at several widths, scales gamma0 and seeds, beside its twin."""

    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "svhn", "digits"] = "mnist"
    """Images; MNIST and FashionMNIST 0/1 are bundled, others are read from --data-dir."""
    data_dir: str | None = None
    """Directory with the original files (default: IMPLICIT_NTK_DATA, then the bundled subset)."""
    classes: tuple[int, int] = (0, 1)
    """The two classes that become the labels -1 and +1."""
    n_train: int = 100
    """Training samples."""
    n_test: int = 100
    """Unseen samples."""
    widths: tuple[int, ...] = (250, 500, 1000, 2000, 4000)
    """Widths m of the implicit layer."""
    gamma0: tuple[float, ...] = (0.4,)
    """Scales of the implicit layer, gamma = gamma0 / sqrt(m); those of one seed share their weights."""
    seeds: int = 5
    """Initialisations at each width and scale."""
    injection_activation: Literal["relu", "identity", "tanh"] = "relu"
    """The paper's phi."""
    activation: Literal["relu", "identity", "tanh"] = "relu"
    """The cell's activation."""
    centred: bool = True
    """Train f - f_0, so that u(0) = 0."""
    records: int = 24
    """Times at which a run is recorded: 0, geometric from 1/lambda_max to 20/lambda_min, and the end."""
    step_rtol: float = 1e-3
    """Error that a step of the integrator may make, as a share of the initial residual. One seed of each
    width and scale is run again with ten times as much: that shows what the error makes of the numbers."""
    max_steps: int = 2000
    """Steps of one run; one that needs more, as narrow relu networks may, has failed."""
    rtol: float | None = None
    """Tolerance of the solves (default: 1e-6 in float32, 1e-12 in float64)."""
    together: int | None = None
    """Seeds in one program (default: as many as pay at that width and fit)."""
    seed: int = 0
    """Of the random numbers."""
    precision: Literal["float32", "float64"] = "float32"
    """Of all arrays."""

    def __post_init__(self) -> None:
        for name in ("n_train", "n_test", "seeds", "max_steps") + (
            ("together",) if self.together is not None else ()
        ):
            check_positive(getattr(self, name), name)
        if self.seeds < 2:
            raise ValueError("seeds must be at least 2 for a confidence interval, got 1")
        for width in self.widths:
            check_positive(width, "widths")
        for name in ("widths", "gamma0"):
            _check_each_once(getattr(self, name), name)
        for name in ("step_rtol",) + (("rtol",) if self.rtol is not None else ()):
            _check_positive_real(getattr(self, name), name)
        for value in self.gamma0:
            _check_positive_real(value, "gamma0")
        if self.records < 5:
            raise ValueError(f"records must be at least 5, got {self.records}")
        check_choice(self.precision, ("float32", "float64"), "precision")
        check_step_rtol(self.step_rtol, self.rtol, self.precision)

    @property
    def cells(self) -> list[tuple[int, float]]:
        """The pairs (width, gamma0), from narrow to wide, each width's scales in ascending order."""
        return [(width, gamma0) for width in sorted(self.widths) for gamma0 in sorted(self.gamma0)]


def _check_each_once(values: tuple, name: str) -> None:
    if not values:
        raise ValueError(f"{name} is empty; name at least one")
    if len(set(values)) != len(values):
        raise ValueError(f"{name} holds {values}, one of them twice; name each once")


def _check_positive_real(value: float | int, name: str) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
