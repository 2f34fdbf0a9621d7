"""Kernels: the empirical one of a network, and what its spectrum says."""

from implicit_ntk.kernel import infinite_width as infinite_width
from implicit_ntk.kernel._ntk import (
    ntk as ntk,
    ntk_blocks as ntk_blocks,
    ntk_diagonal as ntk_diagonal,
    ntk_trace as ntk_trace,
)
from implicit_ntk.kernel._spectrum import (
    Spectrum as Spectrum,
    check_kernel as check_kernel,
    require_decomposition as require_decomposition,
    resolution_of as resolution_of,
    spectrum as spectrum,
)
