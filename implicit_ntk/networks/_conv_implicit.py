"""N22's convolutional network: an implicit residual block with group norms, on images.

    z = norm3(relu(z + norm2(V * x + W2 * norm1(relu(W1 * z))))),    f(x) = u . pool(z)

`*` is convolution. Rows are flattened images; states are stacks of maps, (n, h, w, channels).
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Key

from implicit_ntk._checks import check_positive
from implicit_ntk.equilibrium import Anderson, Method
from implicit_ntk.networks import _activations as activations
from implicit_ntk.networks._draw import check_trained, readout_shape
from implicit_ntk.networks._dtype import float_type
from implicit_ntk.networks._network import AbstractNetwork
from implicit_ntk.networks._shapes import check_shapes

TRAINABLE = ("V", "W1", "W2", "norm1", "norm2", "norm3", "u")
EPSILON = 1e-5
Maps = Float[Array, "n h w c"]


def _plain(value: Any) -> Any:
    """NumPy's integers as Python's, also in a tuple: `save` writes no others."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, np.integer) else value


class ConvImplicit(AbstractNetwork):
    """The convolutional equilibrium network of N22, eq. (4.1).

    **Leaves:** the filters `V`, `W1`, `W2` (size, size, in, out); `norm1`, `norm2`, `norm3`
    (2, channels), the scales and shifts of the group norms; the read-out `u` (features,) or
    (features, k).
    **Static:** `image_shape` (h, w, c), `stride` of the injection, `groups` of each norm, `pool` (the
    window of the average pooling), `activation` (relu in the thesis), `norms` (which are on),
    `trained`.

    No certificate of it is known: `contraction()` is infinite. Norms bound the state, which makes
    neither the equilibrium unique nor the iteration converge.

    Build one with `ConvImplicit.init`.
    """

    V: Float[Array, "s s c channels"]
    W1: Float[Array, "s s channels inner"]
    W2: Float[Array, "s s inner channels"]
    norm1: Float[Array, "2 inner"]
    norm2: Float[Array, "2 channels"]
    norm3: Float[Array, "2 channels"]
    u: Float[Array, "features *out"]
    image_shape: tuple[int, int, int] = eqx.field(static=True, converter=_plain)
    stride: int = eqx.field(static=True, default=1, converter=_plain)
    groups: int = eqx.field(static=True, default=8, converter=_plain)
    pool: tuple[int, int] = eqx.field(static=True, default=(1, 1), converter=_plain)
    activation: activations.Activation = eqx.field(static=True, default="relu")
    norms: tuple[bool, bool, bool] = eqx.field(static=True, default=(True, True, True))
    trained: tuple[str, ...] = eqx.field(static=True, default=TRAINABLE)

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        image_shape: tuple[int, int, int],
        channels: int = 48,
        inner_channels: int = 64,
        outputs: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 8,
        weight_scale: float = 0.01,
        pool: int | None = None,
        activation: activations.Activation = "relu",
        norms: tuple[bool, bool, bool] = (True, True, True),
        trained: tuple[str, ...] = TRAINABLE,
        dtype: DTypeLike | None = None,
    ) -> "ConvImplicit":
        """Draw a network.

        **Arguments:**

        - `image_shape`: (h, w, c); a row of `X` is an image flattened in this order.
        - `outputs`: None for one output (n,), k for (n, k).
        - `stride`: of the injection, whose maps are (ceil(h / stride), ceil(w / stride)).
        - `groups`: of each group norm; divides `channels` and `inner_channels`.
        - `weight_scale`: the standard deviation of `W1` and `W2`. N22 writes N(0, 0.01), which is read
          here as its code and the tutorial that it follows have it: a standard deviation of 0.01. With
          `norm1` on, that of `W1` hardly matters.
        - `pool`: the side of the average pooling's window, which divides the maps' sides; None for the
          mean of each map.
        - `norms`: which of the three norms are on.

        `V` is N(0, 1/fan-in), `u` is N(0, 1/features), scales are one and shifts zero.

        **Raises:** `ValueError` for sizes, names or options out of range.
        """
        sizes = dict(channels=channels, inner_channels=inner_channels, kernel_size=kernel_size, stride=stride)
        for name, size in sizes.items():
            check_positive(size, name)
        if outputs is not None:
            check_positive(outputs, "outputs")
        _check_fields(image_shape, groups, (channels, inner_channels), activation, norms, trained)
        _check_scale(weight_scale)
        maps = _map_shape(image_shape, stride)
        window = _window(pool, maps)
        features = channels * (maps[0] // window[0]) * (maps[1] // window[1])
        filters = (kernel_size, kernel_size)
        shapes = {
            "V": (*filters, image_shape[2], channels),
            "W1": (*filters, channels, inner_channels),
            "W2": (*filters, inner_channels, channels),
            "u": readout_shape(features, outputs),
        }
        return cls(
            **_draw(key, shapes, weight_scale, float_type(dtype)),
            image_shape=image_shape,
            stride=stride,
            groups=groups,
            pool=window,
            activation=activation,
            norms=norms,
            trained=tuple(trained),
        )

    def __check_init__(self) -> None:
        check_shapes(self)
        channels = (self.norm2.shape[-1], self.norm1.shape[-1])
        _check_fields(self.image_shape, self.groups, channels, self.activation, self.norms, self.trained)

    @property
    def in_size(self) -> int:
        """The number d = h w c of input features."""
        return math.prod(self.image_shape)

    def inject(self, X: Float[Array, "n d"]) -> Maps:
        """`V * x`, the part of the cell's input that is the image's."""
        return _convolve(X.reshape(X.shape[0], *self.image_shape), self.V, self.stride)

    @property
    def injection_is_fixed(self) -> bool:
        """True unless `V` is trained."""
        return "V" not in self.trained

    def initial_state(self, phi: Maps) -> Maps:
        """Zeros."""
        return jnp.zeros_like(phi)

    def cell(self, z: Maps, phi: Maps) -> Maps:
        """`norm3(relu(z + norm2(phi + W2 * norm1(relu(W1 * z)))))`, N22 (4.1)."""
        inner = self._norm(0, self._activate(_convolve(z, self.W1)), self.norm1)
        residual = self._norm(1, phi + _convolve(inner, self.W2), self.norm2)
        return self._norm(2, self._activate(z + residual), self.norm3)

    def readout(self, z: Maps, phi: Maps) -> Float[Array, "n *out"]:
        """`u . pool(z)`; the pooled maps are flattened in the order (h, w, channels)."""
        (n, h, w, channels), (a, b) = z.shape, self.pool
        means = jnp.mean(z.reshape(n, h // a, a, w // b, b, channels), axis=(2, 4))
        return means.reshape(n, -1) @ self.u

    def default_method(self) -> Method:
        """Anderson for the equilibrium, and for its derivatives."""
        return Method.of(Anderson())

    def _activate(self, x: Maps) -> Maps:
        return activations.apply(self.activation, x)

    def _norm(self, index: int, x: Maps, affine: Float[Array, "2 c"]) -> Maps:
        return group_norm(x, affine, self.groups) if self.norms[index] else x


def norm_ablations(net: ConvImplicit) -> dict[str, ConvImplicit]:
    """The network as it is, without each of its norms, and without any: same leaves, other cells.

    Keys `"as is"`, `"no norm1"`, `"no norm2"`, `"no norm3"`, `"no norms"`. Solve each, with
    `Method(on_failure="report")`, to see which norm keeps the cell well posed.

    Raises `TypeError` for another network.
    """
    if not isinstance(net, ConvImplicit):
        raise TypeError(f"net must be a ConvImplicit, got {type(net).__name__}")

    def without(*off: int) -> ConvImplicit:
        norms = tuple(on and i not in off for i, on in enumerate(net.norms))
        return dataclasses.replace(net, norms=norms)

    single = {f"no norm{i + 1}": without(i) for i in range(3)}
    return {"as is": net, **single, "no norms": without(0, 1, 2)}


def group_norm(x: Maps, affine: Float[Array, "2 c"], groups: int) -> Maps:
    """Each image's groups of channels centred and divided by their deviation; then scaled and shifted.

    The variance is that of the group, biased, plus 1e-5 (Wu and He 2018, eq. (7)).
    """
    n, h, w, c = x.shape
    grouped = x.reshape(n, h, w, groups, c // groups)
    centred = grouped - jnp.mean(grouped, axis=(1, 2, 4), keepdims=True)
    variance = jnp.mean(centred**2, axis=(1, 2, 4), keepdims=True)
    scale, shift = affine[:, None, None, None]
    return (centred * lax.rsqrt(variance + EPSILON)).reshape(x.shape) * scale + shift


def _convolve(x: Maps, filters: Float[Array, "s s c o"], stride: int = 1) -> Float[Array, "n i j o"]:
    """Zero padding, so that the maps keep their sides (over the stride)."""
    return lax.conv_general_dilated(
        x, filters, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _draw(
    key: Key[Array, ""], shapes: dict[str, tuple[int, ...]], weight_scale: float, dtype: DTypeLike
) -> dict[str, Float[Array, "..."]]:
    """The leaves; the norms have as many channels as the filters put out."""
    fan_in = math.prod(shapes["V"][:-1])
    scales = dict(V=fan_in**-0.5, W1=weight_scale, W2=weight_scale, u=shapes["u"][0] ** -0.5)
    keys = jax.random.split(key, len(shapes))
    leaves = {
        name: jnp.asarray(scales[name], dtype) * jax.random.normal(k, shape, dtype)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    for norm, filters in {"norm1": "W1", "norm2": "W2", "norm3": "W2"}.items():
        ones = jnp.ones(shapes[filters][-1], dtype)
        leaves[norm] = jnp.stack([ones, jnp.zeros_like(ones)])
    return leaves


def _map_shape(image_shape: tuple[int, int, int], stride: int) -> tuple[int, int]:
    return -(-image_shape[0] // stride), -(-image_shape[1] // stride)


def _window(pool: int | None, maps: tuple[int, int]) -> tuple[int, int]:
    if pool is None:
        return maps
    check_positive(pool, "pool")
    if maps[0] % pool or maps[1] % pool:
        raise ValueError(f"pool must divide the maps' sides {maps}, got {pool}; pass None for their means")
    return pool, pool


def _check_scale(weight_scale: float) -> None:
    number = isinstance(weight_scale, int | float | np.number) and not isinstance(weight_scale, bool)
    if not number or not 0 <= weight_scale < math.inf:
        raise ValueError(f"weight_scale must be a finite number, not negative, got {weight_scale!r}")


def _check_fields(
    image_shape: tuple,
    groups: int,
    channels: tuple,
    activation: activations.Activation,
    norms: tuple,
    trained: tuple,
) -> None:
    if not isinstance(image_shape, tuple) or len(image_shape) != 3:
        raise ValueError(f"image_shape must be (height, width, channels), got {image_shape!r}")
    for side in image_shape:
        check_positive(side, "image_shape")
    check_positive(groups, "groups")
    if any(count % groups for count in channels):
        raise ValueError(f"groups must divide channels and inner_channels, {channels}, got {groups}")
    activations.check_activation(activation, "activation")
    if not isinstance(norms, tuple) or len(norms) != 3 or not all(isinstance(on, bool) for on in norms):
        raise ValueError(f"norms must be three of True and False, got {norms!r}")
    check_trained(trained, TRAINABLE)
