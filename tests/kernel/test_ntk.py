"""The empirical kernel: closed forms, cross kernels, derivatives, batches of networks, failures."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink

KINDS = ("outer", "autodiff", "dense")
ALL = ("A", "W", "b")
D, M = 3, 12


def network(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, D, **{"width": M, "trained": ALL, **options})


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(4, D))  # which JAX rounds to float32 where x64 is off


@pytest.fixture
def X2(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(2, D))


class TestClosedForms:
    def test_linear_cell(self, key: jax.Array, X: np.ndarray, dtype: np.dtype, tol_solve: dict) -> None:
        """With sigma the identity the adjoint state is the same for every sample."""
        net = network(key, activation="identity", injection_activation="identity")
        A, W, b = (np.asarray(leaf, float) for leaf in (net.A, net.W, net.b))
        gamma = 0.4 / np.sqrt(M)
        inverse = np.linalg.inv(np.eye(M) - gamma * A)
        Z, p = X @ W @ inverse, inverse @ b / np.sqrt(M)
        want = {"A": gamma**2 * (p @ p) * Z @ Z.T, "W": (p @ p) * X @ X.T, "b": Z @ Z.T / M}
        found = ink.ntk_blocks(net, X)
        assert list(found) == list(ALL)
        for name in ALL:
            assert found[name].dtype == dtype
            scale = np.abs(want[name]).max()
            assert_allclose(found[name] / scale, want[name] / scale, **tol_solve)

    def test_diagonal_weights(self, key: jax.Array, X: np.ndarray, x64: None) -> None:
        """GG22, section 5.2: `H_ij = gamma^2 (z_i.z_j)(1/m) sum_r bt_ir bt_jr s'_ir s'_jr`."""
        net = network(key, a_init=ink.init.diagonal, trained=("A",))
        a = np.diagonal(np.asarray(net.gamma * net.A))
        z = phi = np.maximum(X @ np.asarray(net.W), 0)
        for _ in range(2000):
            z = np.maximum(a * z + phi, 0)
        slope = (a * z + phi > 0) * 1.0
        bt = np.asarray(net.b) / (1 - slope * a)
        want = float(net.gamma) ** 2 / M * (z @ z.T) * ((bt * slope) @ (bt * slope).T)
        assert_allclose(ink.ntk(net, X), want, rtol=1e-9)

    def test_half_normal_weights(self, key: jax.Array, X: np.ndarray, x64: None) -> None:
        """GG22, section 5.1, scaled by the norm: every unit is on."""
        options = {"a_init": ink.init.half_normal, "scaling": "operator_norm", "gamma0": 0.5}
        net = network(key, trained=("A",), **options)
        inverse = np.linalg.inv(np.eye(M) - net.gamma * net.A)
        Z, p = np.maximum(X @ np.asarray(net.W), 0) @ inverse, inverse @ net.b / np.sqrt(M)
        assert_allclose(ink.ntk(net, X), net.gamma**2 * (p @ p) * Z @ Z.T, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_of_a_batch(kind: str, key: jax.Array, X: np.ndarray, x64: None, tol: dict) -> None:
    """`J J^T`, the sum of its blocks, symmetric, positive semidefinite."""
    net = network(key)
    H = np.asarray(ink.ntk(net, X, kind=kind))
    assert_allclose(H, ink.jacobian(net, X).gram(), **tol)
    assert_allclose(H, sum(ink.ntk_blocks(net, X, kind=kind).values()), **tol)
    assert_allclose(H, H.T, rtol=1e-14)
    assert np.linalg.eigvalsh(H)[0] > 0


def test_rank_deficient_kernel_is_semidefinite(key: jax.Array, X: np.ndarray, x64: None) -> None:
    """Duplicated and zero rows: eigenvalues that are zero come out as rounding."""
    net = network(key)
    eigenvalues = np.linalg.eigvalsh(ink.ntk(net, X[[0, 0, 1, 1]] * [[1], [1], [0], [0]]))
    assert_allclose(eigenvalues[:3] / eigenvalues[3], 0, atol=1e-15)


def test_cross_kernel(key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None) -> None:
    net = network(key)
    k = ink.ntk(net, X, X2)
    assert k.shape == (4, 2)
    both = ink.jacobian(net, np.concatenate([X, X2])).gram()
    assert_allclose(k, both[:4, 4:], rtol=1e-11)
    assert_allclose(ink.ntk(net, X2, X), k.T, rtol=1e-12)
    assert_allclose(sum(ink.ntk_blocks(net, X, X2).values()), k, rtol=1e-14)


def test_centred_has_the_same_kernel(key: jax.Array, X: np.ndarray) -> None:
    net = network(key)
    other = ink.Centred(net, network(jax.random.fold_in(key, 1)))
    assert_array_equal(ink.ntk(other, X), ink.ntk(net, X))


def test_same_bits_twice(key: jax.Array, X: np.ndarray) -> None:
    assert_array_equal(*(ink.ntk(network(key), X) for _ in range(2)))


class TestTransformed:
    """The kernel is a function of the network like any other."""

    def test_jit_and_numpy(self, key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None) -> None:
        net = network(key)
        jitted = jax.jit(lambda net, X1, X2: ink.ntk(net, X1, X2))
        want = ink.ntk(net, X, X2)
        assert_allclose(jitted(net, X, X2), want, rtol=1e-13)
        assert_array_equal(ink.ntk(net, jnp.asarray(X), X2), want)

    def test_vmap_over_draws(self, key: jax.Array, X: np.ndarray, x64: None) -> None:
        keys = jax.random.split(key, 3)
        stacked = eqx.filter_vmap(lambda key: ink.ntk(network(key), X))(keys)
        for H, k in zip(stacked, keys, strict=True):
            assert_allclose(H, ink.ntk(network(k), X), rtol=1e-11)

    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    def test_gradient(
        self, activation: str, key: jax.Array, X: np.ndarray, rng: np.random.Generator, x64: None
    ) -> None:
        """Of `<C, ntk>` along random directions in all leaves, against differences of fourth order."""
        net = network(key, activation=activation)
        C = rng.normal(size=(4, 4))
        tight = ink.Method(solver=ink.Picard(rtol=0.0), adjoint=ink.ImplicitAdjoint(ink.Neumann(rtol=0.0)))

        def value(net: ink.ReluImplicit) -> jax.Array:
            return jnp.sum(C * ink.ntk(net, X, method=tight))

        gradient = jax.jit(jax.grad(value))(net)
        value = jax.jit(value)
        for _ in range(4):
            v = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), net)
            h = 2e-4

            def at(s: float, v: Any = v) -> float:
                return float(value(jax.tree.map(lambda a, b: a + s * h * b, net, v)))

            want = (at(-2) - 8 * at(-1) + 8 * at(1) - at(2)) / (12 * h)
            found = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, v)))
            assert_allclose(found, want, rtol=1e-7)

    @pytest.mark.slow
    def test_forward_and_reverse(self, key: jax.Array, X: np.ndarray, x64: None) -> None:
        net = network(key)
        v = jax.tree.map(jnp.cos, net)
        _, pushed = jax.jvp(lambda net: ink.ntk(net, X), (net,), (v,))
        pulled = jax.grad(lambda net: jnp.sum(pushed * ink.ntk(net, X)))(net)
        want = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, pulled, v)))
        assert_allclose(jnp.vdot(pushed, pushed), want, rtol=1e-10)


class TestPairing:
    """`A = [[A1, A2], [A2, A1]]` leaves the law of the kernel alone; `diag(A1, A1)` does not."""

    SEEDS, WIDTH, X = 300, 128, np.array([[1.0, 0, 0], [0.6, 0.8, 0], [-0.3, 0.2, 0.933]])

    def mean(self, key: jax.Array, draw: Any) -> tuple[float, float]:
        """Mean of tr H over draws, and its standard error."""

        @eqx.filter_jit
        @eqx.filter_vmap
        def trace(key: jax.Array) -> jax.Array:
            return jnp.trace(ink.ntk(draw(key), self.X, method=ink.Method(on_failure="nan")))

        traces = np.asarray(trace(jax.random.split(key, self.SEEDS)), float)
        return traces.mean(), traces.std() / np.sqrt(self.SEEDS)

    def network(self, key: jax.Array, **options: Any) -> ink.ReluImplicit:
        return network(key, width=self.WIDTH, gamma0=0.6, trained=("A",), **options)

    def block_diagonal(self, key: jax.Array) -> ink.ReluImplicit:
        net = self.network(key, paired=True)
        A1 = net.A[: self.WIDTH // 2, : self.WIDTH // 2]
        return eqx.tree_at(lambda net: net.A, net, jnp.kron(jnp.eye(2, dtype=A1.dtype), A1))

    def test_mean_kernel(self, key: jax.Array) -> None:
        plain, error = self.mean(key, self.network)
        for draw, right in (
            (lambda key: self.network(key, paired=True), True),
            (self.block_diagonal, False),
        ):
            paired, error_2 = self.mean(jax.random.fold_in(key, 1), draw)
            distance = abs(paired - plain) / (4 * np.hypot(error, error_2) + 0.03 * plain)
            assert (distance < 1) == right, (plain, paired, error, error_2)
            assert right or paired < 0.85 * plain, (paired, plain)


class TestFailure:
    FORWARD = ink.Method(solver=ink.Picard(max_steps=2))
    ADJOINT = ink.Method(adjoint=ink.ImplicitAdjoint(ink.Neumann(max_steps=2)))

    @pytest.mark.parametrize(("method", "what"), [(FORWARD, "forward"), (ADJOINT, "adjoint")])
    def test_raises(self, method: ink.Method, what: str, key: jax.Array, X: np.ndarray) -> None:
        net = network(key)
        with pytest.raises(ink.ConvergenceError, match=rf"4 of 4 failed: the {what} .* of X1 reached"):
            ink.ntk(net, X, method=method)
        with pytest.raises(RuntimeError, match=f"the {what} .*reached max_steps"):
            jax.block_until_ready(jax.jit(lambda X: ink.ntk(net, X, method=method))(X))

    def test_the_second_batch_is_named(self, key: jax.Array, X: np.ndarray) -> None:
        """A zero row is solved in one step, so that only X2 fails."""
        with pytest.raises(ink.ConvergenceError, match=r"4 of 4 failed: the forward solve of X2 reached"):
            ink.ntk(network(key), 0 * X[:1], X, method=self.FORWARD)

    def test_diverging_network_blames_the_forward_solve(self, key: jax.Array, X: np.ndarray) -> None:
        with pytest.raises(ink.ConvergenceError, match="the forward solve .*diverges"):
            ink.ntk(network(key, gamma0=40.0), X)

    @pytest.mark.parametrize("policy", ["nan", "report"])
    def test_handed_out(self, policy: str, key: jax.Array, X: np.ndarray) -> None:
        """Row 0 is solved, the others fail. Unsolved adjoints are NaN whatever the policy."""
        net = network(key)
        X[0] = 0
        for method in (self.FORWARD, self.ADJOINT):
            method = eqx.tree_at(lambda m: m.on_failure, method, policy)
            H = np.asarray(ink.ntk(net, X, method=method))
            nan = policy == "nan" or method.solver.max_steps > 2
            assert np.isfinite(H[0, 0])
            assert_array_equal(np.isnan(H[1:, 1:]), nan)


def never(*_: Any) -> jax.Array:
    raise AssertionError("work was done before the arguments were checked")


def idle(**options: Any) -> ink.ReluImplicit:
    return network(jax.random.key(0), activation=never, injection_activation=never, **options)


GOOD = np.ones((2, D))
DOOR = [
    (dict(X1=np.ones(D)), ValueError, r"X1 must have shape \(n, d\), one row a sample, got \(3,\)"),
    (dict(X2=np.ones(D)), ValueError, r"X2 must have shape \(n, d\), one row a sample, got \(3,\)"),
    (dict(X1=np.ones((2, 4))), ValueError, "X1 has 4 features but the network takes in_size=3"),
    (dict(X2=np.ones((2, 4))), ValueError, "X2 has 4 features but the network takes in_size=3"),
    (dict(X2=np.ones((0, 3))), ValueError, "X2 is empty; pass at least one row"),
    (dict(X2=np.ones((2, 3), int)), TypeError, "X2 must be floating point, got int"),
    (dict(X2=GOOD * np.nan), ValueError, "X2 holds NaN or infinite values; remove or replace them"),
    (dict(X2=GOOD.astype(np.float16)), TypeError, "X2 is float16 but the network is float32; cast X2"),
    (dict(kind="fast"), ValueError, "kind must be one of"),
    (dict(method=ink.Method(adjoint=ink.Unrolled())), ValueError, r"method.adjoint=Unrolled\(\) gives no"),
    (dict(method=ink.Method(adjoint=ink.JacobianFree())), ValueError, "method.adjoint=JacobianFree"),
    (dict(net=idle(trained=())), ValueError, "net trains nothing; name its trained leaves"),
]


@pytest.mark.parametrize("entry", [ink.ntk, ink.ntk_blocks, ink.ntk_trace, ink.ntk_diagonal])
@pytest.mark.parametrize(("arguments", "error", "message"), DOOR)
def test_door(entry: Any, arguments: dict, error: type, message: str, unchecked: None) -> None:
    with pytest.raises(error, match=f"^{message}") as caught:
        entry(**{"net": idle(), "X1": GOOD, **arguments})
    assert "\n" not in str(caught.value)


def test_past_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", "10")
    net = network(jax.random.key(0))
    with pytest.raises(MemoryError, match="^the kernel needs .* GiB, past .*; pass fewer samples"):
        ink.ntk(net, GOOD)
    with pytest.raises(MemoryError, match=r"^a dense Jacobian of 2 rows needs .*; use kind='auto'"):
        ink.ntk(net, GOOD, kind="dense")
