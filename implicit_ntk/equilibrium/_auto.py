"""The solver that is left to the network to choose."""

import dataclasses

from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from implicit_ntk.equilibrium._anderson import Anderson
from implicit_ntk.equilibrium._solver import AbstractSolver, Map, check_tolerances


class Auto(AbstractSolver):
    """Whatever suits the cell: every entry that takes a network puts `choose(net)` in its place.

    That goes by the form of the cell and by its certificate, and says which solvers and why. The linear
    solver of an implicit adjoint is chosen with it. The certificate costs some fifty products with a
    vector at each call: `method = choose(net).method` pays that once. Inside a transformation, where
    its value is unknown, the form alone decides.

    For a bare map, of which nothing is known, it is `Anderson`.

    **Arguments:** `rtol`, `atol`, `max_steps`: those of the solver that is chosen.
    """

    keeps_best = True

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)

    def lend(self, solver: AbstractSolver) -> AbstractSolver:
        """A solver with these tolerances."""
        return dataclasses.replace(solver, rtol=self.rtol, atol=self.atol, max_steps=self.max_steps)

    def init(self, f: Map, z: PyTree[Array]) -> PyTree:
        """Anderson's."""
        return self.lend(Anderson()).init(f, z)

    def step(
        self, f: Map, z: PyTree[Array], fz: PyTree[Array], state: PyTree
    ) -> tuple[PyTree[Array], PyTree]:
        """Anderson's."""
        return self.lend(Anderson()).step(f, z, fz, state)

    def error(
        self, residual: Float[Array, "..."], rate: Float[Array, "..."], state: PyTree
    ) -> Float[Array, "..."]:
        """Anderson's."""
        return self.lend(Anderson()).error(residual, rate, state)
