"""The settings of the main experiment: the command line is generated from this class."""

import dataclasses
from typing import Literal

from implicit_ntk._checks import check_choice, check_positive


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
    horizon: float = 50.0
    """Last time T of the flow."""
    records: int = 31
    """Times at which the run is recorded, geometric from horizon/1000 on, and 0."""
    dt: float | None = None
    """Largest Euler step (default: 1/lambda_max(H(0)), half of what is stable: H may grow)."""
    ramp: float = 0.02
    """Steps are at most ramp * (t + 1/lambda_max); 0 for constant steps."""
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
        if self.records < 2:
            raise ValueError(f"records must be at least 2, got {self.records}")
        for name in ("horizon", "gamma0") + (("dt",) if self.dt is not None else ()):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"ramp must lie in [0, 1], got {self.ramp}; 0 is constant steps")
        check_choice(self.precision, ("float32", "float64"), "precision")
