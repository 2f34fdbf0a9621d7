"""Exponential integrators: a controller, and where the modes of a step come from."""

from implicit_ntk.dynamics.exponential._exponential import Exponential as Exponential
