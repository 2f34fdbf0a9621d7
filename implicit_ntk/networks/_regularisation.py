"""Penalties for people who train equilibrium models: how far the cell is from a contraction where it is used.

Both speak of `J_i = d cell/dz` at each sample's equilibrium, by products alone, and are differentiable
in the network, through the equilibrium as well.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from implicit_ntk._checks import AnyArray, check_positive
from implicit_ntk.equilibrium import Method
from implicit_ntk.networks._network import AbstractNetwork, check_network, solve
from implicit_ntk.networks._weight_tied import WeightTied
from implicit_ntk.networks._wrapper import unwrapped

Pullback = Callable[[Float[Array, "n s"]], Float[Array, "n s"]]


def jacobian_penalty(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    key: Key[Array, ""],
    samples: int = 1,
    method: Method | None = None,
) -> Float[Array, ""]:
    """An unbiased estimate of `mean_i ||J_i||_F^2 / s`, s the size of one sample's state.

    Add a multiple of it to a loss to keep the solves short (Bai, Koltun and Kolter 2021, "Stabilizing
    equilibrium models by Jacobian regularization"). Hutchinson's estimate, `||J_i^T e||^2` with random
    signs e, whose variance is below that of the Gaussian e of the paper; a product a sample.

    **Arguments:** `X` (n, d); `key`, a new one each step; `samples`, how many e for each row.

    **Raises:** as `solve`; `ValueError` for `samples` below one, and for a `WeightTied` network.
    """
    check_positive(samples, "samples")
    method, X, z = _solved(net, X, method)
    return _penalty(net, X, z, key, samples, method)


def spectral_radius(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    key: Key[Array, ""],
    steps: int = 40,
    method: Method | None = None,
) -> Float[Array, " n"]:
    """The spectral radius of each `J_i`, (n,), by power iteration: the rate of Picard near the equilibrium.

    A random vector is multiplied by `J_i^T` `steps` times; the estimate is the geometric mean of the
    growth of its norm over the last half of them. Its error falls geometrically where one real
    eigenvalue dominates, and like 1 / steps for a complex pair, whose norms oscillate. The derivative is
    that of this number, through all the steps. A row whose vector vanishes has radius and derivative zero.

    **Raises:** as `solve`; `ValueError` for `steps` below one, and for a `WeightTied` network.
    """
    check_positive(steps, "steps")
    method, X, z = _solved(net, X, method)
    return _radius(net, X, z, key, steps, method)


def _solved(
    net: AbstractNetwork, X: AnyArray, method: Method | None
) -> tuple[Method, Float[Array, "n d"], PyTree[Array]]:
    check_network(net)
    if any(isinstance(each, WeightTied) for each in unwrapped(net)):
        raise ValueError(
            "net is WeightTied, whose state is no equilibrium of its cell; pass the network inside"
        )
    method = net.resolve(method)
    return method, jnp.asarray(X), solve(net, X, method).z


@eqx.filter_jit
def _penalty(
    net: AbstractNetwork, X: Array, z: PyTree[Array], key: Array, samples: int, method: Method
) -> Float[Array, ""]:
    with method.products():
        pull, like = _flat_pullback(net, X, z)
        signs = jax.random.rademacher(key, (samples, *like.shape), like.dtype)
        return jnp.mean(_verdict(like) * jnp.mean(jax.vmap(pull)(signs) ** 2, axis=(0, 2)))


@eqx.filter_jit
def _radius(
    net: AbstractNetwork, X: Array, z: PyTree[Array], key: Array, steps: int, method: Method
) -> Float[Array, " n"]:
    with method.products():
        pull, like = _flat_pullback(net, X, z)

        def step(v: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            w = pull(v)
            alive = jnp.any(w != 0, axis=1)
            # Ones in place of zeros, whose norm has no derivative.
            w = jnp.where(alive[:, None], w, jnp.ones_like(w))
            # In units of the largest entry, for squares of tiny ones are zero.
            unit = lax.stop_gradient(jnp.max(jnp.abs(w), axis=1))
            w = w / unit[:, None]
            size = jnp.linalg.norm(w, axis=1)
            return w / size[:, None], (unit * size, alive)

        start = jax.random.normal(key, like.shape, like.dtype)
        start = start / jnp.linalg.norm(start, axis=1, keepdims=True)
        _, (growth, alive) = lax.scan(step, start, length=steps)
        radius = jnp.exp(jnp.mean(jnp.log(growth[steps // 2 :]), axis=0))
        return _verdict(like) * jnp.where(alive.all(axis=0), radius, jnp.zeros_like(radius))


def _flat_pullback(net: AbstractNetwork, X: Array, z: PyTree[Array]) -> tuple[Pullback, Float[Array, "n s"]]:
    """`V -> rows J_i^T v_i` on states flattened to rows, and the rows of `z`."""
    flatten = jax.vmap(lambda state: ravel_pytree(state)[0])
    _, to_state = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], z))
    pull = net.cell_pullback(z, net.inject(X))
    return lambda V: flatten(pull(jax.vmap(to_state)(V))), flatten(z)


def _verdict(z: Float[Array, "n s"]) -> Float[Array, " n"]:
    """One, or NaN where a solve failed under the policy `nan`: a relu at NaN has slope zero and hides it."""
    return jnp.where(jnp.isfinite(z).all(axis=1), 1.0, jnp.nan).astype(z.dtype)
