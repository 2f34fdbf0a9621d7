"""How to solve: one value that every entry point takes as `method=`."""

from contextlib import AbstractContextManager

import equinox as eqx
import jax

from implicit_ntk.equilibrium._adjoint import AbstractAdjoint, ImplicitAdjoint
from implicit_ntk.equilibrium._picard import Picard
from implicit_ntk.equilibrium._policy import POLICIES, Policy
from implicit_ntk.equilibrium._solver import AbstractSolver

PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")


class Method(eqx.Module):
    """Solver, adjoint, failure policy and precision of the products.

    - `solver`: the forward iteration, `Picard()` by default.
    - `adjoint`: how derivatives are taken, `ImplicitAdjoint()` by default.
    - `on_failure`: `"raise"` (a failed solve raises, inside any transformation too), `"nan"` (its state
      and its cotangents are NaN), `"report"` (the state is handed out as it is, its `status` tells; an
      adjoint that failed still gives NaN, never an unconverged number).
    - `precision`: of matrix products and convolutions, None for the highest; otherwise one of JAX's
      names (`"default"`, `"high"`, `"tensorfloat32"`, ...). A product that a user's own function gives
      a precision keeps it.
    """

    solver: AbstractSolver = Picard()
    adjoint: AbstractAdjoint = ImplicitAdjoint()
    on_failure: Policy = "raise"
    precision: str | None = None

    def __check_init__(self) -> None:
        if not isinstance(self.solver, AbstractSolver):
            raise TypeError(f"solver must be a solver such as Picard(), got {self.solver!r}")
        if not isinstance(self.adjoint, AbstractAdjoint):
            raise TypeError(f"adjoint must be an adjoint such as ImplicitAdjoint(), got {self.adjoint!r}")
        if self.on_failure not in POLICIES:
            raise ValueError(f"on_failure must be one of {POLICIES}, got {self.on_failure!r}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ValueError(f"precision must be None or one of {PRECISIONS}, got {self.precision!r}")

    def products(self) -> AbstractContextManager:
        """A context in which every product is traced with this method's precision written on it."""
        return jax.default_matmul_precision(self.precision or "highest")
