"""Limit kernels as the width goes to infinity, in closed form or by one-dimensional quadrature.

    network --its gamma0, activations, depth--> moments of a pair of inputs at equilibrium --> kernel

All limits are for independent weights of mean zero and variance one, independent of each other.
"""

from implicit_ntk.kernel.infinite_width._arc_cosine import (
    arc_cosine_series as arc_cosine_series,
    hermite_coefficients as hermite_coefficients,
    kappa0 as kappa0,
    kappa1 as kappa1,
)
from implicit_ntk.kernel.infinite_width._compare import Comparison as Comparison, compare as compare
from implicit_ntk.kernel.infinite_width._finite_width import (
    Bias as Bias,
    FiniteWidth as FiniteWidth,
)
from implicit_ntk.kernel.infinite_width._initialisations import (
    diagonal as diagonal,
    half_normal as half_normal,
)
from implicit_ntk.kernel.infinite_width._limit import (
    LimitKernel as LimitKernel,
    kernel as kernel,
    ntk as ntk,
    ntk_blocks as ntk_blocks,
)
from implicit_ntk.kernel.infinite_width._monte_carlo import (
    MonteCarlo as MonteCarlo,
    monte_carlo as monte_carlo,
)
