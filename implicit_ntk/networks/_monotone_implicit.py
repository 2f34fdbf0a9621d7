"""N22's network: weights parametrised so that the cell is monotone, whatever their size.

    z = sigma(W z + U x),    W = (1 - mu) I - A^T A + B - B^T,    f(x) = u.z

The symmetric part of `I - W` is at least `mu I`, mu the `monotonicity`: the equilibrium exists and is
unique although `||W||` may exceed one (Winston and Kolter 2020). Rows are samples:
`Z = sigma(Z W^T + X U^T)`.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from implicit_ntk._checks import Number, check_number, check_positive_number
from implicit_ntk.equilibrium import AffineMap, Method, PeacemanRachford
from implicit_ntk.networks import _activations as activations, init
from implicit_ntk.networks._choice import Choice, monotone_cell, unknown_cell, value_of
from implicit_ntk.networks._draw import (
    check_initialiser,
    check_sizes,
    check_trained,
    draw_layer,
    swapped,
)
from implicit_ntk.networks._dtype import float_type
from implicit_ntk.networks._factors import GradientFactors, OuterProduct, per_output, unit_outputs
from implicit_ntk.networks._network import AbstractNetwork
from implicit_ntk.networks._norm import operator_norm
from implicit_ntk.networks._shapes import check_shapes

TRAINABLE = ("A", "B", "U", "u")
UNIFORM = 3**-0.5
"""The standard deviation of the uniform law on [-1, 1]."""


class MonotoneInjection(eqx.Module):
    """What does not change while an equilibrium is sought: `W` is formed once a solve, not every step."""

    weight: Float[Array, "m m"]
    """`W^T`."""
    offset: Float[Array, "n m"]
    """`X U^T`."""


class MonotoneImplicit(AbstractNetwork):
    """The monotone equilibrium network of N22, chapter 3; `A`, `B`, `U` and `u` are trained there.

    **Leaves:** `A` and `B` (m, m), `U` (m, d), `u` (m,), or (m, k) for k outputs, and the scalar
    `monotonicity`, mu of the formula above: positive, it certifies the network.
    **Static:** `activation` (the cell's sigma: monotone and 1-Lipschitz, relu in the thesis), `trained`.

    Build one with `MonotoneImplicit.init`.
    """

    A: Float[Array, "m m"]
    B: Float[Array, "m m"]
    U: Float[Array, "m d"]
    u: Float[Array, "m *out"]
    monotonicity: Float[Array, ""]
    activation: activations.Activation = eqx.field(static=True, default="relu")
    trained: tuple[str, ...] = eqx.field(static=True, default=TRAINABLE)

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        in_size: int,
        width: int,
        monotonicity: Number = 1.0,
        outputs: int | None = None,
        activation: activations.Activation = "relu",
        a_init: init.Initialiser = init.normal,
        scale: Number = UNIFORM,
        injection_scale: Number = 1.0,
        readout_scale: Number = 1.0,
        paired: bool = False,
        trained: tuple[str, ...] = TRAINABLE,
        dtype: DTypeLike | None = None,
    ) -> "MonotoneImplicit":
        """Draw a network.

        **Arguments:**

        - `monotonicity`: mu > 0, the least eigenvalue that `I - sym(W)` may have.
        - `outputs`: None for a scalar output (n,), k for outputs (n, k).
        - `a_init`, `scale`: `A` and `B` are `scale / sqrt(m)` times what `a_init` draws; see
          `implicit_ntk.init`. The default `3^(-1/2)` gives the variance of the uniform law on
          `[-1, 1] / sqrt(m)`, which implementations of monotone networks draw from.
        - `injection_scale`: `U` is that times N(0, 1). N22's conditions want it large.
        - `readout_scale`: `u` is that times N(0, 1) / sqrt(m); zero makes the outputs zero.
        - `paired`: `A` and `B` of the form `[[A1, A2], [A2, A1]]`, the rows of `U` doubled,
          `u = (u1, -u1)` (m even), for which the outputs are zero at initialisation. Meant for an `a_init`
          of i.i.d. and centred entries, which is your word for a function of your own.
        - `trained`: names among `"A"`, `"B"`, `"U"`, `"u"`.
        - `dtype`: JAX's default float type if None.

        **Raises:** `ValueError` for sizes, names or options out of range, and for `paired` structured
        weights. Warns when entries that are not centred are `paired`.
        """
        out = check_sizes(in_size, width, outputs, paired)
        check_positive_number(monotonicity, "monotonicity")
        scales = {"scale": scale, "injection_scale": injection_scale, "readout_scale": readout_scale}
        for name, value in scales.items():
            check_number(value, name)
        _check_fields(activation, trained)
        check_initialiser(a_init, paired)
        dtype = float_type(dtype)
        draw = _draw_paired if paired else _draw
        A, B, U, u = draw(key, in_size, width, out, a_init, dtype)
        root = jnp.sqrt(jnp.asarray(width, dtype))
        of_layer, of_injection, of_readout = (jnp.asarray(value, dtype) for value in scales.values())
        return cls(
            A=of_layer / root * A,
            B=of_layer / root * B,
            U=of_injection * U,
            u=of_readout / root * u,
            monotonicity=jnp.asarray(monotonicity, dtype),
            activation=activation,
            trained=tuple(trained),
        )

    def __check_init__(self) -> None:
        check_shapes(self)
        _check_fields(self.activation, self.trained)

    @property
    def in_size(self) -> int:
        """The number d of input features."""
        return self.U.shape[-1]

    @property
    def width(self) -> int:
        """The number m of units."""
        return self.A.shape[-1]

    @property
    def W(self) -> Float[Array, "m m"]:
        """`(1 - mu) I - A^T A + B - B^T`, in full precision: certificates are read from it."""
        with jax.default_matmul_precision("highest"):
            return self._formed()

    def inject(self, X: Float[Array, "n d"]) -> MonotoneInjection:
        """`X U^T`, and `W^T`."""
        return MonotoneInjection(self._formed().T, X @ self.U.T)

    @property
    def injection_is_fixed(self) -> bool:
        """True if none of `A`, `B`, `U` is trained."""
        return not {"A", "B", "U"} & set(self.trained)

    def initial_state(self, phi: MonotoneInjection) -> Float[Array, "n m"]:
        """`sigma(X U^T)`: what the cell makes of zero."""
        return activations.apply(self.activation, phi.offset)

    def cell(self, z: Float[Array, "n m"], phi: MonotoneInjection) -> Float[Array, "n m"]:
        """`sigma(Z W^T + X U^T)`."""
        return self.affine(phi)(z)

    def affine(self, phi: MonotoneInjection) -> AffineMap:
        """The weights `W^T`, the scale one, the offset `X U^T`."""
        return AffineMap(
            phi.weight,
            jnp.ones((), phi.weight.dtype),
            phi.offset,
            activations.function(self.activation),
            activations.is_projection(self.activation),
        )

    def cell_pullback(
        self, z: Float[Array, "n m"], phi: MonotoneInjection
    ) -> Callable[[Float[Array, "n m"]], Float[Array, "n m"]]:
        """`P -> (sigma' o P) W`, the slopes computed once."""
        slopes = self.affine(phi).slopes(z)
        return lambda p: (slopes * p) @ phi.weight.T

    def readout(self, z: Float[Array, "n m"], phi: MonotoneInjection) -> Float[Array, "n *out"]:
        """`Z u`."""
        return z @ self.u

    def contraction(self) -> Float[Array, ""]:
        """`||W||`. It may exceed one: what certifies this network is `monotonicity > 0`."""
        return operator_norm(self.W)

    def lipschitz(self) -> Float[Array, ""]:
        """`L = ||I - W||`: forward-backward splitting converges for steps in the open `(0, 2 mu / L^2)`."""
        return operator_norm(jnp.eye(self.width, dtype=self.A.dtype) - self.W)

    def default_method(self) -> Method:
        """Peaceman-Rachford splitting; Anderson and GMRES where sigma is no projection."""
        if activations.is_projection(self.activation):
            return Method.of(PeacemanRachford())
        return unknown_cell().method

    def choose(self) -> Choice:
        """By the norms of `W` and of `I - W`: see `implicit_ntk.choose`."""
        if not activations.is_projection(self.activation):
            return unknown_cell()
        numbers = (self.monotonicity, self.contraction(), self.lipschitz())
        return monotone_cell(*map(value_of, numbers))

    def gradient_factors(
        self,
        X: Float[Array, "n d"],
        phi: MonotoneInjection,
        z: Float[Array, "n m"],
        p: Float[Array, "n *out m"],
    ) -> GradientFactors:
        """Per-sample gradients of the outputs, given equilibria `z` and adjoint states `p`.

        With `v_i = sigma'_i o p_i`: `df_i/dA = -A (v_i z_i^T + z_i v_i^T)`,
        `df_i/dB = v_i z_i^T - z_i v_i^T`, `df_i/dU = v_i x_i^T`, `df_i/du = z_i` (N22, Lemma 3.2.2).
        """
        v = per_output(self.affine(phi).slopes(z), p) * p
        rows, images = per_output(z, p), per_output(-z @ self.A.T, p)
        factors = {
            "A": lambda: (OuterProduct(-v @ self.A.T, rows), OuterProduct(images, v)),
            "B": lambda: (OuterProduct(v, rows), OuterProduct(-rows, v)),
            "U": lambda: (OuterProduct(v, per_output(X, p)),),
            "u": lambda: (OuterProduct(per_output(z, p), unit_outputs(p)),),
        }
        return {name: factors[name]() for name in self.trained}

    def _formed(self) -> Float[Array, "m m"]:
        """`W` in the precision of the context."""
        identity = jnp.eye(self.width, dtype=self.A.dtype)
        return (1 - self.monotonicity) * identity - self.A.T @ self.A + self.B - self.B.T


def _check_fields(activation: activations.Activation, trained: tuple[str, ...]) -> None:
    activations.check_activation(activation, "activation")
    check_trained(trained, TRAINABLE)


def _draw(
    key: Key[Array, ""], d: int, m: int, out: tuple[int, ...], a_init: init.Initialiser, dtype: DTypeLike
) -> tuple[Array, Array, Array, Array]:
    key_a, key_b, key_injection, key_readout = jax.random.split(key, 4)
    return (
        draw_layer(key_a, m, a_init, dtype),
        draw_layer(key_b, m, a_init, dtype),
        jax.random.normal(key_injection, (m, d), dtype),
        jax.random.normal(key_readout, (m, *out), dtype),
    )


def _draw_paired(
    key: Key[Array, ""], d: int, m: int, out: tuple[int, ...], a_init: init.Initialiser, dtype: DTypeLike
) -> tuple[Array, Array, Array, Array]:
    """The halves of state and injection are equal, those of the read-out opposite: the outputs vanish.

    Products, sums and transposes of `[[A1, A2], [A2, A1]]` have that form again, and so has `W`.
    """
    key_first, key_a, key_b = jax.random.split(key, 3)
    A1, B1, U1, u1 = _draw(key_first, d, m // 2, out, a_init, dtype)
    A = swapped(A1, draw_layer(key_a, m // 2, a_init, dtype))
    B = swapped(B1, draw_layer(key_b, m // 2, a_init, dtype))
    return A, B, jnp.concatenate([U1, U1]), jnp.concatenate([u1, -u1])
