"""The linearised twin of gradient flow: the kernel frozen, everything in closed form."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from implicit_ntk._checks import AnyArray, check_floating, check_targets
from implicit_ntk._tracing import is_traced
from implicit_ntk.kernel import check_kernel, resolution_of

Times = float | int | Float[AnyArray, "..."] | Int[AnyArray, "..."]

UNRESOLVED = "lambda_min is not resolved in this dtype: compute the kernel in float64"


class AbstractLinearized(eqx.Module):
    """Training with the kernel frozen, mode by mode: `H = Q diag(lam) Q^T`, outputs that start at `u0`.

    With k outputs the eigenvectors are those of `H` as a matrix of n k rows, the outputs (n, k).

    Eigenvalues at or below zero, which rounding makes of small ones, are taken as zero: such a mode
    does not move.
    """

    eigenvalues: eqx.AbstractVar[Float[Array, " N"]]
    eigenvectors: eqx.AbstractVar[Float[Array, "N N"]]
    u0: eqx.AbstractVar[Float[Array, "n *out"]]
    y: eqx.AbstractVar[Float[Array, "n *out"]]

    @abc.abstractmethod
    def left(self, t: Float[Array, ""]) -> Float[Array, " N"]:
        """The share of each mode's error that is left at one time."""

    @abc.abstractmethod
    def gain(self, t: Float[Array, ""]) -> Float[Array, " N"]:
        """`(1 - left)/lam` without cancellation, and its limit where `lam` is zero."""

    @abc.abstractmethod
    def check_times(self, t: Times) -> Float[Array, "..."]:
        """A scalar or a vector of times, those that make no sense refused."""

    def __call__(self, t: Times) -> Float[Array, "..."]:
        """The outputs: (n, *out) for a scalar time, (T, n, *out) for a vector; `t = inf` as in `limit`."""
        return self._over_times(t, self._train_at)

    def at(self, t: Times, k0: Float[AnyArray, "..."], f0: Float[AnyArray, "q *out"]) -> Float[Array, "..."]:
        """The twin on unseen data: `f0 + k0 weights(t)`.

        **Arguments:** `k0` (q, n) or (q, k, n, k), the cross kernel `ntk(net, X_test, X)` at
        initialisation; `f0` (q,) or (q, k), the outputs there. **Returns** the shape of `f0`, after (T,) for
        a vector of times. Raises `ValueError` for shapes that do not fit.
        """
        k0, f0 = self._check_unseen(k0, f0)

        def value(t: Float[Array, ""]) -> Float[Array, "q *out"]:
            return f0 + (k0 @ jnp.ravel(self._weights_at(t))).reshape(f0.shape)

        return self._over_times(t, value)

    def weights(self, t: Times) -> Float[Array, "..."]:
        """`Q diag((1 - left)/lam) Q^T (y - u0)`, a number a training output: (n, *out), after (T,).

        The parameters have moved by `J^T weights(t)`, the outputs anywhere by the cross kernel times it.
        """
        return self._over_times(t, self._weights_at)

    def limit(
        self, k0: Float[AnyArray, "..."] | None = None, f0: Float[AnyArray, "q *out"] | None = None
    ) -> Float[Array, "..."]:
        """`t = inf`: `y` on the data, `f0 + k0 H^{-1} (y - u0)` on unseen data.

        Raises `ValueError` (inside a transformation: Equinox's runtime error) where `lambda_min` is not
        resolved in this dtype: whether the slowest mode is ever learnt is then not known. `ValueError`
        for one of `k0`, `f0` without the other.
        """
        infinity = jnp.asarray(jnp.inf, self.y.dtype)
        if k0 is None and f0 is None:
            return self(infinity)
        if k0 is None or f0 is None:
            raise ValueError("k0 and f0 belong together; pass both for unseen data, neither for the data")
        return self.at(infinity, k0, f0)

    @property
    def resolved(self) -> Array:
        """Is the smallest eigenvalue above rounding and the default tolerances?"""
        return self.eigenvalues[0] > resolution_of(self.eigenvalues)

    def _train_at(self, t: Float[Array, ""]) -> Float[Array, "n *out"]:
        remaining = self.eigenvectors @ (self.left(t) * self._coefficients())
        return self.y - remaining.reshape(self.y.shape)

    def _weights_at(self, t: Float[Array, ""]) -> Float[Array, "n *out"]:
        return (self.eigenvectors @ (self.gain(t) * self._coefficients())).reshape(self.y.shape)

    def _coefficients(self) -> Float[Array, " N"]:
        return self.eigenvectors.T @ jnp.ravel(self.y - self.u0)

    def _over_times(self, t: Times, value: Callable[[Array], Array]) -> Float[Array, "..."]:
        t = self.check_times(t)
        with jax.default_matmul_precision("highest"):
            return value(t) if t.ndim == 0 else jax.vmap(value)(t)

    def _check_unseen(
        self, k0: Float[AnyArray, "..."], f0: Float[AnyArray, "q *out"]
    ) -> tuple[Float[Array, "Q N"], Float[Array, "q *out"]]:
        """`k0` as a matrix, and `f0`."""
        k0 = check_floating(k0, "k0")
        want = (*self.y.shape[1:], *self.y.shape)
        if k0.shape[1:] != want:
            sizes = ", ".join(map(str, ("q", *want)))
            raise ValueError(f"k0 must have shape ({sizes}), got {k0.shape}; pass k0 = ntk(net, X_test, X)")
        f0 = check_targets(f0, (k0.shape[0], *self.y.shape[1:]), "f0")
        return k0.reshape(f0.size, self.y.size), f0


class LinearizedFlow(AbstractLinearized):
    """`uhat(t) = y - e^{-Ht} (y - u0)` (GG22, Lemma 4.2): see `linearized_flow`.

    On unseen data `f0 + k0 Q diag((1 - e^{-lam t})/lam) Q^T (y - u0)`.
    """

    eigenvalues: Float[Array, " N"]
    eigenvectors: Float[Array, "N N"]
    u0: Float[Array, "n *out"]
    y: Float[Array, "n *out"]

    def left(self, t: Float[Array, ""]) -> Float[Array, " N"]:
        """`e^{-lam t}`."""
        lam = jnp.maximum(self.eigenvalues, 0)
        return jnp.where(lam > 0, jnp.exp(-jnp.where(lam > 0, lam, 1) * t), 1)

    def gain(self, t: Float[Array, ""]) -> Float[Array, " N"]:
        """`(1 - e^{-lam t})/lam`; `t` where `lam` is zero."""
        positive = self.eigenvalues > 0
        lam = jnp.where(positive, self.eigenvalues, 1)
        return jnp.where(positive, -jnp.expm1(-lam * t) / lam, t)

    def check_times(self, t: Times) -> Float[Array, "..."]:
        """Not negative, and infinite only where `lambda_min` is resolved; raises as `limit`."""
        t = as_times(t, "t", self.y.dtype)
        t = refuse_limit(
            t, ~self.resolved, f"t = inf asks for the limit, but {UNRESOLVED}, or ask for a finite t"
        )
        if not is_traced(t) and not jnp.all(t >= 0):
            raise ValueError("t must be >= 0; the flow starts at t = 0")
        return t


def linearized_flow(
    H: Float[AnyArray, "..."], u0: Float[AnyArray, "n *out"], y: Float[AnyArray, "n *out"]
) -> LinearizedFlow:
    """Gradient flow with the kernel `H` frozen, from the outputs `u0` towards the targets `y`.

    One eigendecomposition; then `lin(t)` on the data, `lin.at(t, k0, f0)` on unseen data,
    `lin.limit(...)` at `t = inf`. The loss is `||u - y||^2 / 2`, without 1/n.

    **Arguments:** `H` (n, n) with `u0`, `y` (n,); or, with k outputs, `H` (n, k, n, k) with (n, k).

    **Raises:** `ValueError` for shapes that do not fit, for values that are not finite, and for an `H`
    that is not symmetric or has an eigenvalue more negative than rounding explains; `MemoryError` past the
    limit.
    """
    return LinearizedFlow(*decomposed(H, u0, y))


def decomposed(
    H: Float[AnyArray, "..."], u0: Float[AnyArray, "n *out"], y: Float[AnyArray, "n *out"]
) -> tuple[Array, Array, Array, Array]:
    """Eigenvalues and eigenvectors of `H`, and `u0`, `y` in its dtype; raises as `linearized_flow`."""
    shape = np.shape(H)[: np.ndim(H) // 2]
    H = check_kernel(H)
    u0, y = check_targets(u0, shape, "u0"), check_targets(y, shape, "y")
    lam, Q = jnp.linalg.eigh(H)
    negative = lam[0] < -resolution_of(jnp.abs(lam)[jnp.argsort(jnp.abs(lam))])
    if not is_traced(negative) and negative:
        raise ValueError(
            f"H has the eigenvalue {float(lam[0]):.2e}, which rounding does not explain; a kernel is "
            "positive semidefinite, pass H = ntk(net, X)"
        )
    return lam, Q, u0.astype(H.dtype), y.astype(H.dtype)


def as_times(t: Times, name: str, dtype: DTypeLike) -> Float[Array, "..."]:
    """A scalar or a vector of times; `ValueError` for more axes."""
    t = jnp.asarray(t, dtype)
    if t.ndim > 1:
        raise ValueError(f"{name} must be a scalar or a vector of times, got shape {t.shape}")
    return t


def refuse_limit(t: Float[Array, "..."], unknown: Array, message: str) -> Float[Array, "..."]:
    """The times, refused where one of them is infinite and the limit is not known."""
    asked = jnp.any(jnp.isinf(t)) & unknown
    if is_traced(asked):
        return eqx.error_if(t, asked, message)
    if asked:
        raise ValueError(message)
    return t
