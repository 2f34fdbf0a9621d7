"""What the tests of the networks share: derivatives by differences, and inputs where those make sense."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.networks import trained_leaves

# Stencil of the derivative, error O(h^4): nodes in units of h, weights.
NODES = np.array([-2.0, -1.0, 1.0, 2.0])
WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12
STEP = 3e-4

Rows = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _quick_compilation(quick_compilation: None) -> None:
    """The programs of this folder's tests are many and small and run once."""


@pytest.fixture
def tight() -> ink.Method:
    """Solves down to rounding; what fails is NaN."""
    adjoint = ink.ImplicitAdjoint(ink.Neumann(rtol=0.0))
    return ink.Method(solver=ink.Picard(rtol=0.0), adjoint=adjoint, on_failure="nan")


@pytest.fixture
def differences(tight: ink.Method) -> Callable[[ink.AbstractNetwork, np.ndarray], Rows]:
    """`(net, X) ->` the derivatives (n, *out, *leaf) of `net(X)` in every trained entry, by differences."""

    def rows(net: ink.AbstractNetwork, X: np.ndarray) -> Rows:
        params, frozen = eqx.partition(net, ink.trainable(net))
        theta, unravel = jax.flatten_util.ravel_pytree(params)

        def column(e: jax.Array) -> jax.Array:
            outputs = jax.vmap(lambda s: eqx.combine(unravel(theta + s * STEP * e), frozen)(X, tight))(NODES)
            return jnp.tensordot(WEIGHTS, outputs, 1) / STEP

        columns = jax.jit(jax.vmap(column))(np.eye(theta.size))
        flat = np.moveaxis(np.asarray(columns), 0, -1)
        leaves = trained_leaves(jax.vmap(unravel)(flat.reshape(-1, theta.size)))
        return {name: np.reshape(leaf, (*flat.shape[:-1], *leaf.shape[1:])) for name, leaf in leaves.items()}

    return rows


@pytest.fixture
def off_the_kinks(rng: np.random.Generator) -> Callable[[ink.AbstractNetwork], np.ndarray]:
    """`net -> X` (4, d): of many inputs those whose pre-activations stay furthest from zero.

    Further than the stencil can move them: a step of 2 h in an entry moves a pre-activation by some h.
    """

    def choose(net: ink.AbstractNetwork) -> np.ndarray:
        X = rng.normal(size=(256, net.in_size))
        phi = net.inject(jnp.asarray(X))
        affine, z = net.affine(phi), ink.solve(net, X).z
        assert affine is not None
        margins = np.abs(affine.product(z) + affine.offset).min(axis=1)
        if isinstance(net, ink.ReluImplicitFull):
            margins = np.minimum(margins, np.abs(X @ net.W.T).min(axis=1))
        chosen = np.argsort(margins)[-4:]
        assert margins[chosen].min() > 20 * STEP
        return X[chosen]

    return choose
