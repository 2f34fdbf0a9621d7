"""The linearised twin of gradient descent: the kernel frozen, any number of steps in closed form."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicit_ntk._checks import AnyArray, Number, check_positive_number
from implicit_ntk._tracing import is_traced
from implicit_ntk.dynamics._linearized import (
    UNRESOLVED,
    AbstractLinearized,
    Times,
    as_times,
    decomposed,
    refuse_limit,
)


class LinearizedDescent(AbstractLinearized):
    """`uhat_k = y - (I - eta H)^k (y - u0)`, `eta` the `step`: see `linearized_descent`.

    On unseen data `f0 + k0 Q diag((1 - (1 - eta lam)^k)/lam) Q^T (y - u0)`. Times are numbers of steps.
    """

    eigenvalues: Float[Array, " N"]
    eigenvectors: Float[Array, "N N"]
    u0: Float[Array, "n *out"]
    y: Float[Array, "n *out"]
    step: Float[Array, ""]

    @property
    def stable(self) -> Array:
        """Does every mode shrink? For `eta < 2 / lambda_max`."""
        return self.step * self.eigenvalues[-1] < 2

    def left(self, t: Float[Array, ""]) -> Float[Array, " N"]:
        """`(1 - eta lam)^k`."""
        return jnp.where(self._is_slow, jnp.exp(self._slow_logs(t)), jnp.power(1 - self._scaled, t))

    def gain(self, t: Float[Array, ""]) -> Float[Array, " N"]:
        """`(1 - (1 - eta lam)^k)/lam`; `eta k` where `lam` is zero."""
        x = self._scaled
        learnt = jnp.where(self._is_slow, -jnp.expm1(self._slow_logs(t)), 1 - self.left(t))
        return self.step * jnp.where(x > 0, learnt / jnp.where(x > 0, x, 1), t)

    def check_times(self, t: Times) -> Float[Array, "..."]:
        """Whole numbers of steps, not negative; infinite only where the limit exists and is known."""
        k = as_times(t, "k", self.y.dtype)
        k = refuse_limit(
            k, ~self.resolved, f"k = inf asks for the limit, but {UNRESOLVED}, or ask for a finite k"
        )
        k = refuse_limit(
            k, ~self.stable, "k = inf asks for the limit, but step >= 2/lambda_max diverges; lower it"
        )
        if not is_traced(k) and not jnp.all((k >= 0) & (k == jnp.round(k))):
            raise ValueError("k must be whole numbers of steps, not negative")
        return k

    def _slow_logs(self, t: Float[Array, ""]) -> Float[Array, " N"]:
        """`k log(1 - eta lam)` of the slow modes, with the digits of `eta lam` that `1 - eta lam` loses."""
        moving = self._is_slow & (self._scaled > 0)
        return jnp.where(moving, t, 0) * jnp.log1p(-jnp.where(moving, self._scaled, 0))

    @property
    def _is_slow(self) -> Bool[Array, " N"]:
        return self._scaled < 0.5

    @property
    def _scaled(self) -> Float[Array, " N"]:
        """`eta lam`."""
        return self.step * jnp.maximum(self.eigenvalues, 0)


def linearized_descent(
    H: Float[AnyArray, "..."], u0: Float[AnyArray, "n *out"], y: Float[AnyArray, "n *out"], step: Number
) -> LinearizedDescent:
    """Gradient descent of constant `step` with the kernel `H` frozen, from outputs `u0` towards `y`.

    The discrete twin of `linearized_flow`, with its methods: `lin(k)` after k steps on the data,
    `lin.at(k, k0, f0)` on unseen data, `lin.limit(...)` at `k = inf`. The loss is `||u - y||^2 / 2`, without
    1/n. A `step` from `2 / lambda_max(H)` on diverges, as the closed form shows; only its limit is refused.

    **Arguments:** `H` (n, n) with `u0`, `y` (n,); or, with k outputs, `H` (n, k, n, k) with (n, k); `step`,
    the learning rate.

    **Raises:** as `linearized_flow`; `TypeError`, `ValueError` for a `step` that is no positive number.
    """
    check_positive_number(step, "step")
    lam, Q, u0, y = decomposed(H, u0, y)
    return LinearizedDescent(lam, Q, u0, y, jnp.asarray(step, y.dtype))
