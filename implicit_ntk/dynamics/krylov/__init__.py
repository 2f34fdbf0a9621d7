"""The exponential integrator and the linearised twin in Krylov spaces: no kernel is formed."""

from implicit_ntk.dynamics.krylov._krylov import KrylovExponential as KrylovExponential
from implicit_ntk.dynamics.krylov._twin import (
    KrylovLinearizedFlow as KrylovLinearizedFlow,
    krylov_linearized_flow as krylov_linearized_flow,
)
