"""Kernels: the empirical one of a network, and what its spectrum says."""

from implicit_ntk.kernel import infinite_width as infinite_width
from implicit_ntk.kernel._alignment import Alignment as Alignment, alignment as alignment
from implicit_ntk.kernel._drift import KernelDrift as KernelDrift, kernel_drift as kernel_drift
from implicit_ntk.kernel._ntk import (
    ntk as ntk,
    ntk_blocks as ntk_blocks,
    ntk_diagonal as ntk_diagonal,
    ntk_trace as ntk_trace,
)
from implicit_ntk.kernel._spectrum import (
    Spectrum as Spectrum,
    block_spectra as block_spectra,
    check_kernel as check_kernel,
    relative_resolution as relative_resolution,
    require_decomposition as require_decomposition,
    resolution_of as resolution_of,
    spectrum as spectrum,
)
from implicit_ntk.kernel._tiles import Tile as Tile, kernel_tiles as kernel_tiles, ntk_into as ntk_into
from implicit_ntk.kernel.matrix_free import (
    Eigenpairs as Eigenpairs,
    Estimate as Estimate,
    KernelOperator as KernelOperator,
    Preconditioner as Preconditioner,
    Solution as Solution,
    SpectralDensity as SpectralDensity,
    kernel_operator as kernel_operator,
    relative_residual as relative_residual,
)
