"""How far a kernel has moved from where it began: whether training was lazy."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from implicit_ntk._checks import AnyArray, check_positive
from implicit_ntk.kernel._spectrum import check_kernel, check_relative_residual, relative_resolution
from implicit_ntk.kernel.matrix_free import Apply, KernelOperator, KernelProducts, tridiagonal

STEPS = 48
"""Lanczos steps for the operator norm of a difference."""


class KernelDrift(eqx.Module):
    """`H - H0` in two norms.

    - `operator`: `||H - H0||_2`; `frobenius`: `||H - H0||_F`.
    - `operator_error`, `frobenius_error`: of their computation. Zero for arrays; without them the residual of
      Lanczos, and a standard error over probes.
    - `operator_scale`, `frobenius_scale`: `||H0||_2` and `||H0||_F`.
    - `noise`: the operator norm that the solves' tolerances and rounding make of no drift at all.
    """

    operator: Float[Array, ""]
    frobenius: Float[Array, ""]
    operator_error: Float[Array, ""]
    frobenius_error: Float[Array, ""]
    operator_scale: Float[Array, ""]
    frobenius_scale: Float[Array, ""]
    noise: Float[Array, ""]

    @property
    def relative_operator(self) -> Float[Array, ""]:
        """`||H - H0||_2 / ||H0||_2`."""
        return self.operator / self.operator_scale

    @property
    def relative_frobenius(self) -> Float[Array, ""]:
        """`||H - H0||_F / ||H0||_F`."""
        return self.frobenius / self.frobenius_scale

    @property
    def resolved(self) -> Bool[Array, ""]:
        """Is the drift in operator norm above noise and the error of its computation?"""
        return self.operator > self.noise + self.operator_error


def kernel_drift(
    H: Float[AnyArray, "..."] | KernelOperator,
    H0: Float[AnyArray, "..."] | KernelOperator,
    relative_residual: float | int | None = None,
    probes: int = 32,
    key: Key[Array, ""] | None = None,
) -> KernelDrift:
    """Kernel drift `||H(t) - H(0)||` in operator and Frobenius norm, absolute and relative.

    **Arguments:** `H`, `H0`, both arrays (n, n) or (n, k, n, k), or both operators on the same samples, whose
    difference is then never formed: the operator norm comes from Lanczos, from below, the Frobenius
    norm from random probes. `relative_residual`, of either kernel's solves, as in `spectrum`: for arrays
    only, operators know theirs. `probes` and their `key`: for operators only.

    **Raises:** as `spectrum`; `ValueError` for kernels of two shapes, `TypeError` for two kinds or dtypes.
    """
    if isinstance(H, KernelOperator) and isinstance(H0, KernelOperator):
        if relative_residual is not None:
            raise ValueError("relative_residual must be None for operators, which know their own")
        check_positive(probes, "probes")
        if probes < 3:
            raise ValueError("probes must be at least 3, or there is no standard error")
        _check_same(H, H0)
        key = jax.random.key(0) if key is None else key
        return _matrix_free(H.products, H0.products, min(STEPS, H.shape[0]), probes, key)
    if isinstance(H, KernelOperator) or isinstance(H0, KernelOperator):
        raise TypeError("H and H0 must be both arrays or both operators; use H.to_dense()")
    H, H0 = check_kernel(H), check_kernel(H0, "H0")
    check_relative_residual(relative_residual)
    _check_same(H, H0)
    return _of_arrays(H, H0, jnp.asarray(relative_resolution(len(H), H.dtype, relative_residual), H.dtype))


def _check_same(H: Array | KernelOperator, H0: Array | KernelOperator) -> None:
    if H.shape != H0.shape:
        raise ValueError(f"H and H0 must be of the same samples and outputs, got {H.shape} and {H0.shape}")
    dtypes = [K.products.dtype if isinstance(K, KernelOperator) else K.dtype for K in (H, H0)]
    if dtypes[0] != dtypes[1]:
        raise TypeError(f"H is {dtypes[0]} but H0 is {dtypes[1]}; compute both in one dtype")


@eqx.filter_jit
def _of_arrays(H: Float[Array, "N N"], H0: Float[Array, "N N"], share: Float[Array, ""]) -> KernelDrift:
    """`share` of the largest eigenvalue is the noise of either."""
    operator, scale = (jnp.abs(jnp.linalg.eigvalsh(K)).max() for K in (H - H0, H0))
    zero = jnp.zeros_like(operator)
    frobenius, frobenius_scale = jnp.linalg.norm(H - H0), jnp.linalg.norm(H0)
    return KernelDrift(operator, frobenius, zero, zero, scale, frobenius_scale, 2 * share * scale)


@eqx.filter_jit
def _matrix_free(
    H: KernelProducts, H0: KernelProducts, steps: int, probes: int, key: Key[Array, ""]
) -> KernelDrift:
    def difference(v: Float[Array, " N"]) -> Float[Array, " N"]:
        return H.apply(v) - H0.apply(v)

    with jax.default_matmul_precision("highest"):
        start, key = jax.random.split(key)
        v = jax.random.normal(start, (H.size,), H.dtype)
        operator, error = _operator_norm(difference, v, steps)
        scale, _ = _operator_norm(H0.apply, v, steps)
        signs = jax.random.rademacher(key, (probes, H.size), H.dtype)
        frobenius, frobenius_error = _frobenius_norm(difference, signs)
        frobenius_scale, _ = _frobenius_norm(H0.apply, signs)
    # Both kernels' errors, each at most `2 e` of the norm.
    noise = 2 * scale * (H.error + H0.error)
    return KernelDrift(operator, frobenius, error, frobenius_error, scale, frobenius_scale, noise)


def _operator_norm(apply: Apply, v: Float[Array, " N"], steps: int) -> tuple[Array, Array]:
    """The largest Ritz value in size, and its residual."""
    diagonal, beside = tridiagonal(apply, v, steps)
    T = jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1)
    values, vectors = jnp.linalg.eigh(T)
    outermost = jnp.argmax(jnp.abs(values))
    return jnp.abs(values[outermost]), beside[-1] * jnp.abs(vectors[-1, outermost])


def _frobenius_norm(apply: Apply, signs: Float[Array, "p N"]) -> tuple[Array, Array]:
    """`||D||_F^2 = ||D Q||_F^2 + ||D (I - Q Q^T)||_F^2`, and the standard error of the root.

    The second is `E ||D (I - Q Q^T) z||^2` over random signs. `Q` spans the images of half of the probes:
    without it one eigenvalue far above the others, as kernels have, leaves an error of `sqrt(2 / p)`
    (Hutch++: Meyer, Musco, Musco and Woodruff, SOSA 2021).
    """
    half = len(signs) // 2
    Q = jnp.linalg.qr(lax.map(apply, signs[:half]).T)[0]
    outside = signs[half:] - (signs[half:] @ Q) @ Q.T
    squares = lax.map(lambda z: jnp.sum(apply(z) ** 2), outside)
    norm = jnp.sqrt(jnp.sum(lax.map(apply, Q.T) ** 2) + jnp.mean(squares))
    stderr = jnp.std(squares, ddof=1) / jnp.sqrt(squares.size)
    return norm, stderr / (2 * jnp.where(norm > 0, norm, 1))
