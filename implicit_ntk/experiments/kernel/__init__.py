"""The kernel of a network on data: subject, work, tables, files."""

from implicit_ntk.experiments.kernel._eigen import Eigen as Eigen
from implicit_ntk.experiments.kernel._kernel import KernelResult as KernelResult, run_kernel as run_kernel
from implicit_ntk.experiments.kernel._limit import Limit as Limit
from implicit_ntk.experiments.kernel._matrix_free import (
    MatrixFreeResult as MatrixFreeResult,
    run_matrix_free as run_matrix_free,
)
from implicit_ntk.experiments.kernel._network import NetworkConfig as NetworkConfig
from implicit_ntk.experiments.kernel._samples import SamplesConfig as SamplesConfig
from implicit_ntk.experiments.kernel._store import (
    KERNEL_FILE as KERNEL_FILE,
    write_kernel as write_kernel,
    write_matrix_free as write_matrix_free,
)
from implicit_ntk.experiments.kernel._subject import (
    KernelConfig as KernelConfig,
    Progress as Progress,
    Subject as Subject,
)
from implicit_ntk.experiments.kernel._summary import (
    kernel_rows as kernel_rows,
    matrix_free_rows as matrix_free_rows,
)
