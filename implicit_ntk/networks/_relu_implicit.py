"""GG22's network: an implicit layer between a random injection and a random read-out.

    z = sigma(gamma A^T z + phi(W^T x)),    f(x) = z.b / sqrt(m),    gamma = gamma0 / sqrt(m)

Rows are samples: `Z = sigma(gamma Z A + Phi)`, `Phi = phi(X W)`. With k outputs `b` has k columns.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from implicit_ntk._checks import Number, check_choice
from implicit_ntk.equilibrium import AffineMap
from implicit_ntk.networks import _activations as activations, init
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
from implicit_ntk.networks._scaling import SCALINGS, check_gamma0, gamma_of, warn_if_ill_posed
from implicit_ntk.networks._shapes import check_shapes

TRAINABLE = ("A", "W", "b")


class ReluImplicit(AbstractNetwork):
    """The implicit network of GG22, eq. (1)-(3); only `A` is trained there.

    **Leaves:** `A` (m, m), `W` (d, m), `b` (m,) or (m, k), and the scalar `gamma` of the formula above.
    **Static:** `injection_activation` (the paper's phi), `activation` (the cell's sigma: relu in the
    paper; identity has closed forms, tanh is smooth), `trained`.

    Build one with `ReluImplicit.init`.
    """

    A: Float[Array, "m m"]
    W: Float[Array, "d m"]
    b: Float[Array, "m *out"]
    gamma: Float[Array, ""]
    injection_activation: activations.Activation = eqx.field(static=True, default="relu")
    activation: activations.Activation = eqx.field(static=True, default="relu")
    trained: tuple[str, ...] = eqx.field(static=True, default=("A",))

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        in_size: int,
        width: int,
        gamma0: Number = 0.4,
        injection_activation: activations.Activation = "relu",
        activation: activations.Activation = "relu",
        a_init: init.Initialiser = init.normal,
        scaling: str = "width",
        paired: bool = False,
        trained: tuple[str, ...] = ("A",),
        dtype: DTypeLike | None = None,
        outputs: int | None = None,
    ) -> "ReluImplicit":
        """Draw a network.

        **Arguments:**

        - `gamma0`: the scale. `scaling="width"`: `gamma = gamma0 / sqrt(m)`, the papers'; Gaussian
          weights are certified for `gamma0 < 1/2`. `scaling="operator_norm"`:
          `gamma = gamma0 / ||A||`, certified for `gamma0 < 1` whatever the weights.
        - `a_init`: draws `A`; see `implicit_ntk.init`.
        - `paired`: `A = [[A1, A2], [A2, A1]]`, `W = [W1, W1]`, `b = (b1, -b1)` with independent halves
          (m even), for which `u = 0` at initialisation. The limit kernel is unchanged where the entries
          that `a_init` draws are i.i.d. and centred, which is your word for a function of your own.
        - `trained`: names among `"A"`, `"W"`, `"b"`.
        - `dtype`: JAX's default float type if None.
        - `outputs`: None for a scalar output, `u` (n,); k for `u` (n, k), each with its own column of `b`.

        **Raises:** `ValueError` for sizes, names or options out of range, and for `paired` structured
        weights. Warns when entries that are not centred meet `scaling="width"`: such a network diverges
        with the width; or meet `paired`: the limit kernel is then another.
        """
        out = check_sizes(in_size, width, outputs, paired)
        check_choice(scaling, SCALINGS, "scaling")
        check_gamma0(gamma0)
        _check_fields(injection_activation, activation, trained)
        check_initialiser(a_init, paired)
        warn_if_ill_posed(a_init, scaling)
        dtype = float_type(dtype)
        draw = _draw_paired if paired else _draw
        A, W, b = draw(key, in_size, width, out, a_init, dtype)
        gamma = gamma_of(A, gamma0, scaling)
        return cls(
            A=A,
            W=W,
            b=b,
            gamma=gamma,
            injection_activation=injection_activation,
            activation=activation,
            trained=tuple(trained),
        )

    def __check_init__(self) -> None:
        check_shapes(self)
        _check_fields(self.injection_activation, self.activation, self.trained)

    @property
    def in_size(self) -> int:
        """The number d of input features."""
        return self.W.shape[-2]

    @property
    def width(self) -> int:
        """The number m of units."""
        return self.A.shape[-1]

    @property
    def gamma0(self) -> Float[Array, ""]:
        """`gamma sqrt(m)`, the scale that the papers quote."""
        return self.gamma * jnp.sqrt(jnp.asarray(self.width, self.gamma.dtype))

    def inject(self, X: Float[Array, "n d"]) -> Float[Array, "n m"]:
        """`Phi = phi(X W)`."""
        return activations.apply(self.injection_activation, X @ self.W)

    @property
    def injection_is_fixed(self) -> bool:
        """True unless `W` is trained."""
        return "W" not in self.trained

    def initial_state(self, phi: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """`sigma(Phi)`: what the cell makes of zero, without the product that zero would cost."""
        return activations.apply(self.activation, phi)

    def cell(self, z: Float[Array, "n m"], phi: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """`sigma(gamma Z A + Phi)`."""
        return self.affine(phi)(z)

    def affine(self, phi: Float[Array, "n m"]) -> AffineMap:
        """The weights `A`, the scale `gamma`, the offset `Phi`."""
        return AffineMap(
            self.A,
            self.gamma,
            phi,
            activations.function(self.activation),
            activations.is_projection(self.activation),
        )

    def cell_pullback(
        self, z: Float[Array, "n m"], phi: Float[Array, "n m"]
    ) -> Callable[[Float[Array, "n m"]], Float[Array, "n m"]]:
        """`P -> gamma (sigma' o P) A^T`, the slopes computed once."""
        slopes = self.gamma * self.affine(phi).slopes(z)
        return lambda p: (slopes * p) @ self.A.T

    def readout(self, z: Float[Array, "n m"], phi: Float[Array, "n m"]) -> Float[Array, "n *out"]:
        """`Z b / sqrt(m)`."""
        return z @ self.b / self._root_width(z)

    def contraction(self) -> Float[Array, ""]:
        """`gamma ||A||`; below one the equilibrium exists and is unique (GG22, Lemma A.5)."""
        return jnp.abs(self.gamma) * operator_norm(self.A)

    def gradient_factors(
        self,
        X: Float[Array, "n d"],
        phi: Float[Array, "n m"],
        z: Float[Array, "n m"],
        p: Float[Array, "n *out m"],
    ) -> GradientFactors:
        """Per-sample gradients of the outputs, given equilibria `z` and adjoint states `p`.

        With `lam_i = sigma'_i o p_i`: `df_i/dA = gamma z_i lam_i^T` (GG22, eq. (8)),
        `df_i/dW = x_i (phi'_i o lam_i)^T`, `df_i/db = z_i / sqrt(m)`; with k outputs `p`, and so `lam`,
        has a row for each, and that of `b` is `z_i e_c^T / sqrt(m)`.
        """
        lam = p * per_output(self.affine(phi).slopes(z), p)
        factors = {
            "A": lambda: OuterProduct(per_output(self.gamma * z, p), lam),
            "W": lambda: OuterProduct(per_output(X, p), lam * per_output(self._injection_slope(X), p)),
            "b": lambda: OuterProduct(per_output(z / self._root_width(z), p), unit_outputs(p)),
        }
        return {name: (factors[name](),) for name in self.trained}

    def _root_width(self, z: Float[Array, "n m"]) -> Float[Array, ""]:
        return jnp.sqrt(jnp.asarray(self.width, z.dtype))

    def _injection_slope(self, X: Float[Array, "n d"]) -> Float[Array, "n m"]:
        return activations.slope(self.injection_activation, X @ self.W)


def _check_fields(
    injection_activation: activations.Activation,
    activation: activations.Activation,
    trained: tuple[str, ...],
) -> None:
    activations.check_activation(injection_activation, "injection_activation")
    activations.check_activation(activation, "activation")
    check_trained(trained, TRAINABLE)


def _draw(
    key: Key[Array, ""], d: int, m: int, out: tuple[int, ...], a_init: init.Initialiser, dtype: DTypeLike
) -> tuple:
    key_a, key_w, key_b = jax.random.split(key, 3)
    A = draw_layer(key_a, m, a_init, dtype)
    return A, jax.random.normal(key_w, (d, m), dtype), jax.random.rademacher(key_b, (m, *out), dtype)


def _draw_paired(
    key: Key[Array, ""], d: int, m: int, out: tuple[int, ...], a_init: init.Initialiser, dtype: DTypeLike
) -> tuple:
    """Both halves of the state are equal and both halves of the adjoint opposite: `u = 0`."""
    key_first, key_second = jax.random.split(key)
    A1, W1, b1 = _draw(key_first, d, m // 2, out, a_init, dtype)
    A2 = draw_layer(key_second, m // 2, a_init, dtype)
    return swapped(A1, A2), jnp.concatenate([W1, W1], 1), jnp.concatenate([b1, -b1])
