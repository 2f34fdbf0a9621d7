"""What is integrated along a run: the path kernel, and the lazy-or-rich meter."""

from implicit_ntk.dynamics.along._path_kernel import PathKernel as PathKernel, path_kernel as path_kernel
from implicit_ntk.dynamics.along._regime import Regime as Regime, regime as regime
