"""Several devices and hosts: samples over the rows of a mesh, units over its columns.

Arrays are placed here, by `jax.sharding`; every entry of the package takes them as they are, and XLA
divides its programs among the devices.
"""

from implicit_ntk.devices._mesh import device_mesh as device_mesh
from implicit_ntk.devices._spread import (
    spread_local_rows as spread_local_rows,
    spread_network as spread_network,
    spread_rows as spread_rows,
)
