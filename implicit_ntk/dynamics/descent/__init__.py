"""Gradient descent: any optimiser, its losses, its longest step, and its linearised twin."""

from implicit_ntk.dynamics.descent._descent import gradient_descent as gradient_descent
from implicit_ntk.dynamics.descent._largest_step import StepBound as StepBound, largest_step as largest_step
from implicit_ntk.dynamics.descent._linearized_descent import (
    LinearizedDescent as LinearizedDescent,
    linearized_descent as linearized_descent,
)
from implicit_ntk.dynamics.descent._loss import (
    AbstractLoss as AbstractLoss,
    CrossEntropy as CrossEntropy,
    SquareLoss as SquareLoss,
)
