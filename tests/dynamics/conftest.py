"""What the tests of the dynamics share: small problems of one shape, and Euler's method by hand."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.dynamics import pose


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network with its data, the eigenvalues of `H(0)`, and `1/lambda_max`, the unit of time here."""

    net: ink.AbstractNetwork
    X: jax.Array
    y: jax.Array
    X_test: jax.Array
    y_test: jax.Array
    eigenvalues: jax.Array

    @property
    def unit(self) -> float:
        return 1 / float(np.asarray(self.eigenvalues)[-1])

    def times(self, *units: float) -> np.ndarray:
        """Times given in units of `1/lambda_max`."""
        return np.array(units) * self.unit

    def flow(self, times: np.ndarray, integrator: ink.Euler, **options) -> ink.Trajectory:
        """`gradient_flow` of this problem, the unseen data watched."""
        return ink.gradient_flow(
            self.net, self.X, self.y, times, integrator, self.X_test, self.y_test, **options
        )


def make_problem(
    seed: int = 0,
    n: int = 8,
    d: int = 3,
    q: int = 3,
    m: int = 24,
    gamma0: float = 0.4,
    centred: bool = False,
    outputs: tuple[int, ...] = (),
    **options,
) -> Problem:
    """Points on the sphere, random signs, GG22's network: drawn by NumPy, for XLA compiles every draw."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + q, d))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = rng.choice([-1.0, 1.0], (n + q, *outputs))
    net = ink.ReluImplicit(
        A=jnp.asarray(rng.normal(size=(m, m))),
        W=jnp.asarray(rng.normal(size=(d, m))),
        b=jnp.asarray(rng.choice([-1.0, 1.0], (m, *outputs))),
        gamma=jnp.asarray(gamma0 / np.sqrt(m)),
        **options,
    )
    net = ink.Centred(net) if centred else net
    data = [jnp.asarray(a) for a in (X[:n], y[:n], X[n:], y[n:])]
    return Problem(net, *data, pose(net, *data).eigenvalues)


@pytest.fixture
def problem() -> Callable[..., Problem]:
    """`problem(seed=0, n=8, d=3, q=3, m=24, gamma0=0.4, centred=False, outputs=(), **network options)`."""
    return make_problem


@eqx.filter_jit
def loss_gradient(net: ink.AbstractNetwork, X: jax.Array, y: jax.Array) -> ink.AbstractNetwork:
    """The gradient of `||net(X) - y||^2 / 2` by JAX, through the network's public call."""
    params, frozen = eqx.partition(net, ink.trainable(net))
    return jax.grad(lambda params: jnp.sum((eqx.combine(params, frozen)(X) - y) ** 2) / 2)(params)


def downhill(net: ink.AbstractNetwork, slope: ink.AbstractNetwork, length: float) -> ink.AbstractNetwork:
    """The network moved against its gradient."""
    return eqx.apply_updates(net, jax.tree.map(lambda g: -length * g, slope))


@pytest.fixture
def gradient() -> Callable:
    """`gradient(net, X, y)`, of the loss with respect to the trained leaves, by `jax.grad`."""
    return loss_gradient


@pytest.fixture
def by_hand() -> Callable:
    """`by_hand(problem, lengths)`: Euler's method as a loop; the networks before and after each step."""

    def run(problem: Problem, lengths: list[float]) -> list[ink.AbstractNetwork]:
        nets = [problem.net]
        for length in lengths:
            nets.append(downhill(nets[-1], loss_gradient(nets[-1], problem.X, problem.y), length))
        return nets

    return run


def all_arrays(dt: float, ramp: float = 1e9, solver_share: float = 0.0) -> ink.Euler:
    """An `Euler` whose three numbers are arrays: one compilation serves them all. No ramp by default."""
    values = tuple(jnp.asarray(value) for value in (dt, ramp, solver_share))
    integrator = ink.Euler(1.0, ramp=1.0)
    return eqx.tree_at(lambda e: (e.dt, e.ramp, e.solver_share), integrator, values)


@pytest.fixture
def euler() -> Callable[..., ink.Euler]:
    """`euler(dt, ramp=1e9, solver_share=0)`: compiled once whatever the numbers."""
    return all_arrays
