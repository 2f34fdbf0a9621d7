"""The kernel of a batch as an operator: products, eigenvalues and solves without the (n, n) array."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from implicit_ntk._checks import AnyArray, Number, check_floating, check_positive, check_positive_number
from implicit_ntk._memory import require_memory
from implicit_ntk._tracing import is_traced
from implicit_ntk.kernel.matrix_free._conjugate_gradients import conjugate_gradients
from implicit_ntk.kernel.matrix_free._eigenpairs import largest_pairs, require_basis, smallest_pairs
from implicit_ntk.kernel.matrix_free._estimates import (
    Eigenpairs,
    Estimate,
    Solution,
    SpectralDensity,
    settled,
)
from implicit_ntk.kernel.matrix_free._preconditioner import Preconditioner, partial_cholesky, rank_in_memory
from implicit_ntk.kernel.matrix_free._products import KernelProducts
from implicit_ntk.kernel.matrix_free._quadrature import log_determinant, spectral_density


class KernelOperator(eqx.Module):
    """`H = J J^T` of N = n k outputs by its products `J (J^T v)`; see `kernel_operator`.

    Vectors have the shape of the outputs, (n,) or (n, k). The eigenvalues are those of (N, N).

    **Errors.** A relative error `e` of `J` (twice the solves' relative residuals, or `sqrt(N) eps`) moves
    its singular values by `e ||J||`, and so an eigenvalue by `2 sqrt(lam lam_max) e + lam_max e^2` at
    most. Eigenvalues are numbers down to `lam_max e^2`, where those of a kernel that was formed are
    noise from `lam_max e` on. What solves or searches follows the method's `on_failure`.
    """

    products: KernelProducts

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N), N = n k."""
        return self.products.size, self.products.size

    @property
    def relative_residual(self) -> Float[Array, ""]:
        """The largest sum of the relative residuals of the forward and of the adjoint solves."""
        return self.products.relative_residual

    def mv(self, v: Float[AnyArray, "n ..."]) -> Float[Array, "n ..."]:
        """`H v`: a product with `J^T` and one with `J`, 4 n m^2 flops for factors (n, m).

        **Arguments:** `v`, a vector (n,) or (n, k), or a block of b of them, (n, b) or (n, k, b). A block
        wide enough for that to be cheaper is multiplied with the columns of `H`, formed some at a time.

        **Raises:** `ValueError` for another shape, `TypeError` for another dtype.
        """
        v, block = self._checked(v)
        images = _images(self.products, v.reshape(self.products.size, -1))
        return images.reshape(v.shape) if block else images[:, 0].reshape(v.shape)

    def diagonal(self) -> Float[Array, "n *out"]:
        """The diagonal of `H`, exactly: squared norms of the gradients of each output."""
        return _diagonal(self.products).reshape(self._vector_shape)

    def trace(self) -> Float[Array, ""]:
        """`tr H`, exactly: the sum of the diagonal."""
        return jnp.sum(self.diagonal())

    def to_dense(self) -> Float[Array, "N N"]:
        """`H` as an array (N, N), with k outputs flattened; `MemoryError` past the limit."""
        nbytes = 2 * self.products.size**2 * np.dtype(self.products.dtype).itemsize
        require_memory(nbytes, f"the kernel of {self.products.size} outputs", "use the operator's products")
        return _dense(self.products)

    def preconditioner(self, rank: int | None = None, key: Key[Array, ""] | None = None) -> Preconditioner:
        """A factor of rank `rank` for `smallest`, `logdet` and `solve`, which otherwise make one each.

        **Arguments:** `rank`, None for a tenth of N or at least 512, of what fits a sixteenth of the memory
        limit; `key` of the random pivots, None for a fixed one. Costs rank columns of `H` and N rank^2.

        **Raises:** `MemoryError` past the limit.
        """
        if rank is not None:
            check_positive(rank, "rank")
        return partial_cholesky(self.products, rank_in_memory(self.products, rank), _key(key))

    def largest(
        self,
        k: int = 1,
        rtol: Number | None = None,
        max_products: int = 1000,
        key: Key[Array, ""] | None = None,
    ) -> Eigenpairs:
        """The k largest eigenpairs, descending, by Lanczos with full reorthogonalisation.

        **Arguments:** `rtol` of `||H q - lam q||` over `lam`, None for the root of the dtype's eps;
        `max_products` with `H`; `key` of the random start, None for a fixed one.

        **Raises:** `ConvergenceError` where products run out; `ValueError` unless 1 <= k <= N;
        `MemoryError` for more than fit.
        """
        self._check_count(k)
        rtol, limit = self._tolerance(rtol, self._eps**0.5), _limit(max_products, "max_products")
        return self._settled_pairs(largest_pairs(self.products, k, rtol, limit, _key(key)))

    def smallest(
        self,
        k: int = 1,
        rtol: Number | None = None,
        preconditioner: Preconditioner | None = None,
        max_products: int = 3000,
        key: Key[Array, ""] | None = None,
    ) -> Eigenpairs:
        """The k smallest eigenpairs, ascending, by Davidson's method with a partial Cholesky factor.

        Plain Lanczos knows eigenvalues to a share of `lambda_max` and needs `sqrt(lambda_max / gap)`
        steps; here the eigenvalues that the factor holds no longer count.

        **Arguments:** as `largest`; `rtol` of the bound on a value's error, over the value, None for 1e-3
        (the error itself is near its square); `preconditioner`, of this very kernel, for the bounds rest on
        it, None to make one.

        **Raises:** as `largest`. A singular kernel raises nothing: its smallest eigenvalue is not `resolved`.
        Of equal eigenvalues some may be missed, as by every search from few vectors: a larger `k` shows more.
        """
        self._check_count(k)
        rtol, limit = self._tolerance(rtol, 1e-3), _limit(max_products, "max_products")
        factor = self._factor(preconditioner)
        return self._settled_pairs(smallest_pairs(self.products, factor, k, rtol, limit, _key(key)))

    def density(
        self,
        points: Float[AnyArray, " p"],
        width: Number = 0.2,
        probes: int = 16,
        steps: int = 64,
        key: Key[Array, ""] | None = None,
    ) -> SpectralDensity:
        """The density of the eigenvalues in `log lambda`, by stochastic Lanczos quadrature.

        Made for the bulk. Of a few eigenvalues far from all others the probes may see too little to tell, in
        the standard error too: ask `largest` and `smallest` for those.

        **Arguments:** `points` (p,), positive eigenvalues at which it is asked for; `width` in `log lambda`
        of the Gaussian that each eigenvalue is smoothed with; `probes` of `steps` products each.

        **Raises:** `ValueError` for points that are not positive, fewer than two probes or steps.
        """
        points = check_floating(points, "points").astype(self.products.dtype)
        if points.ndim != 1 or (not is_traced(points) and not (points > 0).all()):
            raise ValueError("points must be a vector of positive eigenvalues, for the scale is logarithmic")
        check_positive_number(width, "width")
        steps = self._steps(probes, steps)
        width = jnp.asarray(width, self.products.dtype)
        return spectral_density(self.products, points, width, probes, steps, _key(key))

    def logdet(
        self,
        preconditioner: Preconditioner | None = None,
        probes: int = 16,
        steps: int = 32,
        key: Key[Array, ""] | None = None,
    ) -> Estimate:
        """`log det H` by preconditioned stochastic Lanczos quadrature.

        **Arguments:** `preconditioner`, None to make one: it holds most of the answer, the probes estimate
        the rest; `probes` of `steps` products each.

        **Raises:** `ValueError` for fewer than two probes or steps.
        """
        steps = self._steps(probes, steps)
        return log_determinant(self.products, self._factor(preconditioner), probes, steps, _key(key))

    def solve(
        self,
        r: Float[AnyArray, "n *out"],
        rtol: Number | None = None,
        preconditioner: Preconditioner | None = None,
        max_steps: int = 3000,
    ) -> Solution:
        """`H^-1 r` by conjugate gradients with a partial Cholesky factor.

        **Arguments:** `r` of the outputs' shape; `rtol`, of `||r - H x|| / ||r||`, None for the root of the
        dtype's eps; `preconditioner`, None to make one.

        **Raises:** `ConvergenceError` where the true residual stays above `rtol`; `ValueError` and
        `TypeError` for an `r` of another shape or dtype.
        """
        r, block = self._checked(r, "r")
        if block:
            raise ValueError(f"r must have shape {self._vector_shape}, got {r.shape}; solve one at a time")
        rtol, limit = self._tolerance(rtol, self._eps**0.5), _limit(max_steps, "max_steps")
        factor = self._factor(preconditioner)
        found = conjugate_gradients(self.products, factor, r.reshape(-1), rtol, limit)
        return self._settled_solution(found)

    def _settled_pairs(self, pairs: Eigenpairs) -> Eigenpairs:
        values = settled(
            pairs.values,
            pairs.converged,
            self.products.method.on_failure,
            self,
            lambda: (
                f"{int((~pairs.converged).sum())} of {pairs.values.size} eigenpairs did not converge in "
                f"{int(pairs.products)} products"
            ),
            "raise max_products, loosen rtol, or give a preconditioner of higher rank",
        )
        return eqx.tree_at(lambda pairs: pairs.values, pairs, values)

    def _settled_solution(self, solution: Solution) -> Solution:
        x = settled(
            solution.x,
            solution.converged,
            self.products.method.on_failure,
            self,
            lambda: (
                f"conjugate gradients stand at a relative residual of {float(solution.residual):.1e} after "
                f"{int(solution.steps)} steps"
            ),
            "raise max_steps or rtol, give a preconditioner of higher rank, or use float64",
        )
        return eqx.tree_at(lambda solution: solution.x, solution, x)

    def _checked(self, v: AnyArray, name: str = "v") -> tuple[Float[Array, "..."], bool]:
        """A vector or a block, and which."""
        v = check_floating(v, name)
        axes = len(self._vector_shape)
        if v.shape[:axes] != self._vector_shape or v.ndim > axes + 1:
            raise ValueError(
                f"{name} must have shape {self._vector_shape}, or one more axis for a block, got {v.shape}"
            )
        if v.dtype != self.products.dtype:
            dtype = self.products.dtype
            raise TypeError(f"{name} is {v.dtype} but the kernel is {dtype}; cast it with .astype('{dtype}')")
        return v, v.ndim > axes

    def _factor(self, given: Preconditioner | None) -> Preconditioner:
        """The one that was given, checked, or one made here."""
        if given is None:
            return self.preconditioner()
        rows, dtype = given.basis.shape[0], given.basis.dtype
        if (rows, dtype) != (self.products.size, self.products.dtype):
            raise ValueError(
                f"preconditioner is of {rows} outputs in {dtype}, the kernel of {self.products.size} in "
                f"{self.products.dtype}; make it by op.preconditioner()"
            )
        return given

    def _check_count(self, k: int) -> None:
        check_positive(k, "k")
        if k > self.products.size:
            raise ValueError(f"k must be at most {self.products.size}, the outputs there are, got {k}")
        require_basis(self.products, k)

    def _steps(self, probes: int, steps: int) -> int:
        """No more Lanczos steps than the kernel has rows."""
        check_positive(steps, "steps")
        check_positive(probes, "probes")
        if probes < 2:
            raise ValueError("probes must be at least 2, or there is no standard error")
        if steps < 2:
            raise ValueError("steps must be at least 2, or there is no quadrature error")
        return min(steps, self.products.size)

    def _tolerance(self, rtol: Number | None, default: float) -> Float[Array, ""]:
        if rtol is not None:
            check_positive_number(rtol, "rtol")
        return jnp.asarray(default if rtol is None else rtol, self.products.dtype)

    @property
    def _eps(self) -> float:
        return float(jnp.finfo(self.products.dtype).eps)

    @property
    def _vector_shape(self) -> tuple[int, ...]:
        return (self.products.samples, *self.products.out_shape)


def _key(key: Key[Array, ""] | None) -> Key[Array, ""]:
    return jax.random.key(0) if key is None else key


def _limit(value: int, name: str) -> Array:
    """As an array, so that another limit is no other program."""
    check_positive(value, name)
    return jnp.asarray(value)


@eqx.filter_jit
def _images(products: KernelProducts, V: Float[Array, "N b"]) -> Float[Array, "N b"]:
    with jax.default_matmul_precision("highest"):
        if products.wide(V.shape[1]):
            return products.over_columns(lambda columns: columns.T @ V)
        return jax.lax.map(products.apply, V.T).T


@eqx.filter_jit
def _diagonal(products: KernelProducts) -> Float[Array, " N"]:
    return products.diagonal()


@eqx.filter_jit
def _dense(products: KernelProducts) -> Float[Array, "N N"]:
    return products.over_columns(lambda columns: columns.T)
