"""The kernel as an operator: its products against the kernel, its doors."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.kernel import KernelOperator, Preconditioner
from implicit_ntk.kernel.matrix_free._products import KernelProducts

N, D, M = 5, 3, 8
WIDE = 40


def network(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, D, **{"width": M, "trained": ("A", "W"), **options})


def jitted(op: KernelOperator, V: np.ndarray) -> list[np.ndarray]:
    """In one program: a vector by products with `J`, all of them with columns of `H`, and the rest."""

    @eqx.filter_jit
    def run(op: KernelOperator) -> tuple[jax.Array, ...]:
        image = op.products.apply(jnp.asarray(V[..., 0].reshape(-1)))
        return image.reshape(V.shape[:-1]), op.mv(V), op.diagonal(), op.to_dense()

    return [np.asarray(found) for found in run(op)]


@pytest.mark.parametrize(
    ("kind", "outputs", "tile"),
    [
        ("outer", 2, 3),
        ("autodiff", None, 2),
        pytest.param("dense", None, None, marks=pytest.mark.slow),
    ],
)
def test_products_are_those_of_the_kernel(
    key: jax.Array, rng: np.random.Generator, x64: None, kind: str, outputs: int | None, tile: int | None
) -> None:
    """Tiles that divide the batch and tiles that do not; a vector, and a block that is cheaper formed."""
    net, X = network(key, outputs=outputs), rng.normal(size=(N, D))
    op = ink.kernel_operator(net, X, kind=kind, tile=tile)
    H = np.asarray(ink.ntk(net, X)).reshape(op.shape)
    shape = (N,) if outputs is None else (N, outputs)
    V = rng.normal(size=(*shape, WIDE))
    assert op.products.wide(WIDE)
    image, images, diagonal, dense = jitted(op, V)
    want = (H @ V.reshape(-1, WIDE)).reshape(V.shape)
    for found, true in [
        (image, want[..., 0]),
        (images, want),
        (diagonal, np.diag(H).reshape(shape)),
        (dense, H),
    ]:
        assert found.shape == true.shape
        assert_allclose(found, true, rtol=1e-12, atol=1e-12 * np.abs(H).max())
    assert_allclose(op.trace(), np.trace(H), rtol=1e-12)


def test_inside_of_transformations(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """Made and used inside of `jit` and `grad`: `d (v.H v)/dX` against differences."""
    net, X, v = network(key), rng.normal(size=(N, D)), rng.normal(size=N)

    def energy(X: jax.Array) -> jax.Array:
        return v @ ink.kernel_operator(net, X).mv(v)

    value, slope = jax.jit(jax.value_and_grad(energy))(X)
    assert_allclose(value, v @ np.asarray(ink.ntk(net, X)) @ v, rtol=1e-10)
    step = 1e-6 * rng.normal(size=X.shape)
    ends = [v @ np.asarray(ink.ntk(net, X + sign * step)) @ v for sign in (1, -1)]
    assert_allclose(np.sum(slope * step), (ends[0] - ends[1]) / 2, rtol=1e-4)


@pytest.fixture(scope="module")
def plain() -> KernelOperator:
    """In float32."""
    return ink.kernel_operator(*_plain())


def _plain() -> tuple[ink.ReluImplicit, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    return network(jax.random.key(0)), X


def test_float32_stays(plain: KernelOperator, tol_solve: dict) -> None:
    v = np.ones(N, np.float32)
    image = plain.mv(v)
    assert image.dtype == plain.relative_residual.dtype == np.float32
    H = np.asarray(ink.ntk(*_plain()))
    assert_allclose(image, H @ v, rtol=tol_solve["rtol"], atol=tol_solve["atol"] * np.abs(H).max())
    assert 0 < float(plain.relative_residual) < 1e-4


def test_a_solve_that_failed_is_no_small_residual() -> None:
    op = ink.kernel_operator(*_plain(), ink.Method(ink.Picard(max_steps=2), on_failure="nan"))
    assert np.isnan(op.relative_residual)


def test_a_second_call_traces_nothing(plain: KernelOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plain.mv(np.ones(N, np.float32))
    for name in ("pull", "columns"):
        monkeypatch.setattr(KernelProducts, name, None)
    assert_allclose(plain.mv(np.full(N, 2, np.float32)), 2 * before, rtol=1e-6)


def test_holds_no_states(plain: KernelOperator) -> None:
    """Of each row what the products read, two factors for each of `A` and `W`, and its statuses."""
    held, weights = (
        sum(leaf.size for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
        for tree in (plain, plain.products.tiles.net)
    )
    assert held - weights <= N * (3 * M + D + 8) + 1


FOREIGN = Preconditioner(jnp.eye(3), jnp.ones(3), jnp.ones(()))
BAD: dict[str, tuple] = {
    "a matrix": (lambda op: op.mv(np.ones((N + 1,), np.float32)), ValueError, r"v must have shape \(5,\)"),
    "integers": (lambda op: op.mv(np.ones(N, int)), TypeError, "v must be floating point"),
    "other dtype": (lambda op: op.mv(np.ones(N, np.float16)), TypeError, "v is float16 but the kernel is"),
    "a block": (
        lambda op: op.solve(np.ones((N, 2), np.float32)),
        ValueError,
        "r must have shape .* one at a",
    ),
    "no pair": (lambda op: op.largest(0), ValueError, "k must be a positive integer"),
    "too many": (lambda op: op.smallest(N + 1), ValueError, "k must be at most 5"),
    "rtol": (lambda op: op.smallest(rtol=-1.0), ValueError, "rtol must be positive"),
    "no products": (lambda op: op.largest(max_products=0), ValueError, "max_products must be a positive"),
    "no steps": (lambda op: op.solve(np.ones(N, np.float32), max_steps=0), ValueError, "max_steps must be a"),
    "rank": (lambda op: op.preconditioner(0), ValueError, "rank must be a positive integer"),
    "one probe": (lambda op: op.logdet(probes=1), ValueError, "probes must be at least 2"),
    "one step": (lambda op: op.logdet(steps=1), ValueError, "steps must be at least 2"),
    "another's factor": (
        lambda op: op.solve(np.ones(N, np.float32), preconditioner=FOREIGN),
        ValueError,
        "preconditioner is of 3 outputs in float32, the kernel of 5 in float32; make it by",
    ),
    "points": (lambda op: op.density(np.zeros(3, np.float32)), ValueError, "points must be a vector of pos"),
    "width": (lambda op: op.density(np.ones(3, np.float32), width=0.0), ValueError, "width must be positive"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, plain: KernelOperator) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call(plain)
    assert "\n" not in str(caught.value)


def test_bad_tiles(key: jax.Array, rng: np.random.Generator) -> None:
    net, X = network(key), rng.normal(size=(N, D)).astype(np.float32)
    with pytest.raises(ValueError, match="tile must be a positive integer"):
        ink.kernel_operator(net, X, tile=0)
    with pytest.raises(ValueError, match="tile must be None where X is traced"):
        jax.jit(lambda X: ink.kernel_operator(net, X, tile=2).mv(X[:, 0]))(X)


def test_past_the_memory_limit(
    key: jax.Array, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, plain: KernelOperator
) -> None:
    net, X = network(key), rng.normal(size=(N, D)).astype(np.float32)
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", "1000")
    with pytest.raises(MemoryError, match="^the Jacobian of 5 rows needs .* pass fewer samples"):
        ink.kernel_operator(net, X)
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(2 * N * N * 4 - 1))
    with pytest.raises(MemoryError, match="^the kernel of 5 outputs needs"):
        plain.to_dense()
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(4 * N * N * 4 - 1))
    for call, message in (
        (lambda: plain.preconditioner(N), "a preconditioner of rank 5"),
        (plain.largest, "a search"),
    ):
        with pytest.raises(MemoryError, match=f"^{message}.* needs"):
            call()
