"""The linearised twin of a run on more data than a kernel can be decomposed for."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray, check_positive
from implicit_ntk._tracing import is_traced
from implicit_ntk.dynamics._flow import pose
from implicit_ntk.dynamics._linearized import Times, as_times
from implicit_ntk.dynamics.krylov._modes import KrylovModes
from implicit_ntk.equilibrium import Method
from implicit_ntk.networks import AbstractNetwork


class KrylovLinearizedFlow(eqx.Module):
    """`uhat(t) = y - e^{-Ht} (y - u0)` in a Krylov space of `u0 - y`, with a bound of what that leaves out.

    The outputs (n,) or (n, k); `modes` are the Ritz pairs of the kernel in that space.
    """

    modes: KrylovModes
    y: Float[Array, "n *out"]

    def __call__(self, t: Times) -> Float[Array, "..."]:
        """The outputs: (n, *out) for a scalar time, (T, n, *out) for a vector. Raises as `error`."""
        modes = self.modes
        return self._over_times(t, lambda t: self.y + self._of_modes(modes.decay(t) * modes.coefficients))

    def weights(self, t: Times) -> Float[Array, "..."]:
        """`(1 - e^{-Ht})/H (y - u0)`, a number a training output: (n, *out), after (T,).

        The parameters have moved by `J^T weights(t)`, the outputs anywhere by the cross kernel times it.
        """
        modes = self.modes
        return self._over_times(t, lambda t: -self._of_modes(modes.integral(t) * modes.coefficients))

    def error(self, t: Times) -> Float[Array, "..."]:
        """At least `||uhat(t) - y + e^{-Ht} (y - u0)||_2`, rounding apart: a number a time.

        Raises `ValueError` for times that are negative or infinite.
        """
        return self._over_times(t, lambda t: self.modes.unresolved(t) * self.y.size**0.5)

    def _of_modes(self, coefficients: Float[Array, " k"]) -> Float[Array, "n *out"]:
        return (self.modes.eigenvectors @ coefficients).reshape(self.y.shape)

    def _over_times(self, t: Times, value: Callable[[Array], Array]) -> Float[Array, "..."]:
        t = as_times(t, "t", self.y.dtype)
        if not is_traced(t) and not jnp.all((t >= 0) & jnp.isfinite(t)):
            raise ValueError("t must be >= 0 and finite: a Krylov space does not know the slowest modes")
        with jax.default_matmul_precision("highest"):
            return value(t) if t.ndim == 0 else jax.vmap(value)(t)


def krylov_linearized_flow(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n *out"],
    size: int = 64,
    method: Method | None = None,
) -> KrylovLinearizedFlow:
    """Gradient flow of the network linearised where it is, from `size` products with its kernel.

    `linearized_flow` for data whose kernel cannot be decomposed: exact, to `error(t)`, until times of
    `size^2 / (4 lambda_max)` at least.

    **Raises:** as `gradient_flow` for the arguments; `MemoryError` where the space is past the limit.
    """
    check_positive(size, "size")
    problem = pose(net, X, y, method=method, krylov_size=size)
    assert problem.leakage is not None
    pairs = problem.eigenvalues, problem.eigenvectors, problem.leakage
    infinite = jnp.asarray(jnp.inf, problem.y.dtype)
    with jax.default_matmul_precision("highest"):
        return KrylovLinearizedFlow(
            KrylovModes.of(pairs, jnp.ravel(problem.initial_residual), infinite), problem.y
        )
