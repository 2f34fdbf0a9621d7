"""GG22's network: an implicit layer between a random injection and a random read-out.

    z = sigma(gamma A^T z + phi(W^T x)),    f(x) = z.b / sqrt(m),    gamma = gamma0 / sqrt(m)

Rows are samples: `Z = sigma(gamma Z A + Phi)`, `Phi = phi(X W)`.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from implicit_ntk._checks import check_choice, check_positive
from implicit_ntk.equilibrium import AffineMap
from implicit_ntk.networks import _activations as activations, init
from implicit_ntk.networks._dtype import float_type
from implicit_ntk.networks._factors import GradientFactors, OuterProduct
from implicit_ntk.networks._forms import forms, same_form
from implicit_ntk.networks._network import AbstractNetwork
from implicit_ntk.networks._norm import operator_norm
from implicit_ntk.networks._scaling import SCALINGS, check_gamma0, gamma_of, warn_if_ill_posed

Initialiser = Callable[[Key[Array, ""], tuple[int, ...], DTypeLike], Float[Array, "..."]]
TRAINABLE = ("A", "W", "b")


class ReluImplicit(AbstractNetwork):
    """The implicit network of GG22, eq. (1)-(3); only `A` is trained there.

    **Leaves:** `A` (m, m), `W` (d, m), `b` (m,), and the scalar `gamma` of the formula above.
    **Static:** `injection_activation` (the paper's phi), `activation` (the cell's sigma: relu in the
    paper; identity has closed forms, tanh is smooth), `trained`.

    Build one with `ReluImplicit.init`.
    """

    A: Float[Array, "m m"]
    W: Float[Array, "d m"]
    b: Float[Array, " m"]
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
        gamma0: float | Float[Array, ""] = 0.4,
        injection_activation: activations.Activation = "relu",
        activation: activations.Activation = "relu",
        a_init: Initialiser = init.normal,
        scaling: str = "width",
        paired: bool = False,
        trained: tuple[str, ...] = ("A",),
        dtype: DTypeLike | None = None,
    ) -> "ReluImplicit":
        """Draw a network.

        **Arguments:**

        - `gamma0`: the scale. `scaling="width"`: `gamma = gamma0 / sqrt(m)`, the papers'; Gaussian
          weights are certified for `gamma0 < 1/2`. `scaling="operator_norm"`:
          `gamma = gamma0 / ||A||`, certified for `gamma0 < 1` whatever the weights.
        - `a_init`: draws `A`; see `implicit_ntk.init`.
        - `paired`: `A = [[A1, A2], [A2, A1]]`, `W = [W1, W1]`, `b = (b1, -b1)` with independent halves
          (m even), for which `u = 0` at initialisation and the limit kernel is unchanged.
        - `trained`: names among `"A"`, `"W"`, `"b"`.
        - `dtype`: JAX's default float type if None.

        **Raises:** `ValueError` for sizes, names or options out of range. Warns when entries that are
        not centred meet `scaling="width"`: such a network diverges with the width.
        """
        check_positive(in_size, "in_size")
        check_positive(width, "width")
        check_choice(scaling, SCALINGS, "scaling")
        check_gamma0(gamma0)
        _check_fields(injection_activation, activation, trained)
        if paired and width % 2:
            raise ValueError(f"paired=True needs an even width, got {width}; use {width + 1}")
        if not callable(a_init):
            raise TypeError(f"a_init must be a function such as implicit_ntk.init.normal, got {a_init!r}")
        warn_if_ill_posed(a_init, scaling)
        dtype = float_type(dtype)
        draw = _draw_paired if paired else _draw
        A, W, b = draw(key, in_size, width, a_init, dtype)
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

    def readout(self, z: Float[Array, "n m"], phi: Float[Array, "n m"]) -> Float[Array, " n"]:
        """`Z b / sqrt(m)`."""
        return z @ self.b / jnp.sqrt(jnp.asarray(self.width, z.dtype))

    def contraction(self) -> Float[Array, ""]:
        """`gamma ||A||`; below one the equilibrium exists and is unique (GG22, Lemma A.5)."""
        return jnp.abs(self.gamma) * operator_norm(self.A)

    def gradient_factors(
        self,
        X: Float[Array, "n d"],
        phi: Float[Array, "n m"],
        z: Float[Array, "n m"],
        p: Float[Array, "n m"],
    ) -> GradientFactors:
        """Per-sample gradients of the outputs, given equilibria `z` and adjoint states `p`.

        With `lam_i = sigma'_i o p_i`: `df_i/dA = gamma z_i lam_i^T` (GG22, eq. (8)),
        `df_i/dW = x_i (phi'_i o lam_i)^T`, `df_i/db = z_i / sqrt(m)`.
        """
        lam = p * self.affine(phi).slopes(z)
        factors = {
            "A": lambda: OuterProduct(self.gamma * z, lam),
            "W": lambda: OuterProduct(X, lam * self._injection_slope(X)),
            "b": lambda: OuterProduct(z / jnp.sqrt(jnp.asarray(self.width, z.dtype))),
        }
        return {name: (factors[name](),) for name in self.trained}

    def _injection_slope(self, X: Float[Array, "n d"]) -> Float[Array, "n m"]:
        return activations.slope(self.injection_activation, X @ self.W)


def _check_fields(
    injection_activation: activations.Activation,
    activation: activations.Activation,
    trained: tuple[str, ...],
) -> None:
    activations.check_activation(injection_activation, "injection_activation")
    activations.check_activation(activation, "activation")
    for name in trained:
        check_choice(name, TRAINABLE, "trained")
    if len(set(trained)) < len(trained):
        raise ValueError(f"trained must name each leaf once, got {trained}")


def _draw(key: Key[Array, ""], d: int, m: int, a_init: Initialiser, dtype: DTypeLike) -> tuple:
    key_a, key_w, key_b = jax.random.split(key, 3)
    A = _draw_layer(key_a, m, a_init, dtype)
    return A, jax.random.normal(key_w, (d, m), dtype), jax.random.rademacher(key_b, (m,), dtype)


def _draw_layer(key: Key[Array, ""], m: int, a_init: Initialiser, dtype: DTypeLike) -> Array:
    A = a_init(key, (m, m), dtype)
    want = jax.ShapeDtypeStruct((m, m), dtype)
    if not same_form(A, want):
        raise ValueError(f"a_init must return {forms(want)[0]}, as it is asked to, got {forms(A)}")
    return A


def _draw_paired(key: Key[Array, ""], d: int, m: int, a_init: Initialiser, dtype: DTypeLike) -> tuple:
    """Both halves of the state are equal and both halves of the adjoint opposite: `u = 0`.

    The forward pass sees `A1 + A2`, the adjoint `A1 - A2`, which for Gaussian weights is independent
    of it. Repeating one block on the diagonal would make the two the same, and the kernel wrong.
    """
    key_first, key_second = jax.random.split(key)
    A1, W1, b1 = _draw(key_first, d, m // 2, a_init, dtype)
    A2 = _draw_layer(key_second, m // 2, a_init, dtype)
    return jnp.block([[A1, A2], [A2, A1]]), jnp.concatenate([W1, W1], 1), jnp.concatenate([b1, -b1])
