"""The exponential integrator for kernels that are too large to form or to decompose."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._checks import check_positive, check_positive_number
from implicit_ntk.dynamics._krylov_basis import kernel_product
from implicit_ntk.dynamics._problem import FlowProblem
from implicit_ntk.dynamics.exponential._controller import AbstractExponential
from implicit_ntk.dynamics.exponential._modes import Modes, Scalar, in_full_precision
from implicit_ntk.dynamics.exponential._position import Position
from implicit_ntk.dynamics.exponential._splitting import AbstractSplitting
from implicit_ntk.dynamics.exponential._state import rms
from implicit_ntk.dynamics.krylov._modes import SHARE, KrylovModes
from implicit_ntk.dynamics.krylov._step import KrylovStep
from implicit_ntk.jacobian import AbstractJacobian


class KrylovSplitting(AbstractSplitting):
    """The modes of as large a Krylov space as the step takes, or as there is room for."""

    rtol: float | int | Scalar

    @in_full_precision
    def first(self, problem: FlowProblem, start: Position) -> KrylovModes:
        """From the Krylov space that posed the problem."""
        assert problem.leakage is not None
        r = jnp.ravel(start.residual)
        pairs = problem.eigenvalues, problem.eigenvectors, problem.leakage
        return KrylovModes.of(pairs, r, SHARE * jnp.asarray(self.rtol, r.dtype) * rms(r))

    @in_full_precision
    def modes(
        self, J: AbstractJacobian, r: Float[Array, "n *out"], kept: Modes, way: Scalar, tolerated: Scalar
    ) -> KrylovModes:
        """Of the space that begins at this step's residual: `kept` tells the tolerance alone."""
        assert isinstance(kept, KrylovModes)
        r = jnp.ravel(r)
        most = kept.eigenvalues.size
        return KrylovModes.reaching(kernel_product(J), r, most, kept.tolerance, way)

    def step(
        self,
        J0: AbstractJacobian,
        J1: AbstractJacobian,
        start: Position,
        modes: Modes,
        ahead: Position,
        h: Scalar,
    ) -> KrylovStep:
        """With the space enlarged by what the drift does."""
        assert isinstance(modes, KrylovModes)
        return KrylovStep.between(J0, J1, start, modes, ahead, h)


class KrylovExponential(AbstractExponential):
    """`Exponential` for many samples: from products with `H = J J^T`, which is never formed.

    Takes the memory of `krylov` vectors a few times over beside that of the Jacobian, and no array of N^2
    entries. The linear part of a step is solved in the Krylov space of the residual, of as many vectors as
    bring what leaves it below a tenth of the tolerance, by a bound (`_krylov_basis`), which counts as part
    of the step's error. Its steps are otherwise those of `Exponential`, `rtol` of the same meaning.

    A step of length h takes some `2 sqrt(h lambda_max)` vectors, more at tight tolerances, fewer where the
    eigenvalues decay fast, two products of (n, m) with (m, m) each; where `krylov` are not enough it is
    shortened. So a long time t costs about `4 t lambda_max / krylov` vectors: 64 reach a thousand
    `1/lambda_max` in a step, the end of training, at several `1/lambda_min`, in as many steps as the
    condition number is thousands.
    `t = inf` is refused where there are more outputs than vectors: whether the slowest mode is ever
    learnt is then not known.

    **Arguments:**

    - `rtol`, `order`, `max_steps`: as for `Exponential`.
    - `krylov`: the vectors of a space at most, N where there are fewer outputs.

    **Raises:** `TypeError`, `ValueError` for values out of range.
    """

    reaches_infinity: ClassVar[bool] = True

    rtol: float | int | Scalar = 1e-3
    krylov: int = eqx.field(static=True, default=64)
    order: int = eqx.field(static=True, default=2)
    max_steps: int = 10_000

    def __check_init__(self) -> None:
        check_positive_number(self.rtol, "rtol")
        check_positive(self.krylov, "krylov")
        check_positive(self.max_steps, "max_steps")
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order!r}")

    def check(self, problem: FlowProblem) -> FlowProblem:
        """Raise `ValueError` as `Exponential` does, and where the problem was posed for another one."""
        remedy = "pose it with krylov_size=integrator.krylov_size"
        if problem.whole:
            raise ValueError(f"problem knows no Krylov space; {remedy}")
        known, wanted = problem.eigenvalues.size, min(self.krylov, problem.y.size)
        if known != wanted:
            raise ValueError(f"problem knows a Krylov space of {known} vectors, not {wanted}; {remedy}")
        return super().check(problem)

    @property
    def krylov_size(self) -> int | None:
        """The kernel is known by products."""
        return self.krylov

    @property
    def splitting(self) -> AbstractSplitting:
        """The modes of Krylov spaces."""
        return KrylovSplitting(self.rtol)
