"""From settings to a network: one of the papers' by name, or one that was saved."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from implicit_ntk._checks import check_choice, check_positive
from implicit_ntk.networks import (
    AbstractNetwork,
    ConvImplicit,
    MonotoneImplicit,
    ReluImplicit,
    ReluImplicitFull,
    WeightTied,
    load,
)

NETWORK = "relu-implicit"
Activation = Literal["relu", "identity", "tanh"]


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The network: drawn at random, or loaded. What is not given is as in the paper."""

    network: Literal["relu-implicit", "relu-implicit-full", "monotone", "conv"] | None = None
    """That of GG22, of GLL22, N22's monotone or convolutional one; if not given GG22's."""
    width: int | None = None
    """Units m of the implicit layer, if not given 1000; of conv the channels, 48."""
    gamma0: float | None = None
    """Of relu-implicit, if not given 0.4, and relu-implicit-full, 0.1: gamma = gamma0 / sqrt(m)."""
    monotonicity: float | None = None
    """Of monotone: the modulus mu, if not given 1."""
    activation: Activation | None = None
    """Of the cell, if not given relu."""
    injection_activation: Activation | None = None
    """Of relu-implicit and relu-implicit-full: the papers' phi, if not given relu."""
    trained: tuple[str, ...] | None = None
    """Names of the trained leaves; if not given A of relu-implicit, all of the others."""
    outputs: int | None = None
    """Outputs k, for a kernel (n, k, n, k); if not given one scalar output."""
    depth: int | None = None
    """Apply the cell so many times, weight-tied; if not given to equilibrium."""
    seed: int | None = None
    """Draw from jax.random.key(seed); if not given 0."""
    load: Path | None = None
    """A network that implicit_ntk.save wrote, in place of all of the above."""

    def check(self) -> None:
        """Raise `ValueError` for settings that are not such, or that the network does not take."""
        for name in ("width", "outputs", "depth"):
            if getattr(self, name) is not None:
                check_positive(getattr(self, name), name)
        if self.network is not None:
            check_choice(self.network, FAMILIES, "network")
        allowed = ("load",) if self.load is not None else ("network", "depth", "seed", *self._family.takes)
        refused = [name for name in self._given if name not in allowed]
        if refused:
            what = f"the network {self.named}" if self.load is None else "a network that is loaded"
            raise ValueError(f"{refused[0]} does not apply to {what}; leave it out")

    @property
    def named(self) -> str:
        """The network's name, or its file's."""
        return (self.network or NETWORK) if self.load is None else self.load.name

    def complete(self) -> "NetworkConfig":
        """The same network with its defaults written out."""
        if self.load is not None:
            return self
        settings = {"network": NETWORK, "seed": 0} | self._family.defaults | self._given
        return NetworkConfig(**settings)

    def build(self, in_size: int, image_shape: tuple[int, ...] | None, dtype: np.dtype) -> AbstractNetwork:
        """The network for rows of this size, or images of this shape.

        **Raises:** `ValueError` for settings that it does not take, a loaded network of another dtype, or
        conv for rows that are no images; `FileNotFoundError`.
        """
        if self.load is not None:
            return _loaded(self.load, dtype)
        if self.network == "conv" and image_shape is None:
            raise ValueError("data: conv takes images; store X as (n, h, w) or (n, h, w, c)")
        size, settings = image_shape if self.network == "conv" else in_size, self.complete()
        options = {self._family.argument(name): getattr(settings, name) for name in self._family.takes}
        net = self._family.init(jax.random.key(settings.seed or 0), size, **options, dtype=dtype)
        return net if self.depth is None else WeightTied(net, self.depth)

    @property
    def _given(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def _family(self) -> "_Family":
        return FAMILIES[self.network or NETWORK]


def _loaded(path: Path, dtype: np.dtype) -> AbstractNetwork:
    if not path.is_file():
        raise FileNotFoundError(f"load: {path} is not a file; name one that implicit_ntk.save wrote")
    with jax.enable_x64(True):  # so that the message below names the setting that is missing
        net = load(path)
    found = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(net)})
    if found != [str(dtype)]:
        raise ValueError(f"precision is {dtype}, but the network of {path} is {found[0]}; ask for {found[0]}")
    return net


@dataclasses.dataclass(frozen=True)
class _Family:
    """How a network is drawn, and which settings it takes."""

    init: Callable[..., AbstractNetwork]
    takes: tuple[str, ...]
    width: tuple[str, int] = ("width", 1000)
    """What `init` calls the width, and how wide the network is if nothing is said."""

    def argument(self, name: str) -> str:
        """What `init` calls a setting."""
        return self.width[0] if name == "width" else name

    @property
    def defaults(self) -> dict[str, Any]:
        """Of all settings that it takes."""
        of_init = inspect.signature(self.init).parameters
        return {name: of_init[name].default for name in self.takes if name != "width"} | {
            "width": self.width[1]
        }


_OF_ALL = ("width", "activation", "trained", "outputs")
_OF_RELU = (*_OF_ALL, "gamma0", "injection_activation")
FAMILIES = {
    "relu-implicit": _Family(ReluImplicit.init, _OF_RELU),
    "relu-implicit-full": _Family(ReluImplicitFull.init, _OF_RELU),
    "monotone": _Family(MonotoneImplicit.init, (*_OF_ALL, "monotonicity")),
    "conv": _Family(ConvImplicit.init, _OF_ALL, ("channels", 48)),
}
