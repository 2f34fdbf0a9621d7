"""Dynamics: gradient flow of a network, and its linearised twin in closed form."""

from implicit_ntk.dynamics._euler import Euler as Euler
from implicit_ntk.dynamics._exponential import Exponential as Exponential
from implicit_ntk.dynamics._flow import (
    FlowState as FlowState,
    assemble as assemble,
    gradient_flow as gradient_flow,
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
from implicit_ntk.dynamics._trajectory import Trajectory as Trajectory, predict as predict
