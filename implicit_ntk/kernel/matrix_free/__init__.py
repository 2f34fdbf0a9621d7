"""The kernel as an operator: products, eigenvalues, determinants and solves without the (n, n) array."""

from implicit_ntk.kernel.matrix_free._estimates import (
    Eigenpairs as Eigenpairs,
    Estimate as Estimate,
    Solution as Solution,
    SpectralDensity as SpectralDensity,
)
from implicit_ntk.kernel.matrix_free._kernel_operator import kernel_operator as kernel_operator
from implicit_ntk.kernel.matrix_free._lanczos import (
    Apply as Apply,
    Lanczos as Lanczos,
    tridiagonal as tridiagonal,
)
from implicit_ntk.kernel.matrix_free._operator import KernelOperator as KernelOperator
from implicit_ntk.kernel.matrix_free._preconditioner import Preconditioner as Preconditioner
from implicit_ntk.kernel.matrix_free._products import (
    KernelProducts as KernelProducts,
    relative_residual as relative_residual,
)
