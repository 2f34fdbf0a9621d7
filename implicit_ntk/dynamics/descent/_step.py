"""One step of gradient descent: solve, weigh the adjoint equation with the loss, update.

The gradient of a loss is `J^T dL/du`. Of k outputs it takes one adjoint equation a sample and not k:
that of the scalar output `w_i . u_i`, `w = dL/du`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from implicit_ntk.dynamics._problem import Data, Leaves, States
from implicit_ntk.dynamics.descent._loss import AbstractLoss
from implicit_ntk.equilibrium import Method, Status
from implicit_ntk.jacobian import Linearization, adjoint_states, from_linearization
from implicit_ntk.networks import (
    AbstractNetwork,
    AbstractOutputWrapper,
    solve_injected,
    trained_leaves,
    with_leaves,
)

if TYPE_CHECKING:
    import optax

Count = Int[Array, ""]


class Weighted(AbstractOutputWrapper):
    """`sum_c w_ic u_ic`, one output a sample: the gradient of their sum is a loss's whose `dL/du` is `w`."""

    net: AbstractNetwork
    weights: Float[Array, "n *out"]

    def __init__(self, net: AbstractNetwork, weights: Float[Array, "n *out"]):
        self.net, self.weights = net, weights

    def readout(self, z: PyTree[Array], phi: PyTree[Array]) -> Float[Array, " n"]:
        """The weighted sum of the outputs."""
        weighted = self.weights * self.net.readout(z, phi)
        return jnp.sum(weighted, axis=tuple(range(1, weighted.ndim)))


class Batches(eqx.Module):
    """Minibatches of `size` rows, drawn without repetition anew every epoch; what is left over waits."""

    key: Key[Array, ""]
    size: int = eqx.field(static=True)

    def rows(self, step: Count, n: int) -> Int[Array, " size"]:
        """The rows of a step, known from its number alone."""
        epoch, place = jnp.divmod(step, n // self.size)
        order = jax.random.permutation(jax.random.fold_in(self.key, epoch), n)
        return lax.dynamic_slice(order, (place * self.size,), (self.size,))


class DescentProblem(eqx.Module):
    """Train `net` on `train`, `y` under `loss`, watching `test`, `y_test`; `batches` None for all at once."""

    net: AbstractNetwork
    train: Data
    y: Float[Array, "n *out"]
    test: Data | None
    y_test: Float[Array, "q *out"] | None
    loss: AbstractLoss
    batches: Batches | None
    method: Method

    @property
    def initial_leaves(self) -> Leaves:
        """The trained leaves before the first step."""
        return trained_leaves(self.net)

    def batch(self, step: Count) -> tuple[Data, Float[Array, "r *out"], Int[Array, " r"] | None]:
        """The data of a step, their targets, and which rows they are: None for all."""
        if self.batches is None:
            return self.train, self.y, None
        rows = self.batches.rows(step, self.y.shape[0])
        baseline = self.train.baseline
        baseline = baseline[rows] if isinstance(baseline, jax.Array) else baseline
        return Data(self.train.X[rows], baseline, None), self.y[rows], rows


class DescentState(eqx.Module):
    """Where a run stands: all that is needed to go on.

    `z` and `p` are the last equilibria and adjoint states of every training sample, from which its next
    solves start.
    """

    steps: Count
    leaves: Leaves
    optimizer: PyTree
    z: PyTree[Array]
    p: PyTree[Array]
    forward_evaluations: Count
    adjoint_evaluations: Count
    status: Count

    @classmethod
    def initial(cls, problem: DescentProblem, optimizer: "optax.GradientTransformation") -> "DescentState":
        """Before the first step; nothing is solved yet."""
        count, leaves = jnp.zeros((), jnp.int32), problem.initial_leaves
        z = problem.net.initial_state(problem.train.injected(problem.net))
        still = jax.tree.map(jnp.zeros_like, z)
        return cls(count, leaves, optimizer.init(leaves), z, still, count, count, count)


def step(
    problem: DescentProblem, optimizer: "optax.GradientTransformation", state: DescentState
) -> DescentState:
    """The state after one update; after a failure, or one to values that are not finite, as it was."""
    data, y, rows = problem.batch(state.steps)
    near = jax.tree.map(lambda leaf: leaf if rows is None else leaf[rows], (state.z, state.p))
    value, states, slope = loss_gradient(problem, state.leaves, data, y, *near)

    def loss(leaves: Leaves) -> Float[Array, ""]:
        cast = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), leaves, state.leaves)
        return loss_of(problem, cast, data, y, states.equilibrium.z)

    updates, memory = _update(optimizer, state, value, slope, loss, problem.y.shape[0] / y.shape[0])
    leaves = jax.tree.map(lambda leaf, u: leaf + u.astype(leaf.dtype), state.leaves, updates)
    status = jnp.maximum(states.status, jnp.where(_finite(leaves), 0, Status.NONFINITE))
    moved = DescentState(
        steps=state.steps + 1,
        leaves=leaves,
        optimizer=memory,
        z=_put(state.z, rows, states.equilibrium.z),
        p=_put(state.p, rows, states.adjoint.z),
        forward_evaluations=state.forward_evaluations + jnp.max(states.equilibrium.steps),
        adjoint_evaluations=state.adjoint_evaluations + jnp.max(states.adjoint.steps),
        status=state.status,
    )
    chosen = jax.tree.map(lambda new, old: jnp.where(status > Status.STALLED, old, new), moved, state)
    status = jnp.maximum(state.status, status).astype(jnp.int32)
    return eqx.tree_at(lambda s: s.status, chosen, status)


def _update(
    optimizer: "optax.GradientTransformation",
    state: DescentState,
    value: Float[Array, ""],
    slope: Leaves,
    loss: Callable[[Leaves], Float[Array, ""]],
    scale: float,
) -> tuple[PyTree, PyTree]:
    """What the optimiser makes of `scale` times a batch's loss, which a line search asks for elsewhere."""
    import optax  # late, as in `gradient_descent`

    slope = jax.tree.map(lambda g: scale * g, slope)
    return optax.with_extra_args_support(optimizer).update(
        slope,
        state.optimizer,
        state.leaves,
        value=scale * value,
        grad=slope,
        value_fn=lambda leaves: scale * loss(leaves),
    )


def loss_of(
    problem: DescentProblem, leaves: Leaves, data: Data, y: Float[Array, "r *out"], z0: PyTree[Array]
) -> Float[Array, ""]:
    """The loss of some data, differentiable in the leaves; NaN where a solve fails."""
    net = with_leaves(problem.net, leaves)
    phi = data.injected(net)
    eq = solve_injected(net, phi, z0, problem.method, "nan")
    return problem.loss.value(net.readout(eq.z, phi) - data.baseline, y)


def loss_gradient(
    problem: DescentProblem,
    leaves: Leaves,
    data: Data,
    y: Float[Array, "r *out"],
    z0: PyTree[Array],
    p0: PyTree[Array],
) -> tuple[Float[Array, ""], States, Leaves]:
    """The loss of some data and its gradient `J^T dL/du`, with the two solves that it took, from guesses."""
    net, method = with_leaves(problem.net, leaves), problem.method
    phi = data.injected(net)
    eq = solve_injected(net, phi, z0, method, "report")
    u = net.readout(eq.z, phi) - data.baseline
    w = problem.loss.slope(u, y)
    # A scalar output has one adjoint equation as it is, and its solution does not shrink with the loss.
    seen, pulled = (net, w) if w.ndim == 1 else (Weighted(net, w), jnp.ones_like(w[:, 0]))
    adjoint = adjoint_states(seen, phi, eq.z, method, "report", p0)
    at = Linearization(seen, data.X, phi, eq, adjoint, method)
    return problem.loss.value(u, y), States(eq, adjoint), from_linearization(at).pull(pulled)


def _put(all_rows: PyTree[Array], rows: Int[Array, " r"] | None, some: PyTree[Array]) -> PyTree[Array]:
    """The states of all samples with those of some rows replaced."""
    return some if rows is None else jax.tree.map(lambda a, b: a.at[rows].set(b), all_rows, some)


def _finite(leaves: Leaves) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves.values()]))
