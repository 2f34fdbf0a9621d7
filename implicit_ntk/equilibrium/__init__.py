"""Equilibria `z = f(z, args)` for any `f`: drivers, solvers, the implicit rule, statuses.

Three things that do not know each other: a *solver* (`_picard.py`) proposes the next guess; the
*driver* (`_driver.py`) owns the only loop, tests residuals and keeps the books; an *adjoint*
(`_adjoint.py`) attaches derivatives to the solution by the rule in `_rule.py`. Knows no network.
"""

from implicit_ntk.equilibrium._adjoint import (
    AbstractAdjoint as AbstractAdjoint,
    AbstractImplicitAdjoint as AbstractImplicitAdjoint,
    GuardedSolve as GuardedSolve,
    ImplicitAdjoint as ImplicitAdjoint,
    JacobianFree as JacobianFree,
    ReverseAdjoint as ReverseAdjoint,
    Unrolled as Unrolled,
)
from implicit_ntk.equilibrium._affine import (
    AffineMap as AffineMap,
    LinearizedAffine as LinearizedAffine,
)
from implicit_ntk.equilibrium._anderson import Anderson as Anderson
from implicit_ntk.equilibrium._auto import Auto as Auto
from implicit_ntk.equilibrium._batch import norms as norms
from implicit_ntk.equilibrium._broyden import Broyden as Broyden
from implicit_ntk.equilibrium._chord import Chord as Chord
from implicit_ntk.equilibrium._driver import Equilibrium as Equilibrium, residuals as residuals
from implicit_ntk.equilibrium._fixed_point import (
    fixed_point as fixed_point,
    solve_fixed_point as solve_fixed_point,
)
from implicit_ntk.equilibrium._forward_backward import ForwardBackward as ForwardBackward
from implicit_ntk.equilibrium._incremental import (
    MixedPicard as MixedPicard,
    low_product as low_product,
    low_type as low_type,
)
from implicit_ntk.equilibrium._iterated import Iterated as Iterated
from implicit_ntk.equilibrium._krylov import GMRES as GMRES, BiCGStab as BiCGStab
from implicit_ntk.equilibrium._linear import (
    AbstractLinearSolver as AbstractLinearSolver,
    Neumann as Neumann,
)
from implicit_ntk.equilibrium._lu import LU as LU
from implicit_ntk.equilibrium._method import Method as Method
from implicit_ntk.equilibrium._newton import Newton as Newton
from implicit_ntk.equilibrium._peaceman_rachford import PeacemanRachford as PeacemanRachford
from implicit_ntk.equilibrium._picard import Picard as Picard
from implicit_ntk.equilibrium._policy import (
    ADJOINT as ADJOINT,
    FORWARD as FORWARD,
    Policy as Policy,
    checked as checked,
    guard_adjoint as guard_adjoint,
    guard_forward as guard_forward,
    has_tracer as has_tracer,
)
from implicit_ntk.equilibrium._rule import LinearMap as LinearMap, linear_equation as linear_equation
from implicit_ntk.equilibrium._solver import AbstractSolver as AbstractSolver, Map as Map
from implicit_ntk.equilibrium._status import (
    ConvergenceError as ConvergenceError,
    Status as Status,
    failure_index as failure_index,
    failure_messages as failure_messages,
)
from implicit_ntk.equilibrium._stopping import default_rtol as default_rtol
