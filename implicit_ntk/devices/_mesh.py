"""The mesh of devices: samples over one axis, the units of a network over the other."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from implicit_ntk._checks import check_positive

SAMPLES, COLUMNS = "samples", "columns"


def device_mesh(
    samples: int | None = None,
    columns: int = 1,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Mesh:
    """Devices in a grid: a batch is divided into `samples` parts, the weights' columns into `columns`.

    Each of the (samples x columns) devices then holds n/samples rows of m/columns units of a state, and
    m/columns columns of `A`. Samples need no communication while equilibria are sought; columns exchange
    a state an iteration, which is the price of an `A` larger than one device.

    **Arguments:** `samples`, None for as many as there are devices for the columns; `devices`, None for
    all of all processes (`jax.distributed.initialize()` makes them known to each other).

    **Raises:** `ValueError` where the two do not multiply to the number of devices.
    """
    check_positive(columns, "columns")
    devices = jax.devices() if devices is None else devices
    if samples is None:
        samples = len(devices) // columns
    else:
        check_positive(samples, "samples")
    if samples * columns != len(devices):
        raise ValueError(
            f"samples * columns must be the number of devices, {len(devices)}, got {samples} * {columns}; "
            "pass others, or devices=jax.devices()[:N]"
        )
    return jax.make_mesh((samples, columns), (SAMPLES, COLUMNS), (AxisType.Auto,) * 2, devices=devices)


def check_mesh(mesh: object) -> None:
    """Raise `TypeError` for what is no mesh of `device_mesh`'s kind."""
    want = ((SAMPLES, COLUMNS), (AxisType.Auto,) * 2)
    if not isinstance(mesh, Mesh) or (mesh.axis_names, mesh.axis_types) != want:
        raise TypeError(f"mesh must be one that device_mesh(samples, columns) makes, got {mesh!r}")
