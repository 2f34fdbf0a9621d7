"""How a solver gets to an equilibrium: the residual against the iteration."""

import dataclasses

import equinox as eqx
import jax
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray, check_batch, check_positive
from implicit_ntk.equilibrium import Map, Method, residuals
from implicit_ntk.networks._network import AbstractNetwork, check_network


def convergence(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    method: Method | None = None,
    steps: int = 50,
) -> Float[Array, "steps n"]:
    """`||f(z) - z|| / ||f(z)||` of every sample at each iterate of the method's solver (N22, figure 4.1).

    Only rounding stops it. Each iterate is measured by an evaluation of the cell of its own, whatever
    the solver believes of it.

    **Arguments:** `X` (n, d); `method`, None for the network's default; `steps` iterations.

    **Raises:** `ValueError` or `TypeError` for a batch of the wrong form, or a solver that the cell does
    not suit. A diverging iteration raises nothing: its residuals say so.
    """
    check_network(net)
    method = net.resolve(method)
    X = check_batch(X, net.in_size, jax.tree.leaves(net))
    check_positive(steps, "steps")
    return _convergence(net, X, method, steps)


@eqx.filter_jit
def _convergence(net: AbstractNetwork, X: Array, method: Method, steps: int) -> Array:
    with method.products():
        phi = net.inject(X)
        affine = net.affine(phi)
        solver = dataclasses.replace(method.prepared(affine).solver, max_steps=steps + 1)
        f = Map(lambda z: net.cell(z, phi), 1, affine)
        return residuals(f, solver, net.initial_state(phi), steps)
