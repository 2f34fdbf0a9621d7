"""The modes of the dynamics linearised at the start of a step, and their functions of time.

    r_lin(t) = Q e^{-lam t} c,    theta_lin(t) = theta_0 - J_0^T Q (1 - e^{-lam t})/lam c,    c = Q^T r_0

Modes may be old ones: `Q` that diagonalised an earlier kernel. Then `lam` are the Rayleigh quotients of
the kernel `H_0` as it is now, and what its matrix has off the diagonal in these modes, `C`, is accounted
for to first order:

    theta_lin(t) = theta_0 - J_0^T Q alpha(t),
    alpha(t) = (1 - e^{-lam t})/lam c - int_0^t (1 - e^{-lam (t-s)})/lam C e^{-lam s} c ds
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from implicit_ntk.kernel import relative_resolution

PANELS = 40
"""Of the time axis, each a fixed share of a decade: the modes' times span many."""

NODES, WEIGHTS = (np.asarray(x) for x in np.polynomial.legendre.leggauss(6))

Scalar = Float[Array, ""]
P = ParamSpec("P")
T = TypeVar("T")


def in_full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """The function, its matrix products traced with the highest precision."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return run


class Modes(eqx.Module):
    """The dynamics linearised at the start of a step, mode by mode.

    - `eigenvalues` (k,), in no order; `eigenvectors` (N, k), thin where k modes hold all of `r_0`.
    - `coefficients` (k,): `c = Q^T r_0`.
    - `off_diagonal` (k, k): `Q^T H_0 Q` without its diagonal, or None for modes that are always new.
    - `age`: of the eigenvectors, in steps.
    """

    eigenvalues: Float[Array, " k"]
    eigenvectors: Float[Array, "N k"]
    coefficients: Float[Array, " k"]
    off_diagonal: Float[Array, "k k"] | None
    age: Int[Array, ""]

    @classmethod
    @in_full_precision
    def new(
        cls, eigenvalues: Float[Array, " N"], eigenvectors: Float[Array, "N N"], r: Float[Array, "n *out"]
    ) -> "Modes":
        """From the decomposition of `H_0`; an eigenvalue that is negative by rounding is zero."""
        off, zero = jnp.zeros_like(eigenvectors), jnp.zeros((), jnp.int32)
        return cls(jnp.maximum(eigenvalues, 0), eigenvectors, eigenvectors.T @ jnp.ravel(r), off, zero)

    @in_full_precision
    def of_kernel(self, H: Float[Array, "N N"], r: Float[Array, "n *out"]) -> "Modes":
        """The same eigenvectors for another kernel and residual."""
        Q = self.eigenvectors
        rotated = Q.T @ H @ Q
        diagonal = jnp.diag(rotated)
        off = rotated - jnp.diag(diagonal)
        return Modes(jnp.maximum(diagonal, 0), Q, Q.T @ jnp.ravel(r), off, self.age + 1)

    @property
    def fastest(self) -> Scalar:
        """The largest eigenvalue, or one where the kernel is zero: then nothing moves, at any pace."""
        largest = jnp.max(self.eigenvalues)
        return jnp.where(largest > 0, largest, 1)

    @property
    def resolution(self) -> Scalar:
        """The eigenvalue below which rounding and the solves' tolerances leave nothing known."""
        return self.fastest * relative_resolution(self.eigenvectors.shape[0], self.eigenvalues.dtype)

    @property
    def slowest(self) -> Scalar:
        """The smallest eigenvalue, or what of it is resolved."""
        least = jnp.maximum(jnp.min(self.eigenvalues), self.resolution)
        return jnp.where(jnp.max(self.eigenvalues) > 0, least, 1)

    @property
    def end(self) -> Scalar:
        """The time in which the slowest mode that is resolved all but settles."""
        return 10 / self.slowest

    @property
    def longest(self) -> Scalar:
        """The longest step."""
        return self.end

    @property
    def resolved(self) -> Bool[Array, ""]:
        """Is the slowest mode more than rounding and the solves' tolerances?"""
        return jnp.min(self.eigenvalues) > self.resolution

    def decay(self, t: Float[Array, "..."]) -> Float[Array, "k ..."]:
        """`e^{-lam t}`."""
        return jnp.exp(-jnp.multiply.outer(self.eigenvalues, t))

    def integral(self, t: Float[Array, "..."]) -> Float[Array, "k ..."]:
        """`(1 - e^{-lam t})/lam`, the integral of the decay; t where lam is zero."""
        lam, t = _column(self.eigenvalues, t), t[None]
        safe = jnp.where(lam > 0, lam, 1)
        return jnp.where(lam > 0, -jnp.expm1(-safe * t) / safe, t)

    def displacement(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """`||theta_lin(t) - theta_0||`."""
        weights = _column(self.eigenvalues * self.coefficients**2, t)
        return jnp.sqrt(jnp.sum(weights * self.integral(t) ** 2, axis=0))

    def way_rate(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """`d/dt displacement(t)^2`."""
        weights = _column(self.eigenvalues * self.coefficients**2, t)
        return 2 * jnp.sum(weights * self.integral(t) * self.decay(t), axis=0)

    def travelled(self, t: Scalar) -> Float[Array, " k"]:
        """`alpha`, where `theta_lin(t) = theta_0 - J_0^T Q alpha`."""
        diagonal = self.integral(t) * self.coefficients
        return diagonal if self.off_diagonal is None else diagonal - self._astray(t)

    @in_full_precision
    def tangent(self, t: Scalar) -> Float[Array, " k"]:
        """`Q^T` times the residual that the tangent at `theta_0` predicts where `travelled(t)` leads."""
        settled = self.decay(t) * self.coefficients
        if self.off_diagonal is None:
            return settled
        return settled + self.eigenvalues * self._astray(t) - self.off_diagonal @ self.travelled(t)

    @in_full_precision
    def defect(self, h: Scalar) -> Scalar:
        """What the second order of what is off the diagonal changes of the outputs, root mean square.

        An estimate: with the first order's change of the residual, `b`, taken at the ends of panels.
        """
        if self.off_diagonal is None:
            return jnp.zeros_like(h)
        t, weights = quadrature(h, self)
        rows = self.eigenvalues.size, PANELS, NODES.size
        end = t.reshape(rows[1:])[:, -1]
        forced = (weights[None] * self._driven(t)).reshape(rows).sum(2)

        def on(b: Array, panel: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            length, decayed, force = panel
            b = decayed * b + force
            return b, length * b

        lengths = jnp.diff(end, prepend=0)
        panels = lengths, self.decay(lengths).T, forced.T
        b = lax.scan(on, jnp.zeros_like(self.eigenvalues), panels)[1].T
        again = jnp.sum((1 - self.decay(jnp.maximum(h - end, 0))) * (self.off_diagonal @ b), axis=1)
        return jnp.sqrt(jnp.sum(again**2) / self.eigenvectors.shape[0])

    @in_full_precision
    def _astray(self, h: Scalar) -> Float[Array, " k"]:
        """`int (1 - e^{-lam (h-t)})/lam C e^{-lam t} c dt`."""
        t, weights = quadrature(h, self)
        return (self.integral(jnp.maximum(h - t, 0)) * self._driven(t)) @ weights

    def _driven(self, t: Float[Array, " T"]) -> Float[Array, "k T"]:
        """`C e^{-lam t} c`."""
        assert self.off_diagonal is not None
        return self.off_diagonal @ (self.decay(t) * self.coefficients[:, None])

    def time_to(self, displacement: Scalar) -> Scalar:
        """The time at which the linearised flow has come so far, `longest` at most."""
        unit = 1 / self.fastest

        def halved(_: Int[Array, ""], bounds: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
            low, high = bounds
            middle = (low + high) / 2
            beyond = self.displacement(unit * jnp.exp(middle)) > displacement
            return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

        widest = jnp.full((), 40.0, displacement.dtype)  # e-folds from 1/lambda_max
        low, _ = lax.fori_loop(0, 50, halved, (-widest, widest))
        return jnp.minimum(unit * jnp.exp(low), self.longest)


def _column(x: Float[Array, " k"], t: Float[Array, "..."]) -> Float[Array, "k ..."]:
    return x.reshape(x.shape + (1,) * jnp.ndim(t))


def quadrature(s: Scalar, modes: Modes) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
    """Nodes and weights of [0, s]: Gauss on panels that grow geometrically, from the fastest mode's time."""
    first = jnp.minimum(1e-2 / modes.fastest, s / 2)
    shares = jnp.arange(PANELS, dtype=s.dtype) / (PANELS - 1)
    edges = jnp.concatenate([jnp.zeros(1, s.dtype), first * (s / first) ** shares])
    half = jnp.diff(edges)[:, None] / 2
    nodes = edges[:-1, None] + half * (1 + jnp.asarray(NODES, s.dtype))[None]
    return jnp.ravel(nodes), jnp.ravel(half * jnp.asarray(WEIGHTS, s.dtype)[None])
