"""Where networks and batches lie on a mesh."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from implicit_ntk._checks import AnyArray, check_array
from implicit_ntk.devices._mesh import COLUMNS, SAMPLES, check_mesh
from implicit_ntk.devices._place import check_same, fingerprint, from_processes, place
from implicit_ntk.networks import AbstractNetwork, check_network

Network = TypeVar("Network", bound=AbstractNetwork)


def spread_network(net: Network, mesh: Mesh) -> Network:
    """The network with its units over the columns of the mesh; what has no axis of m units is copied.

    Of `A` (m, m) each device holds m/columns columns, of `W` and of the read-out its share of the units.
    Wrappers and networks of your own are placed by the same rule: of each leaf the last axis of size
    `net.width` is divided.

    Inside a compiled function it says where the result is to be, so that a network that no single device
    could hold is drawn in its place:

        net = jax.jit(lambda key: ink.spread_network(ink.ReluImplicit.init(key, d, m), mesh))(key)

    With several processes all must pass the same network.

    **Raises:** `ValueError` where the columns do not divide m, where no leaf has an axis of m units to
    divide, and where processes differ.
    """
    check_network(net)
    check_mesh(mesh)
    arrays, static = eqx.partition(net, eqx.is_array)
    leaves, width = jax.tree.leaves(arrays), net.width
    _check_columns(leaves, width, mesh.shape[COLUMNS])
    check_same(leaves, "net is not the same in all processes; draw it from the same key in each")
    placed = jax.tree.map(lambda leaf: place(leaf, _over_columns(mesh, leaf.shape, width)), arrays)
    return eqx.combine(placed, static)


def spread_rows(X: Shaped[AnyArray, "n ..."], mesh: Mesh) -> Shaped[Array, "n ..."]:
    """A batch (inputs, targets, guesses) with its rows over the samples of the mesh.

    With several processes all must pass the same array; `spread_local_rows` takes a part from each.

    **Raises:** `TypeError` for what is no array, `ValueError` where the samples do not divide the rows, and
    where processes differ.
    """
    check_mesh(mesh)
    _check_rows(X, mesh.shape[SAMPLES])
    check_same([X], "X is not the same in all processes; spread_local_rows takes the rows of each")
    return place(X, NamedSharding(mesh, PartitionSpec(SAMPLES)))


def spread_local_rows(X: Shaped[AnyArray, "n_local ..."], mesh: Mesh) -> Shaped[Array, "n ..."]:
    """The batch of which each process passes its own rows, all as many a device.

    They stand in the order of the devices along the samples of the mesh. Processes that differ in the
    columns alone hold the same rows, and must pass the same.

    **Raises:** `TypeError` for what is no array, `ValueError` where the devices of this process do not
    divide its rows, and where processes do not fit together.
    """
    check_mesh(mesh)
    parts = _local_parts(mesh)
    _check_rows(X, len(parts))
    host = np.asarray(jnp.asarray(X))
    form = (host.shape[0] // len(parts), *host.shape[1:])
    _check_parts(form, parts, host)
    rows = NamedSharding(mesh, PartitionSpec(SAMPLES))
    return jax.make_array_from_process_local_data(rows, host, (form[0] * mesh.shape[SAMPLES], *form[1:]))


def _over_columns(mesh: Mesh, shape: tuple[int, ...], width: int) -> NamedSharding:
    """The last axis of m units divided: the columns of `A`."""
    of_units = [axis for axis, size in enumerate(shape) if size == width]
    axes = (*[None] * of_units[-1], COLUMNS) if of_units else ()
    return NamedSharding(mesh, PartitionSpec(*axes))


def _local_parts(mesh: Mesh) -> list[int]:
    """Which parts of a batch the devices of this process hold."""
    mine = [device.process_index == jax.process_index() for device in mesh.devices.ravel()]
    return np.flatnonzero(np.reshape(mine, mesh.devices.shape).any(axis=1)).tolist()


def _check_columns(leaves: list[Array], width: int, columns: int) -> None:
    if width % columns:
        raise ValueError(f"columns={columns} do not divide the {width} units of net; change one of them")
    if columns > 1 and not any(width in leaf.shape for leaf in leaves):
        raise ValueError(
            f"columns={columns}, but no leaf of net has an axis of its {width} units; use a mesh of samples "
            "alone, device_mesh()"
        )


def _check_rows(X: AnyArray, parts: int) -> None:
    check_array(X, "X")
    if X.ndim == 0 or X.shape[0] == 0:
        raise ValueError(f"X must have rows to spread, got shape {X.shape}")
    if X.shape[0] % parts:
        raise ValueError(
            f"X has {X.shape[0]} rows, which {parts} parts do not divide; leave out the last "
            f"{X.shape[0] % parts}, or make a mesh of other samples"
        )


def _check_parts(form: tuple[int, ...], parts: list[int], host: np.ndarray) -> None:
    """As many rows a device in all processes; the same rows in those that hold the same parts."""
    if jax.process_count() == 1:
        return
    asked = np.frombuffer(f"{form} {host.dtype}".encode(), np.uint8)
    words = [fingerprint(word) for word in (asked, np.array(parts), host)]
    forms, where, contents = from_processes(words).T
    if (forms != forms[0]).any():
        rows = f"X is {host.dtype} with {form[0]} rows a device here"
        raise ValueError(f"{rows} and not in all processes; pass the same dtype and as many in each")
    if any(len(set(contents[where == these])) > 1 for these in where):
        raise ValueError("X differs between processes that hold the same rows; pass the same rows in each")
