"""GLL22's network: every layer is trained, and the read-out sees the injection too.

    phi = phi(W x) / sqrt(m),    z = sigma(gamma A z + phi),    f(x) = u.z + v.phi

with `gamma = gamma0 / sqrt(m)`.

Rows are samples: `Phi = phi(X W^T) / sqrt(m)`, `Z = sigma(gamma Z A^T + Phi)`, `f = Z u + Phi v`.
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

TRAINABLE = ("A", "W", "u", "v")


class ReluImplicitFull(AbstractNetwork):
    """The implicit network of GLL22; `A`, `W`, `u` and `v` are trained there.

    **Leaves:** `A` (m, m), `W` (m, d), `u` and `v` (m,), or (m, k) for k outputs, and the scalar
    `gamma` of the formula above.
    **Static:** `injection_activation` (of `W x`), `activation` (the cell's sigma), both relu in the
    paper; `trained`.

    Build one with `ReluImplicitFull.init`.
    """

    A: Float[Array, "m m"]
    W: Float[Array, "m d"]
    u: Float[Array, "m *out"]
    v: Float[Array, "m *out"]
    gamma: Float[Array, ""]
    injection_activation: activations.Activation = eqx.field(static=True, default="relu")
    activation: activations.Activation = eqx.field(static=True, default="relu")
    trained: tuple[str, ...] = eqx.field(static=True, default=TRAINABLE)

    @classmethod
    def init(
        cls,
        key: Key[Array, ""],
        in_size: int,
        width: int,
        gamma0: Number = 0.1,
        outputs: int | None = None,
        injection_activation: activations.Activation = "relu",
        activation: activations.Activation = "relu",
        a_init: init.Initialiser = init.normal,
        scaling: str = "width",
        paired: bool = False,
        trained: tuple[str, ...] = TRAINABLE,
        dtype: DTypeLike | None = None,
    ) -> "ReluImplicitFull":
        """Draw a network: `A` by `a_init`, `W` from N(0, 1), `u` and `v` from {-1, +1}.

        **Arguments:**

        - `gamma0`: the scale, GLL22's gamma. `scaling="width"`: `gamma = gamma0 / sqrt(m)`; Gaussian
          weights are certified for `gamma0 < 1/2`. `scaling="operator_norm"`:
          `gamma = gamma0 / ||A||`, certified for `gamma0 < 1` whatever the weights.
        - `outputs`: None for a scalar output (n,), k for outputs (n, k).
        - `a_init`: draws `A`; see `implicit_ntk.init`.
        - `paired`: `A = [[A1, A2], [A2, A1]]`, the rows of `W` doubled, `u = (u1, -u1)`,
          `v = (v1, -v1)` (m even), for which the outputs are zero at initialisation. The limit kernel is
          unchanged where the entries that `a_init` draws are i.i.d. and centred, which is your word for
          a function of your own.
        - `trained`: names among `"A"`, `"W"`, `"u"`, `"v"`.
        - `dtype`: JAX's default float type if None.

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
        draw = _draw_paired if paired else _draw
        A, W, u, v = draw(key, in_size, width, out, a_init, float_type(dtype))
        return cls(
            A=A,
            W=W,
            u=u,
            v=v,
            gamma=gamma_of(A, gamma0, scaling),
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
        return self.W.shape[-1]

    @property
    def width(self) -> int:
        """The number m of units."""
        return self.A.shape[-1]

    @property
    def gamma0(self) -> Float[Array, ""]:
        """`gamma sqrt(m)`, the scale that the paper quotes."""
        return self.gamma * self._root_width()

    def inject(self, X: Float[Array, "n d"]) -> Float[Array, "n m"]:
        """`Phi = phi(X W^T) / sqrt(m)`."""
        return activations.apply(self.injection_activation, X @ self.W.T) / self._root_width()

    @property
    def injection_is_fixed(self) -> bool:
        """True unless `W` is trained."""
        return "W" not in self.trained

    def initial_state(self, phi: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """`sigma(Phi)`: what the cell makes of zero, without the product that zero would cost."""
        return activations.apply(self.activation, phi)

    def cell(self, z: Float[Array, "n m"], phi: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """`sigma(gamma Z A^T + Phi)`."""
        return self.affine(phi)(z)

    def affine(self, phi: Float[Array, "n m"]) -> AffineMap:
        """The weights `A^T`, the scale `gamma`, the offset `Phi`."""
        return AffineMap(
            self.A.T,
            self.gamma,
            phi,
            activations.function(self.activation),
            activations.is_projection(self.activation),
        )

    def cell_pullback(
        self, z: Float[Array, "n m"], phi: Float[Array, "n m"]
    ) -> Callable[[Float[Array, "n m"]], Float[Array, "n m"]]:
        """`P -> gamma (sigma' o P) A`, the slopes computed once."""
        slopes = self.gamma * self.affine(phi).slopes(z)
        return lambda p: (slopes * p) @ self.A

    def readout(self, z: Float[Array, "n m"], phi: Float[Array, "n m"]) -> Float[Array, "n *out"]:
        """`Z u + Phi v`."""
        return z @ self.u + phi @ self.v

    def contraction(self) -> Float[Array, ""]:
        """`gamma ||A||`; below one the equilibrium exists and is unique (GLL22, Lemma 2.2)."""
        return jnp.abs(self.gamma) * operator_norm(self.A)

    def gradient_factors(
        self,
        X: Float[Array, "n d"],
        phi: Float[Array, "n m"],
        z: Float[Array, "n m"],
        p: Float[Array, "n *out m"],
    ) -> GradientFactors:
        """Per-sample gradients of the outputs, given equilibria `z` and adjoint states `p`.

        With `lam_i = sigma'_i o p_i` and `s_i = phi'_i o (lam_i + v)`: `df_i/dA = gamma lam_i z_i^T`,
        `df_i/dW = s_i x_i^T / sqrt(m)`, `df_i/du = z_i`, `df_i/dv = phi_i` (GLL22, whose eq. (10) lacks
        the factor `gamma`). With k outputs `p`, `lam` and `s` have a row for each.
        """
        lam = per_output(self.affine(phi).slopes(z), p) * p
        factors = {
            "A": lambda: OuterProduct(self.gamma * lam, per_output(z, p)),
            "W": lambda: OuterProduct(self._through_injection(X, lam), per_output(X, p)),
            "u": lambda: OuterProduct(per_output(z, p), unit_outputs(p)),
            "v": lambda: OuterProduct(per_output(phi, p), unit_outputs(p)),
        }
        return {name: (factors[name](),) for name in self.trained}

    def _through_injection(
        self, X: Float[Array, "n d"], lam: Float[Array, "n *out m"]
    ) -> Float[Array, "n *out m"]:
        """`phi'_i o (lam_i + v) / sqrt(m)`: what reaches `W x`, by the cell and by the read-out."""
        slopes = activations.slope(self.injection_activation, X @ self.W.T) / self._root_width()
        return per_output(slopes, lam) * (lam + self.v.T[None])

    def _root_width(self) -> Float[Array, ""]:
        return jnp.sqrt(jnp.asarray(self.width, self.gamma.dtype))


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
) -> tuple[Array, Array, Array, Array]:
    key_a, key_w, key_u, key_v = jax.random.split(key, 4)
    return (
        draw_layer(key_a, m, a_init, dtype),
        jax.random.normal(key_w, (m, d), dtype),
        jax.random.rademacher(key_u, (m, *out), dtype),
        jax.random.rademacher(key_v, (m, *out), dtype),
    )


def _draw_paired(
    key: Key[Array, ""], d: int, m: int, out: tuple[int, ...], a_init: init.Initialiser, dtype: DTypeLike
) -> tuple[Array, Array, Array, Array]:
    """The halves of state and injection are equal, those of the read-out opposite: the outputs vanish."""
    key_first, key_second = jax.random.split(key)
    A1, W1, u1, v1 = _draw(key_first, d, m // 2, out, a_init, dtype)
    A = swapped(A1, draw_layer(key_second, m // 2, a_init, dtype))
    return A, jnp.concatenate([W1, W1]), jnp.concatenate([u1, -u1]), jnp.concatenate([v1, -v1])
