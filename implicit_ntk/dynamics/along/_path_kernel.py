"""What each training sample has contributed to each prediction: the kernel along the path of a run."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from implicit_ntk._checks import AnyArray, check_array, check_positive
from implicit_ntk._memory import require_memory
from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics.along._quadrature import DENSITY
from implicit_ntk.dynamics.along._visit import Run, Visit, journey, posed_run
from implicit_ntk.equilibrium import Method
from implicit_ntk.jacobian import require_gram
from implicit_ntk.networks import AbstractNetwork


class PathKernel(eqx.Module):
    """Contributions of the training samples at the requested times.

    `contributions[t, x, ..., i] = int_0^t k_s(x, x_i) (y_i - u_i(s)) ds`, (T, q, n), or (T, q, k, n) with k
    outputs: of a training sample all its outputs together. `train_contributions` (T, n, n) or
    (T, n, k, n) are those to the training outputs.

    - `times` (T,); `f0` (q,) or (q, k) and `f` with (T,) in front: the outputs on unseen data, at t = 0 and
      of the network at each time, solved for there; `u0`, `u` those on the training data.
    - `nodes`: how many times the run was solved at; `status` of the worst solve: after a failure
      all that follows is NaN.

    Gradient flow obeys `f_t = f_0 + contributions summed over the samples` exactly (Domingos,
    arXiv:2012.00152, Theorem 1), so what `residual` and `train_residual` find are errors of the run and of
    the quadrature. Those of the run count while a mode is learnt; once it is, its velocity is believed.
    """

    times: Float[Array, " T"]
    contributions: Float[Array, "T q *out n"]
    train_contributions: Float[Array, "T n *out n"]
    f0: Float[Array, "q *out"]
    f: Float[Array, "T q *out"]
    u0: Float[Array, "n *out"]
    u: Float[Array, "T n *out"]
    nodes: Int[Array, ""]
    status: Int[Array, ""]

    @property
    def prediction(self) -> Float[Array, "T q *out"]:
        """`f_0` and the contributions: what `f` is where the identity holds."""
        return self.f0[None] + jnp.sum(self.contributions, axis=-1)

    @property
    def residual(self) -> Float[Array, " T"]:
        """The identity's residual on unseen data, `prediction - f`: root mean square over outputs."""
        return _rms(self.prediction - self.f)

    @property
    def relative_residual(self) -> Float[Array, " T"]:
        """The same over that of `f - f_0`; zero at t = 0."""
        return self._over(self.residual, _rms(self.f - self.f0[None]))

    @property
    def train_residual(self) -> Float[Array, " T"]:
        """The identity's residual on the training data, root mean square over outputs."""
        return _rms(self.u0[None] + jnp.sum(self.train_contributions, axis=-1) - self.u)

    @property
    def relative_train_residual(self) -> Float[Array, " T"]:
        """The same over that of `u - u_0`; zero at t = 0."""
        return self._over(self.train_residual, _rms(self.u - self.u0[None]))

    def _over(self, error: Float[Array, " T"], scale: Float[Array, " T"]) -> Float[Array, " T"]:
        """At t = 0 there is rounding over rounding."""
        return jnp.where((self.times == 0) | (error == 0), 0, error / scale)


def path_kernel(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n *out"],
    X_test: Float[AnyArray, "q d"],
    times: Float[AnyArray, " T"] | Sequence[float],
    integrator: AbstractIntegrator,
    density: int = DENSITY,
    method: Method | None = None,
) -> PathKernel:
    """Predictions of gradient flow as sums over the training samples, accumulated along a run.

        f_t(x) = f_0(x) + sum_i int_0^t k_s(x, x_i) (y_i - u_i(s)) ds

    (Domingos, arXiv:2012.00152, Theorem 1; for the square loss without 1/n.) The integrals are Gauss's on
    panels in log t, to any time, `inf` included: once the residual has all but vanished what is left is
    closed with the kernel there, `k H^{-1} (y - u)`. In modes faster than `1/t` the residual comes
    from the velocity of the run, `-H^{-1} du/ds`, where an integrator's error would otherwise count
    `lam t` times.

    The identity is checked on unseen and on training data: see `PathKernel.residual`. It falls with the
    integrator's tolerance, and with `density` until the run itself is what is off. Concrete arrays only.

    **Arguments:** as `gradient_flow`; `X_test` (q, d); `density`, the nodes an e-fold of time, at
    each of which the run is solved on all data and its kernel formed.

    **Raises:** as `gradient_flow`; `ValueError` for a `density` that is no positive integer; `TypeError`
    inside a transformation; `MemoryError` where the contributions are past the limit.
    """
    check_positive(density, "density")
    check_array(X_test, "X_test")
    run, times = posed_run("path_kernel", net, X, y, times, integrator, X_test, method)
    _require_room(run, times.size)
    return _path(run, times, density)


def _path(run: Run, times: Float[np.ndarray, " T"], density: int) -> PathKernel:
    start, total, found, nodes = run.visit, Sums.none(run.visit), [], 0
    for visit, requested in journey(run, times, density):
        if requested:
            found.append((visit.known(total), visit.f, visit.residual + run.problem.y))
        else:
            total, nodes = _added(total, visit), nodes + 1
    totals, f, u = jax.tree.map(lambda *each: jnp.stack(each), *found)
    return PathKernel(
        times=jnp.asarray(times, run.problem.y.dtype),
        contributions=totals.unseen,
        train_contributions=totals.train,
        f0=jnp.asarray(start.f),
        f=f,
        u0=start.residual + run.problem.y,
        u=u,
        nodes=jnp.int32(nodes),
        status=run.visit.status,
    )


def _require_room(run: Run, times: int) -> None:
    """`MemoryError` unless the kernels of a node fit, and the sums at all times, alone and stacked."""
    u, f = run.visit.residual, jnp.asarray(run.visit.f)
    require_gram(len(run.problem.net.trained) + 1, u.size + f.size, u.size, u.dtype)
    nbytes = 2 * (times + 1) * (u.size + f.size) * len(u) * u.dtype.itemsize
    require_memory(nbytes, "the contributions", "pass fewer times or samples")


class Sums(eqx.Module):
    """What each sample has contributed so far to unseen outputs and to those on the training data."""

    unseen: Float[Array, "q *out n"]
    train: Float[Array, "n *out n"]

    @classmethod
    def none(cls, visit: Visit) -> "Sums":
        """At t = 0."""
        f, u = jnp.asarray(visit.f), visit.residual
        return cls(*(jnp.zeros((*outputs.shape, len(u)), u.dtype) for outputs in (f, u)))


@eqx.filter_jit
def _added(total: Sums, visit: Visit) -> Sums:
    assert visit.J_unseen is not None
    J, r = visit.J, visit.integral
    with jax.default_matmul_precision("highest"):
        unseen = total.unseen - _contributions(visit.J_unseen.gram(J), r)
        return Sums(unseen, total.train - _contributions(J.gram(), r))


def _contributions(K: Float[Array, "..."], integral: Float[Array, "n *out"]) -> Float[Array, "q *out n"]:
    """`sum_e K[x, c, i, e] integral[i, e]`."""
    weighted = K * jnp.expand_dims(integral, tuple(range(K.ndim - integral.ndim)))
    return weighted if integral.ndim == 1 else jnp.sum(weighted, axis=-1)


def _rms(x: Float[Array, "T ..."]) -> Float[Array, " T"]:
    return jnp.sqrt(jnp.mean(x**2, axis=tuple(range(1, x.ndim))))
