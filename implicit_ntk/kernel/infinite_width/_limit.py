"""The kernel of a network of infinite width: the limit of `ink.ntk` as m grows."""

import math
import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from implicit_ntk._checks import AnyArray, check_batch, check_positive
from implicit_ntk._memory import require_memory
from implicit_ntk.kernel.infinite_width._architecture import Architecture, architecture_of
from implicit_ntk.kernel.infinite_width._finite_width import Bias, FiniteWidth
from implicit_ntk.kernel.infinite_width._monte_carlo import SEEDS, monte_carlo
from implicit_ntk.kernel.infinite_width._redraw import redraw
from implicit_ntk.networks import AbstractNetwork

Kernel = Float[Array, "..."]
Blocks = dict[str, Kernel]
PROBE = 256
"""The width at which corrections to the limit are measured."""
WORKING = 16
"""How many (n1, n2) arrays the computation holds beside the result."""


class LimitKernel(eqx.Module):
    """The limit kernel, `ntk`, the share of each trained leaf, `blocks`, and how far a draw lies from it."""

    blocks: Blocks
    net: AbstractNetwork
    X1: Float[Array, "n1 d"]
    X2: Float[Array, "n2 d"] | None

    @property
    def ntk(self) -> Kernel:
        """The sum of the blocks, (n1, n2), or (n1, k, n2, k) with k outputs."""
        return jax.tree.reduce(operator.add, self.blocks)

    def finite_width(
        self, width: int, key: Key[Array, ""] | None = None, seeds: int = SEEDS, probe_width: int = PROBE
    ) -> FiniteWidth:
        """How kernels of this width lie about the limit: their spread, and the bias of their mean.

        `seeds` networks of this architecture are drawn at `probe_width`, with i.i.d. Gaussian weights. Their
        standard deviation is taken to the width by the law `m^(-1/2)`, the difference of their mean and
        the limit by the law `1/m`. Both laws are asymptotic: near the edge in gamma0 take a `probe_width`
        close to `width`. The standard deviation is itself uncertain by a share of about
        `1 / sqrt(2 (seeds - 1))`. A bias within some standard errors of zero is not resolved: that takes
        more `seeds`, or a smaller `probe_width`.

        **Arguments:** `key`, None for a fixed one.

        **Raises:** `ValueError` unless the widths are positive and `seeds` is at least 2; as `ink.ntk`.
        """
        check_positive(width, "width")
        check_positive(probe_width, "probe_width")
        drawn = monte_carlo(lambda key: redraw(self.net, key, probe_width), self.X1, self.X2, key, seeds)
        ratio = probe_width / width
        bias = Bias((drawn.mean - self.ntk) * ratio, drawn.stderr * ratio)
        return FiniteWidth(drawn.std * ratio**0.5, bias)

    def stderr(
        self, width: int, key: Key[Array, ""] | None = None, seeds: int = SEEDS, probe_width: int = PROBE
    ) -> Kernel:
        """The standard deviation over draws of each entry of `ink.ntk` at this width; see `finite_width`."""
        return self.finite_width(width, key, seeds, probe_width).std

    def bias(
        self, width: int, key: Key[Array, ""] | None = None, seeds: int = SEEDS, probe_width: int = PROBE
    ) -> Bias:
        """What the mean of `ink.ntk` at this width has over the limit, with its standard error.

        See `finite_width`, which has the standard deviation of the same draws beside it.
        """
        return self.finite_width(width, key, seeds, probe_width).bias


def kernel(
    net: AbstractNetwork, X1: Float[AnyArray, "n1 d"], X2: Float[AnyArray, "n2 d"] | None = None
) -> LimitKernel:
    """The limit of `ink.ntk(net, X1, X2)` as the width grows, with its blocks and its fluctuations.

    For `ReluImplicit` and `ReluImplicitFull` with relu or identity activations, their weight-tied and
    centred forms, and whatever leaves they train. With `K = E[z z']` at the fixed point, `S` and `T` the
    moments of the slopes and `Pi = 1 / (1 - gamma0^2 S)`, elementwise,

        GG22:   A: gamma0^2 K S Pi,   W: T Pi XX,         b: K
        GLL22:  A: gamma0^2 K S Pi,   W: (T Pi + P1) XX,  u: K,   v: P0

    and `P0 = G_inf`, `P1` the moments of the injection and its slope. An identity injection
    makes the fixed point `C = gamma0^2 K + XX`, `K = sqrt(C_ii C_jj) kappa1(corr C)`.

    The weights are taken to be i.i.d. of mean zero and variance one, or such pairs of halves as
    `paired=True` draws: only `net.gamma0 = gamma sqrt(m)` and the static fields are read, and a network
    cannot tell how it was drawn. Entries that are not centred, or not independent, have other limits:
    see `half_normal` and `diagonal`. With `scaling="operator_norm"` `net.gamma0` is about half of what
    was asked for, and varies from draw to draw.

    Differentiable in `net.gamma` (to the third order) and in the inputs; traceable. Relative to the
    largest entry good to about 1e-6 in float32 and 1e-12 in float64, times `Pi` near the edge.

    **Arguments:** `X1` (n1, d), of any norms; `X2` (n2, d), None for `X1`.

    **Raises:** `ValueError` where no limit is known, or where none exists: for
    `gamma0^2 >= 2` at equilibrium (1 for a linear cell); `MemoryError` where it is past the limit.
    """
    architecture, gamma0 = architecture_of(net)
    leaves = jax.tree.leaves(net)
    X1 = check_batch(X1, net.in_size, leaves, "X1")
    X2 = None if X2 is None else check_batch(X2, net.in_size, leaves, "X2")
    size = X1.shape[0] * (X1 if X2 is None else X2).shape[0] * X1.dtype.itemsize
    matrices = len(architecture.trained) * math.prod(net.out_shape) ** 2 + WORKING
    require_memory(matrices * size, "the limit kernel", "pass fewer samples")
    square = architecture.check(gamma0**2)
    return LimitKernel(_blocks(architecture, square, X1, X2, net.out_shape), net, X1, X2)


def ntk(
    net: AbstractNetwork, X1: Float[AnyArray, "n1 d"], X2: Float[AnyArray, "n2 d"] | None = None
) -> Kernel:
    """The limit of `ink.ntk(net, X1, X2)` as the width grows; see `kernel`, whose arguments these are.

    **Returns:** (n1, n2), or (n1, k, n2, k) with k outputs: between different outputs it is zero.
    """
    return kernel(net, X1, X2).ntk


def ntk_blocks(
    net: AbstractNetwork, X1: Float[AnyArray, "n1 d"], X2: Float[AnyArray, "n2 d"] | None = None
) -> Blocks:
    """The limit of `ink.ntk_blocks(net, X1, X2)`, `{"A": H_A, ...}`; see `kernel`."""
    return kernel(net, X1, X2).blocks


@eqx.filter_jit
def _blocks(
    architecture: Architecture,
    square: Float[Array, ""],
    X1: Float[Array, "n1 d"],
    X2: Float[Array, "n2 d"] | None,
    out: tuple[int, ...],
) -> Blocks:
    blocks = architecture.blocks(square, X1, X1 if X2 is None else X2)
    return {name: _per_output(H, out) for name, H in blocks.items()}


def _per_output(H: Float[Array, "n1 n2"], out: tuple[int, ...]) -> Kernel:
    """One kernel an output, and zero between outputs: their read-outs are independent."""
    if not out:
        return H
    return H[:, None, :, None] * jnp.eye(*out, dtype=H.dtype)[None, :, None, :]
