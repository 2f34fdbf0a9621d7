"""A network of a user's own: two coupled states in a dictionary, a read-out that also sees the input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink

D, M, K = 3, 6, 2
State = dict[str, Array]


class Coupled(ink.AbstractNetwork):
    """`fast = tanh(fast F + slow S + x U)`, `slow = relu(fast ...)/2` of shape (n, K, 2), no factors."""

    F: Array
    S: Array
    U: Array
    v: Array
    name: str = eqx.field(static=True, default="coupled")
    trained: tuple[str, ...] = eqx.field(static=True, default=("v", "S", "F", "U"))

    @classmethod
    def init(cls, rng: np.random.Generator) -> "Coupled":
        shapes = {"F": (M, M), "S": (2 * K, M), "U": (D, M), "v": (M,)}
        return cls(**{name: jnp.asarray(0.2 * rng.normal(size=s)) for name, s in shapes.items()})

    @property
    def in_size(self) -> int:
        return D

    @property
    def width(self) -> int:
        return M

    def inject(self, X: Array) -> dict[str, Array]:
        return {"drive": X @ self.U, "raw": X}

    def initial_state(self, phi: dict[str, Array]) -> State:
        n = phi["raw"].shape[0]
        return {
            "fast": jnp.zeros((n, M), phi["raw"].dtype),
            "slow": jnp.zeros((n, K, 2), phi["raw"].dtype),
        }

    def cell(self, z: State, phi: dict[str, Array]) -> State:
        n = z["fast"].shape[0]
        fast = jnp.tanh(z["fast"] @ self.F + z["slow"].reshape(n, 2 * K) @ self.S + phi["drive"])
        slow = jnp.sin(z["fast"][:, : 2 * K] @ self.S[:, : 2 * K]).reshape(n, K, 2) / 2
        return {"fast": fast, "slow": slow}

    def readout(self, z: State, phi: dict[str, Array]) -> Array:
        return z["fast"] @ self.v + jnp.sum(z["slow"], axis=(1, 2)) * jnp.sum(phi["raw"] ** 2, axis=1)

    def contraction(self) -> Array:
        return jnp.asarray(jnp.nan)


@pytest.fixture
def net(x64: None, rng: np.random.Generator) -> Coupled:
    return Coupled.init(rng)


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, D))


def test_solve(net: Coupled, X: np.ndarray) -> None:
    eq = ink.solve(net, X)
    assert {name: leaf.shape for name, leaf in eq.z.items()} == {"fast": (4, M), "slow": (4, K, 2)}
    moved = net.cell(eq.z, net.inject(jnp.asarray(X)))
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-11), moved, eq.z)
    assert_array_equal(ink.solve(net, X, z0=eq.z).steps, 1)


def test_jacobian_and_kernel(net: Coupled, X: np.ndarray) -> None:
    """By autodiff, by the dense matrix, by differences of the outputs, and through jit."""
    J, dense = ink.jacobian(net, X), ink.jacobian(net, X, kind="dense")
    assert type(J).__name__ == "AutodiffJacobian"
    assert J.shape == (4, M * M + 2 * K * M + D * M + M)
    assert_allclose(J.gram(), dense.gram(), rtol=1e-10)
    assert_allclose(jax.jit(lambda net: ink.ntk(net, X))(net), dense.gram(), rtol=1e-10)
    for name, block in J.blocks(J).items():
        assert_allclose(block, dense.blocks()[name], rtol=1e-9, atol=1e-13, err_msg=name)
    r = np.array([1.0, -2.0, 0.5, 0.0])
    assert_allclose(J.mv(J.rmv(r)), J.gram() @ r, rtol=1e-10)
    along, h = J.rmv(r), 1e-4
    u = jax.jit(lambda s: eqx.apply_updates(net, jax.tree.map(lambda g: s * g, along))(X))
    differences = (u(-2 * h) - 8 * u(-h) + 8 * u(h) - u(2 * h)) / (12 * h)
    assert_allclose(J.mv(along), differences, rtol=1e-8)


def test_centred(net: Coupled, X: np.ndarray) -> None:
    centred = ink.Centred(net)
    assert_array_equal(centred(X), 0)
    assert_array_equal(ink.ntk(centred, X), ink.ntk(net, X))


def test_without_factors(net: Coupled, X: np.ndarray) -> None:
    with pytest.raises(ValueError, match="^kind='outer' needs gradient factors, which .* has not; use"):
        ink.jacobian(net, X, kind="outer")
    with pytest.raises(ValueError, match="^kind='outer' needs gradient factors"):
        ink.ntk(ink.Centred(net), X, kind="outer")


def test_stack_of_networks(x64: None, rng: np.random.Generator, X: np.ndarray) -> None:
    nets = [Coupled.init(rng) for _ in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets)
    found = eqx.filter_vmap(lambda net: ink.ntk(net, X))(stacked)
    assert_allclose(found, jnp.stack([ink.ntk(net, X) for net in nets]), rtol=1e-10)
