"""How the convolutional network's equilibrium is approached: residual against iteration (N22, figure 4.1)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from implicit_ntk._checks import check_positive
from implicit_ntk.data import load
from implicit_ntk.equilibrium import AbstractSolver, Anderson, Broyden, Method, Picard
from implicit_ntk.networks import ConvImplicit, convergence

SOLVERS: dict[str, AbstractSolver] = {"Anderson": Anderson(), "Broyden": Broyden(), "Picard": Picard()}


@dataclasses.dataclass(frozen=True)
class ResidualsConfig:
    """Solve for the equilibria of N22's convolutional network on real images, at each scale of filters."""

    dataset: Literal["mnist", "fashion-mnist", "cifar-10", "svhn"] = "mnist"
    """Images; MNIST and FashionMNIST 0/1 are bundled, others are read from --data-dir."""
    data_dir: str | None = None
    """Directory with the original files (default: IMPLICIT_NTK_DATA, then the bundled subset)."""
    images: int = 32
    """How many."""
    weight_scales: tuple[float, ...] = (1.0, 0.01)
    """Standard deviations of the filters of the cell: the thesis draws N(0, 1) and N(0, 0.01)."""
    channels: int = 48
    """Maps of the state."""
    inner_channels: int = 64
    """Maps between the two convolutions."""
    groups: int = 8
    """Of the group norms: divides both numbers of maps."""
    stride: int = 2
    """Of the injection: 2 halves the side of the images."""
    steps: int = 60
    """Iterations."""
    seed: int = 0
    """Of the random numbers."""
    precision: Literal["float32", "float64"] = "float32"
    """Of all arrays."""

    def __post_init__(self) -> None:
        for name in ("images", "channels", "inner_channels", "groups", "stride", "steps"):
            check_positive(getattr(self, name), name)
        maps = (self.channels, self.inner_channels)
        if any(count % self.groups for count in maps):
            raise ValueError(f"groups must divide channels and inner_channels, {maps}, got {self.groups}")
        if not self.weight_scales or not all(0 < s < float("inf") for s in self.weight_scales):
            raise ValueError(f"weight_scales must be positive and finite, got {self.weight_scales}")


@dataclasses.dataclass(frozen=True, eq=False)
class ResidualsResult:
    """`relative[solver][scale]`: `||f(z) - z|| / ||f(z)||` by iteration and image."""

    config: ResidualsConfig
    source: str
    relative: dict[str, dict[float, Float[np.ndarray, "steps n"]]]

    def steps_to(self, solver: str, scale: float, tolerance: float) -> Float[np.ndarray, " n"]:
        """Iterations until each image is solved to a tolerance; infinite where it never is."""
        below = self.relative[solver][scale] <= tolerance
        return np.where(below.any(0), below.argmax(0), np.inf)


def run_residuals(config: ResidualsConfig) -> ResidualsResult:
    """Run the experiment: every scale by every solver, on the same images and from the same draws.

    Pixels are standardised to mean zero and variance one over the images. float64 needs
    `jax_enable_x64`. Raises `FileNotFoundError` for missing data, `ValueError` for bad settings.
    """
    if jax.dtypes.canonicalize_dtype(config.precision) != np.dtype(config.precision):
        raise ValueError('precision="float64" needs jax.config.update("jax_enable_x64", True) first')
    found = load(config.dataset, "train", config.data_dir)
    if len(found) < config.images:
        raise ValueError(
            f"images must be at most {len(found)}, what {config.dataset} has, got {config.images}"
        )
    pixels = found.images[: config.images].astype(config.precision)
    pixels = (pixels - pixels.mean()) / pixels.std()
    shape = (*pixels.shape[1:3], pixels.shape[3] if pixels.ndim == 4 else 1)
    X = jnp.asarray(pixels.reshape(config.images, -1))
    relative: dict[str, dict[float, np.ndarray]] = {name: {} for name in SOLVERS}
    for scale in config.weight_scales:
        net = _network(config, shape, scale)
        for name, solver in SOLVERS.items():
            relative[name][scale] = np.asarray(convergence(net, X, Method(solver), config.steps))
    return ResidualsResult(config, found.source, relative)


def _network(config: ResidualsConfig, shape: tuple[int, int, int], scale: float) -> ConvImplicit:
    return ConvImplicit.init(
        jax.random.key(config.seed),
        shape,
        channels=config.channels,
        inner_channels=config.inner_channels,
        groups=config.groups,
        stride=config.stride,
        weight_scale=scale,
        dtype=config.precision,
    )
