"""Images in, unit-norm rows and signs out: the data of GLL22 and GG22.

The short way is `two_class(name)`. What it is made of is public too: readers of the original file
formats, `load`, the preprocessing steps, the search for parallel samples and their perturbation.
`sphere` makes synthetic data. Everything returns NumPy arrays on the host; nothing here is
differentiated, jitted or sharded, and nothing is downloaded unless `source="openml"` is asked for.
"""

from ._cifar import read_cifar10 as read_cifar10
from ._idx import (
    read_idx as read_idx,
    read_idx_array as read_idx_array,
    write_idx_array as write_idx_array,
)
from ._images import Images as Images
from ._load import NAMES as NAMES, load as load
from ._parallel import parallel_pairs as parallel_pairs
from ._perturb import perturb_parallel as perturb_parallel
from ._pixels import grey as grey, resize as resize, to_inputs as to_inputs
from ._select import balanced as balanced, signs as signs
from ._sphere import sphere as sphere
from ._svhn import read_svhn as read_svhn
from ._two_class import TwoClass as TwoClass, two_class as two_class
from ._unit_norm import unit_norm as unit_norm
