"""The same calls on meshes of eight devices as on one; `test_devices.py` runs this where there are eight."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk._hosts import held_rows
from implicit_ntk.devices._place import fingerprint
from implicit_ntk.kernel._reduction import BLOCKS, reduced
from implicit_ntk.kernel._request import Request

N, D, M = 16, 5, 24
SAME = dict(rtol=1e-10, atol=1e-11)
NETWORKS = {
    "GG22": lambda key: ink.ReluImplicit.init(key, D, M, trained=("A", "W", "b")),
    "GLL22, 2 outputs": lambda key: ink.ReluImplicitFull.init(key, D, M, outputs=2),
    "monotone": lambda key: ink.MonotoneImplicit.init(key, D, M),
}
FAST = {("GG22", (8, 1)), ("GG22", (1, 8)), ("GLL22, 2 outputs", (4, 2))}
GRID = [
    pytest.param(name, shape, marks=() if (name, shape) in FAST else pytest.mark.slow)
    for name in NETWORKS
    for shape in ((8, 1), (1, 8), (4, 2))
]


@pytest.fixture(autouse=True)
def _setting(x64: None, quick_compilation: None) -> None:
    """For every test here."""


def inputs(n: int = N, seed: int = 0) -> np.ndarray:
    X = np.random.default_rng(seed).normal(size=(n, D))
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@functools.cache
def network(name: str) -> Any:
    return NETWORKS[name](jax.random.key(0))


@functools.cache
def kernels(name: str) -> Any:
    """Of one device."""
    return ink.ntk_blocks(network(name), inputs())


def spread(name: str, samples: int = 4, columns: int = 2) -> tuple[Any, jax.Array, Any]:
    mesh = ink.device_mesh(samples, columns)
    return ink.spread_network(network(name), mesh), ink.spread_rows(inputs(), mesh), mesh


def targets() -> np.ndarray:
    return np.sign(inputs()[:, 0])


@pytest.mark.parametrize(("name", "shape"), GRID)
def test_kernels(name: str, shape: tuple[int, int]) -> None:
    """Each block is that of one device, and its rows are where the samples are."""
    net, X, _ = spread(name, *shape)
    for leaf, block in ink.ntk_blocks(net, X).items():
        assert_allclose(block, kernels(name)[leaf], err_msg=leaf, **SAME)
        assert block.sharding.shard_shape(block.shape)[0] == N // shape[0], leaf


@pytest.mark.slow
def test_cross_kernel() -> None:
    """A part of the batch against the whole: a block of the kernel."""
    net, X, mesh = spread("GG22")
    some = ink.spread_rows(inputs()[:8], mesh)
    assert_allclose(ink.ntk(net, some, X), sum(kernels("GG22").values())[:8], **SAME)


@pytest.mark.parametrize("name", ["GG22", pytest.param("monotone", marks=pytest.mark.slow)])
def test_operator(name: str) -> None:
    """`J J^T r` is the kernel's; states, adjoint states and the gradient are divided as the weights are."""
    net, X, _ = spread(name)
    r = np.linspace(-1, 1, N)
    J = ink.jacobian(net, X)
    gradient = J.rmv(r)
    assert gradient.A.addressable_data(0).size == M * M // 2
    assert_allclose(J.mv(gradient), sum(kernels(name).values()) @ r, **SAME)
    for states in (J.linearization.equilibrium.z, J.linearization.adjoint.z):
        assert states.sharding.shard_shape(states.shape) == (N // 4, M // 2)


def test_no_device_holds_the_whole() -> None:
    """Neither weights nor states nor rows of all samples. Where it fails, inside jit, all of them raise."""
    net, X, mesh = spread("GG22")
    with jax.set_mesh(mesh):
        program = jax.jit(lambda net, X: ink.solve(net, X).z).lower(net, X).compile()
    shapes = set(re.findall(r"f64\[([\d,]*)\]", program.as_text()))
    assert f"{N // 4},{M // 2}" in shapes and f"{M},{M // 2}" in shapes
    assert not shapes & {f"{N},{M}", f"{N},{M // 2}", f"{M},{M}"}
    bad = dataclasses.replace(net, gamma=20 * net.gamma)
    with pytest.raises(RuntimeError, match="forward solve met an infinity"):
        jax.block_until_ready(program(bad, X))


def test_failures() -> None:
    """As on one device: numbers of the worst, one line for what is not finite."""
    net, X, mesh = spread("GG22")
    bad = dataclasses.replace(net, gamma=20 * net.gamma)
    with pytest.raises(ink.ConvergenceError, match="16 of 16 failed: the forward solve met an infinity"):
        ink.solve(bad, X)
    holes = inputs()
    holes[3, 2] = np.nan
    with pytest.raises(ValueError, match="X holds NaN"):
        ink.solve(net, ink.spread_rows(holes, mesh))
    assert jax.eval_shape(lambda: net(X)).shape == (N,), "values that a traced function captured are read"


@pytest.mark.slow
def test_gradient_flow() -> None:
    """Training moves spread weights as it moves those of one device."""
    (net, X, _), times = spread("GG22"), np.array([0.0, 0.5])
    run = [
        ink.gradient_flow(a, b, targets(), times, ink.Euler(dt=0.1))
        for a, b in ((net, X), (network("GG22"), inputs()))
    ]
    assert_allclose(run[0].u, run[1].u, **SAME)
    assert_allclose(run[0].net.A, run[1].net.A, **SAME)
    assert run[0].net.A.sharding.is_equivalent_to(net.A.sharding, 2)


def test_spectrum() -> None:
    _, X, _ = spread("GG22")
    H = sum(kernels("GG22").values())
    spread_H = jax.device_put(H, X.sharding)
    assert_allclose(ink.spectrum(spread_H).eigenvalues, np.linalg.eigvalsh(H), **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [ink.Centred, lambda net: ink.WeightTied(net, 7)], ids=["centred", "tied"])
def test_wrappers(wrap: Any) -> None:
    net, X, mesh = spread("GG22")
    whole = wrap(network("GG22"))
    parts = ink.spread_network(whole, mesh)
    assert parts.core.A.sharding.is_equivalent_to(net.A.sharding, 2)
    assert_allclose(parts(X), whole(inputs()), **SAME)
    assert_allclose(ink.ntk(parts, X), ink.ntk(whole, inputs()), **SAME)


@pytest.mark.slow
def test_a_network_of_functions() -> None:
    own = ink.from_functions(
        {
            "G": np.random.default_rng(1).normal(size=(D, M)),
            "A": 0.1 * np.random.default_rng(2).normal(size=(M, M)),
        },
        inject=lambda params, X: X @ params["G"],
        cell=lambda params, z, phi: jax.numpy.tanh(z @ params["A"] + phi),
        readout=lambda params, z, phi: z.sum(axis=1),
        in_size=D,
    )
    _, X, mesh = spread("GG22")
    parts = ink.spread_network(own, mesh)
    assert {leaf.sharding.spec for leaf in parts.params.values()} == {P(None, "columns")}
    assert_allclose(ink.ntk(parts, X), ink.ntk(own, inputs()), **SAME)


def test_drawn_in_place() -> None:
    """A network drawn on the mesh is the one drawn on a device, whose weights no device held."""
    mesh, key, m = ink.device_mesh(4, 2), jax.random.key(0), 128
    draw = jax.jit(lambda key: ink.spread_network(ink.ReluImplicit.init(key, D, m), mesh))
    program = draw.lower(key).compile()
    assert program.memory_analysis().temp_size_in_bytes < m * m * 8
    net = program(key)
    assert net.A.sharding.shard_shape(net.A.shape) == (m, m // 2)
    assert_allclose(net.A, ink.ReluImplicit.init(key, D, m).A, rtol=1e-14)


def test_nothing_is_compiled_twice(caplog: pytest.LogCaptureFixture) -> None:
    net, X, _ = spread("GG22")
    net(X)
    caplog.clear()
    with jax.log_compiles():
        jax.block_until_ready(net(X))
    assert not [line for line in caplog.messages if "ompil" in line or "racing" in line]


class TestDoors:
    """One line that names the remedy, before any work."""

    def test_mesh(self, unchecked: None) -> None:
        assert ink.device_mesh().devices.shape == (8, 1)
        assert ink.device_mesh(columns=4).devices.shape == (2, 4)
        assert ink.device_mesh(devices=jax.devices()[:3]).devices.shape == (3, 1)
        with pytest.raises(ValueError, match="must be the number of devices, 8, got 3 . 2"):
            ink.device_mesh(3, 2)
        with pytest.raises(ValueError, match="must be the number of devices, 8, got 2 . 3"):
            ink.device_mesh(columns=3)
        with pytest.raises(ValueError, match="must be the number of devices, 8, got 0 . 16"):
            ink.device_mesh(columns=16)
        with pytest.raises(ValueError, match="columns must be a positive integer, got 0"):
            ink.device_mesh(columns=0)
        with pytest.raises(TypeError, match="mesh must be one that device_mesh"):
            ink.spread_rows(inputs(), jax.make_mesh((8,), ("samples",)))

    def test_rows(self, unchecked: None) -> None:
        mesh = ink.device_mesh(4, 2)
        with pytest.raises(ValueError, match="18 rows, which 4 parts do not divide; leave out the last 2"):
            ink.spread_rows(inputs(18), mesh)
        with pytest.raises(ValueError, match="must have rows to spread, got shape"):
            ink.spread_rows(np.zeros(()), mesh)
        with pytest.raises(TypeError, match="X must be an array"):
            ink.spread_rows([[1.0]], mesh)
        local = ink.spread_local_rows(inputs(), mesh)
        assert local.sharding.spec == P("samples")
        assert_allclose(local, inputs(), rtol=0)

    def test_columns(self, unchecked: None) -> None:
        with pytest.raises(ValueError, match="columns=8 do not divide the 20 units of net"):
            ink.spread_network(ink.ReluImplicit.init(jax.random.key(0), D, 20), ink.device_mesh(1, 8))
        conv = ink.ConvImplicit.init(jax.random.key(0), (4, 4, 1), channels=8, inner_channels=8)
        with pytest.raises(ValueError, match="no leaf of net has an axis of its 128 units"):
            ink.spread_network(conv, ink.device_mesh(4, 2))
        with pytest.raises(TypeError, match="net must be a network"):
            ink.spread_network(inputs(), ink.device_mesh())


def test_rows_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of accelerators each has a memory of its own; the processor's devices share that of their host."""
    _, X, _ = spread("GG22")
    assert held_rows(inputs()) == held_rows(jax.numpy.asarray(inputs())) == N
    assert held_rows(X) == N // 4 * 8
    monkeypatch.setattr("implicit_ntk._hosts._share_memory", lambda platforms: False)
    assert held_rows(X) == N // 4


@pytest.mark.parametrize(
    "shape", [(8, 1), *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((4, 2), (1, 8)))]
)
def test_memory_of_a_device(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is said to hold bounds what the compiler plans; past the limit the kernel is refused."""
    monkeypatch.setattr("implicit_ntk._hosts._share_memory", lambda platforms: False)
    mesh = ink.device_mesh(*shape)
    net, X = ink.spread_network(network("GG22"), mesh), ink.spread_rows(inputs(64), mesh)
    asked = Request.of(net, X, None, None, "auto")
    program = reduced.lower(net, X, None, asked.method, "report", asked.kind, BLOCKS).compile()
    memory = program.compiled.memory_analysis()
    planned = memory.temp_size_in_bytes + memory.output_size_in_bytes
    found = asked.spread_bytes(1)
    assert planned <= found <= 5 * planned, found / planned
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(found - 1))
    with pytest.raises(MemoryError, match="^the kernel of arrays that are spread over devices needs"):
        ink.ntk(net, X)


def test_fingerprints() -> None:
    """Of any dtype, scalars and empty arrays too; they differ where values or form do."""
    some = [np.zeros((2, 3), dtype) for dtype in (np.float32, jax.numpy.bfloat16)]
    some += [np.zeros(()), np.zeros(0), np.ones((2, 3), np.float32), np.zeros((3, 2), np.float32)]
    assert len(set(map(fingerprint, some))) == len(some)


@pytest.mark.slow
def test_the_document() -> None:
    """Its blocks for one process, at a small size."""
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    ran: dict[str, Any] = {}
    for block in text.split("```python")[1:]:
        program = block.split("```")[0]
        if "distributed.initialize(" not in program:
            exec(program.replace("n, d, m = 4096, 784, 8192", f"n, d, m = {N}, {D}, {M}"), ran)
    assert ran["H"].sharding.shard_shape((N, N)) == (N // 8, N)
    assert_allclose(ran["loss"].A, ran["gradient"].A, **SAME)
    assert_allclose(ran["net"].A, ink.ReluImplicit.init(jax.random.key(0), D, M).A, rtol=1e-14)
