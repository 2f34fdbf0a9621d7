"""What the lazy-or-rich meter measures at a visit of a run."""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from implicit_ntk.dynamics._problem import FlowProblem, Leaves
from implicit_ntk.dynamics.along._visit import Visit
from implicit_ntk.kernel import alignment, kernel_drift, relative_residual
from implicit_ntk.networks import trained_leaves

Scalar = Float[Array, ""]
Groups = dict[str, Scalar]


class Start(eqx.Module):
    """What a run is compared with: its kernel, activations and trained leaves at t = 0."""

    H: Float[Array, "N N"]
    pattern: Bool[Array, "n m"] | None
    leaves: Leaves


class Reading(eqx.Module):
    """One time; `H` is the kernel, from which the next reading is a motion."""

    H: Float[Array, "N N"]
    loss: Scalar
    operator_drift: Scalar
    frobenius_drift: Scalar
    noise: Scalar
    motion: Scalar
    kernel_target: Scalar
    eigenvalues: Float[Array, " N"]
    eigenvectors: Float[Array, "N top"]
    resolution: Scalar
    flips: Scalar | None
    distance: Groups
    relative_distance: Groups


@eqx.filter_jit
def start_of(problem: FlowProblem, visit: Visit) -> Start:
    """The run at t = 0."""
    return Start(kernel_of(visit), pattern_of(visit), problem.initial_leaves)


@eqx.filter_jit
def read(problem: FlowProblem, start: Start, before: Float[Array, "N N"], visit: Visit, top: int) -> Reading:
    """All of a visit but what is integrated."""
    H = kernel_of(visit)
    # Rounding alone in these two; what the solves left is known, and counted beside it.
    drift, along = kernel_drift(H, start.H, 0.0), alignment(H, jnp.ravel(problem.y), 0.0)
    unsolved = 4 * relative_residual(visit.J)
    moved = {
        name: jnp.linalg.norm(jnp.ravel(leaf - start.leaves[name])) for name, leaf in _leaves(visit).items()
    }
    sizes = {name: jnp.linalg.norm(jnp.ravel(leaf)) for name, leaf in start.leaves.items()}
    pattern = pattern_of(visit)
    return Reading(
        H=H,
        loss=jnp.sum(visit.residual**2) / 2,
        operator_drift=drift.relative_operator,
        frobenius_drift=drift.relative_frobenius,
        noise=jnp.maximum(drift.noise / drift.operator_scale, 2 * unsolved),
        motion=jnp.linalg.norm(H - before) / drift.frobenius_scale,
        kernel_target=along.kernel_target,
        eigenvalues=along.eigenvalues,
        eigenvectors=along.eigenvectors[:, :top],
        resolution=jnp.maximum(along.resolution, unsolved * along.eigenvalues[0]),
        flips=None if pattern is None else jnp.mean(pattern != start.pattern, dtype=H.dtype),
        distance=moved,
        relative_distance={name: _over(moved[name], sizes[name]) for name in moved},
    )


@eqx.filter_jit
def loss_rates(visit: Visit) -> Groups:
    """Each group's part of the loss that is learnt at a node: its part of `int r^T H_g r ds`."""
    with jax.default_matmul_precision("highest"):
        slope, moved = visit.J.pull(visit.residual), visit.J.pull(visit.integral)
    return {name: visit.share * jnp.sum(slope[name] * moved[name]) for name in slope}


@eqx.filter_jit
def initial_rates(visit: Visit) -> Groups:
    """`r^T H_g r` of each group: how the loss begins to fall."""
    with jax.default_matmul_precision("highest"):
        return {name: jnp.sum(slope**2) for name, slope in visit.J.pull(visit.residual).items()}


def kernel_of(visit: Visit) -> Float[Array, "N N"]:
    """The kernel of the training data, outputs flattened."""
    with jax.default_matmul_precision("highest"):
        return visit.J.gram().reshape(visit.residual.size, visit.residual.size)


def pattern_of(visit: Visit) -> Bool[Array, "n m"] | None:
    """Which units are active on which sample; None for a cell that is no relu of an affine map."""
    form = visit.train.net.affine(visit.train.phi)
    if form is None or form.activation is not jax.nn.relu:
        return None
    with visit.train.method.products():
        return form.slopes(visit.train.equilibrium.z) > 0


def _leaves(visit: Visit) -> Leaves:
    return trained_leaves(visit.train.net)


def _over(x: Scalar, size: Scalar) -> Scalar:
    return jnp.where(x == 0, x, x / size)


def added(total: Groups, part: Groups) -> Groups:
    """Group by group."""
    return jax.tree.map(operator.add, total, part)
