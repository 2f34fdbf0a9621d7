"""Exponential integrators: steps as long as the kernel stays what it is, to the end of training.

Euler's step is bound by `2/lambda_max`, the time to be covered by `1/lambda_min`. A step of these
integrators solves the dynamics linearised at its start exactly, however stiff, and corrects for the drift of
the Jacobian (`exponential/_step.py`). So it is limited by how far the parameters move: its error grows like
the square of `||theta_lin(h) - theta_0||`, in which the steps are measured. In the lazy regime they grow
until one of them reaches `t = infinity`.
"""

from typing import ClassVar

import equinox as eqx
import jax

from implicit_ntk._checks import check_positive, check_positive_number
from implicit_ntk._memory import require_memory
from implicit_ntk.dynamics._problem import FlowProblem
from implicit_ntk.dynamics.exponential._controller import AbstractExponential
from implicit_ntk.dynamics.exponential._modes import NODES, PANELS, Scalar
from implicit_ntk.dynamics.exponential._splitting import AbstractSplitting, DenseSplitting


class Exponential(AbstractExponential):
    """Adaptive exponential steps, to any time, `t = inf` included.

    The estimated error of a step, the larger of those on the training data and on unseen data, is kept
    below `rtol` of `||u(0) - y||` (root mean squares). Unseen data are rows of `X_test`, 64 at most, or where
    there are none midpoints of training samples: errors made while learning stay where the training
    outputs do not see them, and are errors of `f_inf`.

    Where many units of a relu cell slide along their kinks, as in narrow networks or between near samples
    whose labels differ, steps get as short as `1/lambda_max`, and a run may fail for `max_steps`. A residual
    below the tolerance is no longer followed but led to zero.

    **Arguments:**

    - `rtol`: the tolerance of a step, or what the solves resolve where that is more. It bounds the error of
      first order; the solution that is carried on is corrected, its error mostly well below. An array costs
      no retrace when it changes.
    - `order`: 2, or 1 to carry on the linearised flow of each step.
    - `max_steps`: of the whole run; one that needs more fails.

    Memory: some sixteen matrices of (n k)^2 entries, and as many copies of the trained leaves.

    **Raises:** `TypeError`, `ValueError` for values out of range.
    """

    reaches_infinity: ClassVar[bool] = True

    rtol: float | int | Scalar = 1e-3
    order: int = eqx.field(static=True, default=2)
    max_steps: int = 10_000

    def __check_init__(self) -> None:
        check_positive_number(self.rtol, "rtol")
        check_positive(self.max_steps, "max_steps")
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order!r}")

    def check(self, problem: FlowProblem) -> FlowProblem:
        """Raise `ValueError` where `rtol` is below what the solves resolve, `MemoryError` past the limit.

        `ValueError`, too, where the problem knows a Krylov space only.
        """
        if not problem.whole:
            raise ValueError("problem knows a Krylov space only; pose it with krylov_size=None")
        require_memory(
            step_bytes(problem),
            f"an exponential step of {problem.y.size} outputs",
            "pass fewer samples, or take KrylovExponential",
        )
        return super().check(problem)

    @property
    def splitting(self) -> AbstractSplitting:
        """All modes of the kernel."""
        return DenseSplitting()


def step_bytes(problem: FlowProblem) -> int:
    """What a step holds at its peak, counted in its trace: the state, and the step that is tried."""
    N, start = problem.y.size, problem.start
    parameters = sum(leaf.size for leaf in problem.initial_leaves.values())
    states = sum(x.size for x in jax.tree.leaves((start.equilibrium.z, start.adjoint.z)))
    floats = 16 * N**2 + 5 * PANELS * NODES.size * N + 16 * parameters + 12 * states
    return floats * problem.y.dtype.itemsize
