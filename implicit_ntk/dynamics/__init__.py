"""Dynamics: gradient flow of a network, and its linearised twin in closed form."""

from implicit_ntk.dynamics._adaptive import Adaptive as Adaptive
from implicit_ntk.dynamics._deviation import Deviation as Deviation, Split as Split, deviation as deviation
from implicit_ntk.dynamics._euler import Euler as Euler
from implicit_ntk.dynamics._flow import (
    FlowState as FlowState,
    assemble as assemble,
    gradient_flow as gradient_flow,
    measure as measure,
    move as move,
    pose as pose,
    reported as reported,
    segment as segment,
    start as start,
)
from implicit_ntk.dynamics._integrator import AbstractIntegrator as AbstractIntegrator
from implicit_ntk.dynamics._linearized import (
    LinearizedFlow as LinearizedFlow,
    linearized_flow as linearized_flow,
)
from implicit_ntk.dynamics._problem import FlowProblem as FlowProblem
from implicit_ntk.dynamics._record import Record as Record
from implicit_ntk.dynamics._runge_kutta import RK4 as RK4, Heun as Heun
from implicit_ntk.dynamics._taylor import Taylor as Taylor, taylor as taylor
from implicit_ntk.dynamics._trajectory import Trajectory as Trajectory, predict as predict
from implicit_ntk.dynamics.along import (
    PathKernel as PathKernel,
    Regime as Regime,
    path_kernel as path_kernel,
    regime as regime,
)
from implicit_ntk.dynamics.descent import (
    AbstractLoss as AbstractLoss,
    CrossEntropy as CrossEntropy,
    LinearizedDescent as LinearizedDescent,
    SquareLoss as SquareLoss,
    StepBound as StepBound,
    gradient_descent as gradient_descent,
    largest_step as largest_step,
    linearized_descent as linearized_descent,
)
from implicit_ntk.dynamics.exponential import Exponential as Exponential
from implicit_ntk.dynamics.krylov import (
    KrylovExponential as KrylovExponential,
    KrylovLinearizedFlow as KrylovLinearizedFlow,
    krylov_linearized_flow as krylov_linearized_flow,
)
