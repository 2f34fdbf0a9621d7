"""Dynamics: gradient flow of a network, and its linearised twin in closed form."""

from implicit_ntk.dynamics._euler import AbstractIntegrator as AbstractIntegrator
from implicit_ntk.dynamics._euler import Euler as Euler
from implicit_ntk.dynamics._flow import FlowState as FlowState
from implicit_ntk.dynamics._flow import assemble as assemble
from implicit_ntk.dynamics._flow import gradient_flow as gradient_flow
from implicit_ntk.dynamics._flow import pose as pose
from implicit_ntk.dynamics._flow import reported as reported
from implicit_ntk.dynamics._flow import segment as segment
from implicit_ntk.dynamics._flow import start as start
from implicit_ntk.dynamics._linearized import LinearizedFlow as LinearizedFlow
from implicit_ntk.dynamics._linearized import linearized_flow as linearized_flow
from implicit_ntk.dynamics._problem import FlowProblem as FlowProblem
from implicit_ntk.dynamics._record import Record as Record
from implicit_ntk.dynamics._trajectory import Trajectory as Trajectory
from implicit_ntk.dynamics._trajectory import predict as predict
