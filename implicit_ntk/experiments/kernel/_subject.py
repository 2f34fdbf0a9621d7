"""What a kernel is of: samples, targets and a network, with the solvers that suit it."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float, Int

from implicit_ntk._checks import check_choice
from implicit_ntk.data import parallel_pairs
from implicit_ntk.experiments.kernel._network import NetworkConfig
from implicit_ntk.experiments.kernel._samples import Samples, SamplesConfig, read_samples
from implicit_ntk.experiments.kernel._targets import Targets
from implicit_ntk.networks import AbstractNetwork, Choice, choose

Progress = Callable[[float, str], None]
"""Called with the share that is done of what is being done."""


@dataclasses.dataclass(frozen=True)
class KernelConfig:
    """Which kernel, and what is made of it."""

    samples: SamplesConfig = dataclasses.field(default_factory=SamplesConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    precision: Literal["float32", "float64"] = "float32"
    """Of all arrays."""
    decomposed: bool = True
    """Take all eigenvalues and compare with the limit: several arrays of the kernel's size."""

    def __post_init__(self) -> None:
        check_choice(self.precision, ("float32", "float64"), "precision")
        self.samples.check()  # here, since the parser of the command line would not report it in one line
        self.network.check()

    def complete(self) -> "KernelConfig":
        """The same kernel with the defaults of samples and network written out."""
        return dataclasses.replace(self, samples=self.samples.complete(), network=self.network.complete())


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What a kernel is of."""

    config: KernelConfig
    samples: Samples
    y: Targets | None
    net: AbstractNetwork
    choice: Choice
    pairs: Int[np.ndarray, "pairs 2"]
    """Samples that are parallel, or nearly so: the theory asks that there be none."""


def subject_of(config: KernelConfig) -> Subject:
    """Read the samples, draw the network, choose the solvers.

    Raises `ValueError` for bad settings, `FileNotFoundError` for missing data.
    """
    dtype = np.dtype(config.precision)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError('precision="float64" needs jax.config.update("jax_enable_x64", True) first')
    samples = read_samples(config.samples, dtype)
    net = config.network.build(samples.X.shape[1], samples.image_shape, dtype)
    y = samples.targets(net.out_shape)
    return Subject(config, samples, y, net, choose(net), _parallel(samples.X))


@contextmanager
def timed(what: str, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    """Say what is being done, and write down how long it took."""
    progress(0.0, what)
    began = time.perf_counter()
    yield
    progress(1.0, what)
    seconds[what] = time.perf_counter() - began


def _parallel(X: Float[np.ndarray, "n d"]) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of nearly parallel rows; rows of zeros have no direction, and are parallel to none."""
    directed = np.flatnonzero(X.any(axis=1))
    return directed[parallel_pairs(X[directed])]
