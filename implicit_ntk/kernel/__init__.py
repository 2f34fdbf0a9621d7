"""Kernels: the empirical one of a network, and what its spectrum says."""

from implicit_ntk.kernel import infinite_width as infinite_width
from implicit_ntk.kernel._alignment import Alignment as Alignment, alignment as alignment
from implicit_ntk.kernel._drift import KernelDrift as KernelDrift, kernel_drift as kernel_drift
from implicit_ntk.kernel._estimates import (
    Eigenpairs as Eigenpairs,
    Estimate as Estimate,
    Solution as Solution,
    SpectralDensity as SpectralDensity,
)
from implicit_ntk.kernel._kernel_operator import kernel_operator as kernel_operator
from implicit_ntk.kernel._ntk import (
    ntk as ntk,
    ntk_blocks as ntk_blocks,
    ntk_diagonal as ntk_diagonal,
    ntk_trace as ntk_trace,
)
from implicit_ntk.kernel._operator import KernelOperator as KernelOperator
from implicit_ntk.kernel._preconditioner import Preconditioner as Preconditioner
from implicit_ntk.kernel._spectrum import (
    Spectrum as Spectrum,
    block_spectra as block_spectra,
    check_kernel as check_kernel,
    require_decomposition as require_decomposition,
    resolution_of as resolution_of,
    spectrum as spectrum,
)
from implicit_ntk.kernel._tiles import Tile as Tile, kernel_tiles as kernel_tiles, ntk_into as ntk_into
