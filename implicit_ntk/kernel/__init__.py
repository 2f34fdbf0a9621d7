"""Kernels: the empirical one of a network, and what its spectrum says."""

from implicit_ntk.kernel._ntk import ntk as ntk
from implicit_ntk.kernel._ntk import ntk_blocks as ntk_blocks
from implicit_ntk.kernel._spectrum import Spectrum as Spectrum
from implicit_ntk.kernel._spectrum import check_kernel as check_kernel
from implicit_ntk.kernel._spectrum import resolution_of as resolution_of
from implicit_ntk.kernel._spectrum import spectrum as spectrum
