"""What the operator's methods return: numbers, and how well they are known."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicit_ntk._hosts import on_host
from implicit_ntk.equilibrium import ConvergenceError, Policy, has_tracer


class Eigenpairs(eqx.Module):
    """Extreme eigenvalues of a kernel, from the end inwards, with their eigenvectors.

    - `values`: Rayleigh quotients `||J^T q||^2`.
    - `vectors`: unit eigenvectors `q`, in the shape of the outputs.
    - `bounds`: each value has an eigenvalue of the operator within this distance: `||H q - lam q||`,
      or, for the smallest, that residual in the norm of `H^-1` (as the preconditioner measures it) where
      it says more.
    - `errors`: `bounds` and what rounding and the solves' tolerances add, see `KernelOperator`.
    - `converged`: whether each bound reached the tolerance, or rounding.
    - `products`: with `H`, that it took.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k n *out"]
    bounds: Float[Array, " k"]
    errors: Float[Array, " k"]
    converged: Bool[Array, " k"]
    products: Int[Array, ""]

    @property
    def resolved(self) -> Bool[Array, " k"]:
        """Is each value a number, larger than its error, or noise?"""
        return self.values > self.errors


class Estimate(eqx.Module):
    """The mean over random probes.

    - `stderr`: standard error of the mean.
    - `quadrature_error`: what the second half of the Lanczos steps changed. Eigenvalues far below the
      rest that neither half has met are not in it: a preconditioner of higher rank has them.
    - `resolved`: whether all eigenvalues that were met are above what rounding and the solves' tolerances
      make of zero.
    - `products`: with `H`, that it took.
    """

    value: Float[Array, ""]
    stderr: Float[Array, ""]
    quadrature_error: Float[Array, ""]
    resolved: Bool[Array, ""]
    products: Int[Array, ""]


class SpectralDensity(eqx.Module):
    """Where the eigenvalues are, smoothed on the logarithmic scale.

    - `points`: eigenvalues, positive.
    - `density`: eigenvalues per unit of `log lambda`, over N: the density's integral is one.
    - `stderr`: standard error of `density` over the probes.
    - `quadrature_error`: what the second half of the Lanczos steps changed.
    - `width`: standard deviation in `log lambda` of the Gaussian that each eigenvalue is smoothed with.
    - `resolution`: below it the density is noise: Lanczos knows eigenvalues to a share of the largest.
    - `products`: with `H`, that it took.
    """

    points: Float[Array, " p"]
    density: Float[Array, " p"]
    stderr: Float[Array, " p"]
    quadrature_error: Float[Array, " p"]
    width: Float[Array, ""]
    resolution: Float[Array, ""]
    products: Int[Array, ""]

    @property
    def resolved(self) -> Bool[Array, " p"]:
        """Which points are above the resolution."""
        return self.points > self.resolution


class Solution(eqx.Module):
    """`x` with `H x = r`.

    - `residual`: `||r - H x|| / ||r||`, computed from this very `x` and not carried along.
    - `converged`: is it below the tolerance?
    - `steps`: of conjugate gradients, one product with `H` each.
    """

    x: Float[Array, "n *out"]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]


def settled(
    value: Float[Array, "..."],
    converged: Bool[Array, "..."],
    policy: Policy,
    inputs: PyTree,
    message: Callable[[], str],
    remedy: str,
) -> Float[Array, "..."]:
    """Values of which those that did not converge raise, are NaN, or are handed out, by the policy.

    Known inputs raise `ConvergenceError` with numbers; inside a transformation the check is compiled in.
    """
    if policy == "report":
        return value
    if policy == "raise":
        if has_tracer((inputs, converged)):
            value = eqx.error_if(value, ~jnp.all(converged), remedy)
        elif not on_host(converged).all():
            raise ConvergenceError(f"{message()}; {remedy}, or on_failure='report' returns what was found")
    known = converged.reshape(converged.shape + (1,) * (value.ndim - converged.ndim))
    return jnp.where(known, value, jnp.nan)
