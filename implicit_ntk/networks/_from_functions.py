"""A network of a user's own from three functions and a dictionary of arrays."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray, check_positive
from implicit_ntk.networks._draw import check_trained
from implicit_ntk.networks._forms import forms, same_form
from implicit_ntk.networks._network import AbstractNetwork

Params = dict[str, Array]


class Functions(NamedTuple):
    """What a `FunctionNetwork` is made of."""

    inject: Callable[[Params, Array], PyTree[Array]]
    cell: Callable[[Params, PyTree[Array], PyTree[Array]], PyTree[Array]]
    readout: Callable[[Params, PyTree[Array], PyTree[Array]], Array]
    initial_state: Callable[[Params, PyTree[Array]], PyTree[Array]]


class FunctionNetwork(AbstractNetwork):
    """The network that `from_functions` makes. Its leaves stand in the dictionary `params`."""

    params: Params
    functions: Functions = eqx.field(static=True)
    features: int = eqx.field(static=True)
    trained: tuple[str, ...] = eqx.field(static=True)

    @property
    def in_size(self) -> int:
        """The number d of input features."""
        return self.features

    def leaf(self, name: str) -> Any:
        """An array of `params`."""
        return self.params[name]

    def inject(self, X: Float[Array, "n d"]) -> PyTree[Array]:
        """`inject(params, X)`."""
        return self.functions.inject(self.params, X)

    def initial_state(self, phi: PyTree[Array]) -> PyTree[Float[Array, "n ..."]]:
        """`initial_state(params, phi)`."""
        return self.functions.initial_state(self.params, phi)

    def cell(self, z: PyTree[Array], phi: PyTree[Array]) -> PyTree[Array]:
        """`cell(params, z, phi)`."""
        return self.functions.cell(self.params, z, phi)

    def readout(self, z: PyTree[Array], phi: PyTree[Array]) -> Float[Array, "n *out"]:
        """`readout(params, z, phi)`."""
        return self.functions.readout(self.params, z, phi)


def zeros_like_injection(params: Params, phi: PyTree[Array]) -> PyTree[Array]:
    """Zeros of the form of `phi`: a start for cells that add their injection to their state."""
    return jax.tree.map(jnp.zeros_like, phi)


def from_functions(
    params: Mapping[str, AnyArray],
    inject: Callable[[Params, Array], PyTree[Array]],
    cell: Callable[[Params, PyTree[Array], PyTree[Array]], PyTree[Array]],
    readout: Callable[[Params, PyTree[Array], PyTree[Array]], Array],
    *,
    in_size: int,
    initial_state: Callable[[Params, PyTree[Array]], PyTree[Array]] | None = None,
    trained: tuple[str, ...] | None = None,
) -> AbstractNetwork:
    """An implicit network of your own, accepted wherever a network is.

        phi = inject(params, X),    z = cell(params, z, phi),    u = readout(params, z, phi)

    **Arguments:**

    - `params`: arrays by name.
    - `inject`, `cell`, `readout`: pure functions of batches whose leading axis is the samples', each
      sample being computed on its own. `z` and `phi` may be any pytrees; `readout` gives (n,) or (n, k).
      A program is compiled for these very functions: make the network once, not inside a loop.
    - `in_size`: the number d of input features.
    - `initial_state(params, phi)`: where solves start, which also says what the state looks like.
      None: zeros of the form of `phi`, for cells whose injection is added to the state.
    - `trained`: names of `params`; None for all.

    **Raises:** `TypeError` and `ValueError` for arguments of the wrong form, among them a cell that does
    not return the form of its state, and a read-out that is not one floating array (n,) or (n, k).
    """
    start = zeros_like_injection if initial_state is None else initial_state
    functions = Functions(inject, cell, readout, start)
    for name, function in functions._asdict().items():
        if not callable(function):
            raise TypeError(f"{name} must be a function of params, got {function!r}")
    check_positive(in_size, "in_size")
    arrays = _arrays(params)
    trained = tuple(arrays) if trained is None else trained
    check_trained(trained, tuple(arrays))
    for name in trained:
        if not jnp.issubdtype(arrays[name].dtype, jnp.floating):
            raise TypeError(f"trained: {name} is {arrays[name].dtype}; convert it with .astype(float)")
    net = FunctionNetwork(params=arrays, functions=functions, features=int(in_size), trained=tuple(trained))
    _check_forms(net)
    return net


def _arrays(params: Mapping[str, AnyArray]) -> Params:
    if not isinstance(params, Mapping) or not params:
        raise TypeError(f"params must be a dictionary of arrays by name, got {params!r}")
    for name, leaf in params.items():
        if not isinstance(leaf, AnyArray | np.generic):
            raise TypeError(f"params[{name!r}] must be an array, got {leaf!r}")
    return {name: jnp.asarray(leaf) for name, leaf in params.items()}


def _check_forms(net: FunctionNetwork) -> None:
    """Raise unless the cell keeps the form of its floating state and each sample has its floating outputs."""

    def once(net: FunctionNetwork, X: Array) -> tuple[PyTree[Array], PyTree[Array], Array]:
        phi = net.inject(X)
        z = net.initial_state(phi)
        return z, net.cell(z, phi), net.readout(z, phi)

    dtype = jnp.result_type(float, *(a.dtype for a in net.params.values() if eqx.is_inexact_array(a)))
    rows = jax.ShapeDtypeStruct((2, net.in_size), dtype)
    z, image, outputs = eqx.filter_eval_shape(once, net, rows)
    for leaf in jax.tree.leaves(z):
        if not _is_floating(leaf):
            raise TypeError(
                f"initial_state must return floating-point arrays, got {leaf}; cast with .astype(float)"
            )
    if not same_form(image, z):
        raise ValueError(
            f"cell must return the form of its state, {forms(z)}, got {forms(image)}; pass initial_state, "
            "a function (params, phi) that gives the state where solves start"
        )
    if not _is_floating(outputs):
        raise TypeError(
            f"readout must return one floating-point array, got {outputs}; cast or stack its outputs"
        )
    if outputs.ndim not in (1, 2) or outputs.shape[0] != 2:
        raise ValueError(f"readout must return (n,) or (n, k), got {outputs.shape} for n = 2")


def _is_floating(found: object) -> bool:
    return isinstance(found, jax.ShapeDtypeStruct) and jnp.issubdtype(found.dtype, jnp.floating)
