"""Lazy or rich: how far a run has moved its kernel, its features and its parameters, in numbers."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from implicit_ntk._checks import AnyArray, check_positive
from implicit_ntk.dynamics._integrator import AbstractIntegrator
from implicit_ntk.dynamics.along._measure import (
    Groups,
    Reading,
    added,
    initial_rates,
    loss_rates,
    read,
    start_of,
)
from implicit_ntk.dynamics.along._quadrature import DENSITY
from implicit_ntk.dynamics.along._rotation import dimensions_of, rotation
from implicit_ntk.dynamics.along._summary import summary_of
from implicit_ntk.dynamics.along._visit import Run, journey, posed_run
from implicit_ntk.equilibrium import Method
from implicit_ntk.jacobian import require_gram
from implicit_ntk.networks import AbstractNetwork

HELD = 6
"""Kernels that are held at once: at t = 0, at the last time, at this one, their difference, eigenvectors."""

GroupsOverTime = dict[str, Float[Array, " T"]]


class Regime(eqx.Module):
    """The lazy-or-rich meter at the requested times `times` (T,); prints as a table of the last.

    - `loss` (T,): `||u - y||^2 / 2`; `initial_loss` that at t = 0.
    - `operator_drift`, `frobenius_drift` (T,): `||H(t) - H(0)|| / ||H(0)||` in either norm; `drift_noise`
      (T,), what the solves' tolerances and rounding make of no drift at all, in operator norm.
    - `velocity` (T,): what the kernel moves while the loss falls by a factor of e,
      `||H(t_j) - H(t_{j-1})||_F / (||H(0)||_F log(L(t_{j-1}) / L(t_j)))`, from each time to the next,
      the first from t = 0. In units of the loss, for a large kernel is fast in t whether it moves or not;
      towards t = inf the loss falls without end.
    - `kernel_target` (T,): alignment with `y y^T`, see `ink.alignment`; `initial_kernel_target`.
    - `lambda_min` (T,), `initial_lambda_min`: theorems ask that it stay above half of what it was.
    - `dimensions` (D,): the d up to `top` after which the spectrum of `H(0)` has a gap of a tenth; a cluster
      of eigenvalues has no eigenvectors of its own and is taken as a whole. `rotation` (T, D): the
      largest principal angle, in radians, between the spaces of the first d eigenvectors of `H(0)` and
      of `H(t)`; NaN where `H(t)` has no gap there that is resolved.
    - `flips` (T,): the share of units, over all samples, that are on where they were off at t = 0, or off
      where they were on. None for cells without activation patterns, which are not relu of an affine map.
    - `distance`, `relative_distance`, by trained leaf (T,): `||theta_g(t) - theta_g(0)||`, and that over
      `||theta_g(0)||`, infinite for a leaf that was zero.
    - `explained`, by trained leaf (T,): `int_0^t r^T H_g r ds`, what each leaf's kernel has learnt of the
      loss; `shares`, these over their sum, at t = 0 in the limit.
    - `loss_residual` (T,): what the explained parts miss of `L(0) - L(t) = int r^T H r ds`, over `L(0)`: the
      error of the run and of the quadrature.
    - `nodes`: of the quadrature; `status` of the worst solve: after a failure all that follows is NaN.
    """

    times: Float[Array, " T"]
    loss: Float[Array, " T"]
    initial_loss: Float[Array, ""]
    operator_drift: Float[Array, " T"]
    frobenius_drift: Float[Array, " T"]
    drift_noise: Float[Array, " T"]
    velocity: Float[Array, " T"]
    kernel_target: Float[Array, " T"]
    initial_kernel_target: Float[Array, ""]
    lambda_min: Float[Array, " T"]
    initial_lambda_min: Float[Array, ""]
    dimensions: tuple[int, ...] = eqx.field(static=True)
    rotation: Float[Array, "T D"]
    flips: Float[Array, " T"] | None
    distance: GroupsOverTime
    relative_distance: GroupsOverTime
    explained: GroupsOverTime
    shares: GroupsOverTime
    loss_residual: Float[Array, " T"]
    nodes: Int[Array, ""]
    status: Int[Array, ""]

    def summary(self, index: int = -1) -> str:
        """One time in words and numbers."""
        return summary_of(self, index)

    def __str__(self) -> str:
        return self.summary()


def regime(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n *out"],
    times: Float[AnyArray, " T"] | Sequence[float],
    integrator: AbstractIntegrator,
    top: int = 5,
    density: int = DENSITY,
    method: Method | None = None,
) -> Regime:
    """The lazy-or-rich meter: what gradient flow does to the kernel, the features and the parameters.

    Drift and velocity of the kernel, its alignment with the targets, the turn of its leading eigenvectors,
    the units that switched, the way of each trained leaf, and the share of the learnt loss that each leaf's
    kernel explains: is the implicit layer doing anything that the output layer would not? See `Regime`.
    To walk between the regimes scale the outputs: `Scaled(net, alpha)`.

    `L(0) - L(t) = int r^T H r ds`, `H = sum_g H_g`, is integrated along the run as in `path_kernel`. Concrete
    arrays only; kernels (n, n) are formed.

    **Arguments:** as `gradient_flow`; `top`, how many leading eigenvectors to follow; `density`, the nodes an
    e-fold of time.

    **Raises:** as `gradient_flow`; `ValueError` for `top` and `density` that are no positive integers, for
    targets that are all zero, and for a kernel that is; `TypeError` inside a transformation; `MemoryError`
    past the limit.
    """
    check_positive(top, "top")
    check_positive(density, "density")
    run, times = posed_run("regime", net, X, y, times, integrator, None, method)
    problem, rows = run.problem, run.problem.y.size
    require_gram(HELD, rows, rows, problem.y.dtype)
    if not problem.y.any():
        raise ValueError("y must not be all zero: a kernel is aligned with nothing")
    if not problem.eigenvalues[-1] > 0:
        raise ValueError("net does not change its outputs on X whatever is trained: H(0) is zero")
    return _read_along(run, times, top, density)


def _read_along(run: Run, times: Float[np.ndarray, " T"], top: int, density: int) -> Regime:
    """The readings at the times, and between them what the leaves explain of the loss."""
    problem = run.problem
    start = start_of(problem, run.visit)
    first = read(problem, start, start.H, run.visit, top)
    rates = initial_rates(run.visit)
    explained, nodes, before, found = jax.tree.map(jnp.zeros_like, rates), 0, first.H, []
    for visit, requested in journey(run, times, density):
        if requested:
            reading = visit.known(read(problem, start, before, visit, top))
            before = reading.H
            turned = _turned(first, reading, top)
            found.append((_without_matrices(reading), turned, visit.known(explained)))
        else:
            explained, nodes = added(explained, loss_rates(visit)), nodes + 1
    readings, turns, learnt = jax.tree.map(lambda *each: jnp.stack(each), *found)
    return _regime(times, first, rates, readings, turns, learnt, nodes, top, run.visit.status)


def _regime(
    times: Float[np.ndarray, " T"],
    first: Reading,
    rates: Groups,
    readings: Reading,
    turns: Float[Array, "T D"],
    learnt: GroupsOverTime,
    nodes: int,
    top: int,
    status: Int[Array, ""],
) -> Regime:
    fallen = first.loss - readings.loss
    return Regime(
        times=jnp.asarray(times, first.loss.dtype),
        loss=readings.loss,
        initial_loss=first.loss,
        operator_drift=readings.operator_drift,
        frobenius_drift=readings.frobenius_drift,
        drift_noise=readings.noise,
        velocity=_velocity(first.loss, readings),
        kernel_target=readings.kernel_target,
        initial_kernel_target=first.kernel_target,
        lambda_min=readings.eigenvalues[:, -1],
        initial_lambda_min=first.eigenvalues[-1],
        dimensions=_dimensions(first, top),
        rotation=turns,
        flips=readings.flips,
        distance=readings.distance,
        relative_distance=readings.relative_distance,
        explained=learnt,
        shares=_shares(learnt, rates),
        loss_residual=(fallen - sum(learnt.values())) / jnp.where(first.loss > 0, first.loss, 1),
        nodes=jnp.int32(nodes),
        status=status,
    )


def _velocity(initial_loss: Float[Array, ""], readings: Reading) -> Float[Array, " T"]:
    """What the kernel moved over the e-folds of the loss; infinite where the loss did not fall."""
    least = jnp.finfo(readings.loss.dtype).tiny
    logs = jnp.log(jnp.maximum(jnp.append(initial_loss, readings.loss), least))
    folds = jnp.maximum(logs[:-1] - logs[1:], 0)
    return jnp.where(readings.motion == 0, readings.motion, readings.motion / folds)


def _shares(learnt: GroupsOverTime, rates: Groups) -> GroupsOverTime:
    """Of each group, over their sum: where nothing has been learnt yet, of what is about to be."""
    total, rate = sum(learnt.values()), sum(rates.values())
    safe = jnp.where(total == 0, 1, total)
    limit = {name: each / jnp.where(rate > 0, rate, 1) for name, each in rates.items()}
    return {name: jnp.where(total == 0, limit[name], each / safe) for name, each in learnt.items()}


def _dimensions(first: Reading, top: int) -> tuple[int, ...]:
    return dimensions_of(np.asarray(first.eigenvalues), float(first.resolution), top)


def _turned(first: Reading, now: Reading, top: int) -> Float[Array, " D"]:
    start, vectors, values = map(np.asarray, (first.eigenvectors, now.eigenvectors, now.eigenvalues))
    angles = rotation(start, vectors, values, float(now.resolution), _dimensions(first, top))
    return jnp.asarray(angles, first.loss.dtype)


def _without_matrices(reading: Reading) -> Reading:
    """What of a reading is kept."""
    return eqx.tree_at(lambda r: (r.H, r.eigenvectors), reading, (None, None))
