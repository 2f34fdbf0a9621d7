"""Kernels in tiles: equal to the whole, solved for as often as promised, within the memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.format import open_memmap
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk._memory import memory_limit
from implicit_ntk.kernel import _plan, _walk
from implicit_ntk.kernel._plan import Plan, plan_for
from implicit_ntk.kernel._reduction import BLOCKS, reduced
from implicit_ntk.kernel._request import Request

D, M, N = 3, 12, 6
ENTRIES = (ink.ntk, ink.ntk_blocks, ink.ntk_trace, ink.ntk_diagonal)
SAME = dict(rtol=1e-12, atol=1e-12)


pytestmark = pytest.mark.usefixtures("quick_compilation")


def network(key: jax.Array, **options: Any) -> ink.ReluImplicit:
    return ink.ReluImplicit.init(key, D, **{"width": M, "trained": ("A", "b"), **options})


@pytest.fixture
def X(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, D))


@pytest.fixture
def X2(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, D))


@pytest.fixture
def solved_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every tile that is solved for."""
    sizes: list[int] = []
    solved = _walk.solved

    def counted(net: Any, X: Any, rows: slice, *rest: Any) -> Any:
        sizes.append(rows.stop - rows.start)
        return solved(net, X, rows, *rest)

    monkeypatch.setattr(_walk, "solved", counted)
    return sizes


@pytest.mark.parametrize("cross", [False, True], ids=["one batch", "cross"])
@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("outer", None),
        ("autodiff", None),
        pytest.param("outer", 2, marks=pytest.mark.slow),
        pytest.param("autodiff", 2, marks=pytest.mark.slow),
    ],
)
def test_tiles_equal_the_whole(
    kind: str, outputs: int | None, cross: bool, key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None
) -> None:
    """In tiles that do not divide the batch; and as upper triangle mirrored where there is but one."""
    net, other = network(key, outputs=outputs), X2 if cross else None
    H = ink.ntk(net, X, other, kind=kind, tile=4)
    assert isinstance(H, jax.Array)
    assert_allclose(H, ink.ntk(net, X, other, kind=kind), **SAME)
    if not cross:
        H = np.asarray(H).reshape(N * (outputs or 1), -1)
        assert_array_equal(H[-1, 0], H[0, -1])


@pytest.mark.parametrize("entry", ENTRIES[1:])
def test_every_entry(entry: Callable, key: jax.Array, X: np.ndarray, x64: None) -> None:
    """Blocks, trace and diagonal of two outputs: each has its axes elsewhere."""
    net = network(key, outputs=2)
    found, want = entry(net, X, tile=4), entry(net, X)
    assert jax.tree.structure(found) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: assert_allclose(a, b, **SAME), found, want)


@pytest.mark.parametrize("tile", [N, N + 1])
def test_one_tile_is_the_whole(
    tile: int, key: jax.Array, X: np.ndarray, x64: None, solved_rows: list[int]
) -> None:
    """To the last bit: nothing is taken in tiles."""
    net = network(key)
    assert_array_equal(ink.ntk(net, X, tile=tile), ink.ntk(net, X))
    assert not solved_rows


@pytest.mark.slow
def test_keeps_the_dtype(key: jax.Array, X: np.ndarray) -> None:
    net = network(key)
    H = ink.ntk(net, X, tile=4)
    assert H.dtype == jnp.float32
    assert_allclose(H, ink.ntk(net, X), rtol=1e-5, atol=1e-6)


class TestMemory:
    """`IMPLICIT_NTK_MEMORY` decides how many rows a tile and a strip have."""

    def limited(self, monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(nbytes))

    def test_as_much_as_there_is_room_for(
        self, key: jax.Array, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From one piece to tiles that are all held to strips of one tile, and no further."""
        net, X = network(key, trained=("A",)), rng.normal(size=(60, D)).astype(np.float32)
        request = Request.of(net, X, None, None, "auto")
        result = 4 * 60**2
        piece, pair = (request.piece_bytes(BLOCKS, n, m) for n, m in ((60, None), (10, 10)))

        def plan(nbytes: int, tile: int | None = None) -> Plan | None:
            self.limited(monkeypatch, nbytes)
            return plan_for(request, tile, BLOCKS, 1)

        assert plan(piece) is None
        tiled = plan(piece - 1)
        assert tiled is not None
        assert request.piece_bytes(BLOCKS, tiled.tile, tiled.tile) <= (piece - 1 - result) / _plan.SHARE
        assert plan(10**8, tile=10).held >= 6
        assert plan(result + pair, tile=10) == Plan(10, 1)
        with pytest.raises(MemoryError, match="^tiles of 10 rows need .*; pass a smaller tile"):
            plan(result + pair - 1, tile=10)
        with pytest.raises(
            MemoryError, match="^the kernel needs .*; pass fewer samples, or, for ntk, ntk_into"
        ):
            plan(result - 1)
        with pytest.raises(MemoryError, match="^solving one row needs"):
            plan(result + 100)

    def test_strips_of_one_tile(
        self,
        key: jax.Array,
        X: np.ndarray,
        x64: None,
        solved_rows: list[int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        net = network(key)
        want = ink.ntk(net, X)
        pair = Request.of(net, X, None, None, "auto").piece_bytes(BLOCKS, 2, 2)
        self.limited(monkeypatch, 8 * N**2 + pair)
        assert_allclose(ink.ntk(net, X, tile=2), want, **SAME)
        assert sum(solved_rows) == N * (1 + (3 - 1) / 2)

    def test_no_tile_was_asked_for(
        self, key: jax.Array, X: np.ndarray, x64: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor anything said of it: a batch that does not fit comes out all the same."""
        net = network(key)
        want = ink.ntk(net, X)
        one = Request.of(net, X, None, None, "auto").piece_bytes(BLOCKS, 1, 1)
        monkeypatch.setattr(_plan, "SHARE", 1)
        self.limited(monkeypatch, 8 * N**2 + one)
        assert plan_for(Request.of(net, X, None, None, "auto"), None, BLOCKS, 1).tile == 1
        assert_allclose(ink.ntk(net, X), want, **SAME)

    def test_a_result_that_outgrows_the_states(self, key: jax.Array, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 25,000 samples and one unit, the states take nothing and the kernel all."""
        request = Request.of(network(key, width=1), np.ones((25_000, D), np.float32), None, None, "auto")
        self.limited(monkeypatch, 10**10)
        assert plan_for(request, None, BLOCKS, 1) is not None

    @pytest.mark.parametrize("asked", ["8GB", "-1", ""])
    def test_what_is_no_number(self, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", asked)
        with pytest.raises(
            ValueError, match=f"^IMPLICIT_NTK_MEMORY must be a number of bytes, got '{asked}'"
        ):
            memory_limit()

    def test_of_known_arrays_inside_of_jit(
        self, key: jax.Array, X: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is traced in the arguments, and yet no number can be looked at."""
        net, known = network(key), jnp.asarray(X, jnp.float32)
        with pytest.raises(TypeError, match="^kernel_tiles needs known arrays"):
            jax.jit(lambda c: c * next(ink.kernel_tiles(net, known)).block)(2.0)
        self.limited(monkeypatch, 1000)
        with pytest.raises(MemoryError, match="^the kernel inside of a transformation needs"):
            jax.jit(lambda c: c * ink.ntk(net, known))(2.0)

    def test_in_one_piece_inside_of_a_transformation(
        self, key: jax.Array, X: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        net = network(key)
        self.limited(monkeypatch, 1000)
        message = "^the kernel inside of a transformation needs .*; call it outside of jit, where it works"
        with pytest.raises(MemoryError, match=message):
            jax.jit(lambda X: ink.ntk(net, X))(X)


@pytest.mark.slow
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(("n", "width"), [(200, 20), (60, 60)])
def test_estimate_bounds_the_plan(n: int, width: int, cross: bool, key: jax.Array) -> None:
    """Of the compiler, for the network with most Grams a kernel: many samples, few units."""
    X = jnp.ones((n, D), jnp.float32)
    asked = Request.of(ink.MonotoneImplicit.init(key, D, width), X, X if cross else None, None, "auto")
    program = reduced.lower(asked.net, X, asked.X2, asked.method, "report", asked.kind, BLOCKS).compile()
    memory = program.compiled.memory_analysis()
    planned = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert planned <= asked.piece_bytes(BLOCKS, n, n if cross else None) <= 5 * planned


@pytest.mark.parametrize("held", [1, 2, 3, 9])
def test_number_of_solves(
    held: int, key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None, solved_rows: list[int]
) -> None:
    """`n (1 + (strips - 1)/2)` for strips of a size, fewer for a short last one; `n1 + strips n2`."""
    net, strips = network(key), {1: 3, 2: 2}.get(held, 1)
    walk = _walk.Walk(Request.of(net, X, None, None, "auto"), Plan(2, held), BLOCKS)
    assert len(list(walk)) == 6
    assert sum(solved_rows) == (8 if held == 2 else N * (1 + (strips - 1) / 2))
    solved_rows.clear()
    walk = _walk.Walk(Request.of(net, X, X2, None, "auto"), Plan(2, held), BLOCKS)
    assert len(list(walk)) == 9
    assert sum(solved_rows) == N + strips * N


class TestKernelTiles:
    def test_upper_triangle(self, key: jax.Array, X: np.ndarray, x64: None) -> None:
        net = network(key, outputs=2)
        H, seen = ink.ntk(net, X), np.zeros((N, N), int)
        for tile in ink.kernel_tiles(net, X, tile=4):
            assert_allclose(tile.block, H[tile.rows, :, tile.columns], **SAME)
            assert tile.rows.start <= tile.columns.start
            seen[tile.rows, tile.columns] += 1
        assert_array_equal(np.triu(seen), np.triu(np.ones((N, N))))

    def test_cross(self, key: jax.Array, X: np.ndarray, X2: np.ndarray, x64: None) -> None:
        net = network(key)
        k, seen = ink.ntk(net, X, X2), np.zeros((N, N), int)
        for tile in ink.kernel_tiles(net, X, X2, tile=4):
            assert_allclose(tile.block, k[tile.rows, tile.columns], **SAME)
            seen[tile.rows, tile.columns] += 1
        assert_array_equal(seen, 1)

    def test_failures_name_batch_and_rows(self, key: jax.Array, X: np.ndarray, x64: None) -> None:
        method = ink.Method(solver=ink.Picard(max_steps=2))
        tiles = ink.kernel_tiles(network(key), 0 * X, X, method, tile=4)
        with pytest.raises(ink.ConvergenceError, match=r"^4 of 4 failed: the forward solve of X2\[0:4\] "):
            next(tiles)


class TestInto:
    @pytest.mark.parametrize("outputs", [None, 2])
    @pytest.mark.parametrize("cross", [False, True], ids=["one batch", "cross"])
    def test_memory_map(
        self,
        cross: bool,
        outputs: int | None,
        key: jax.Array,
        X: np.ndarray,
        X2: np.ndarray,
        x64: None,
        tmp_path: Path,
    ) -> None:
        """What a reader finds on disk is the kernel; the share of the work rises to one."""
        net, other, shares = network(key, outputs=outputs), X2 if cross else None, []
        want = ink.ntk(net, X, other)
        out = open_memmap(tmp_path / "H.npy", "w+", np.float64, want.shape)
        out[:] = np.nan
        ink.ntk_into(out, net, X, other, tile=4, progress=shares.append)
        assert_allclose(np.load(tmp_path / "H.npy"), want, **SAME)
        assert len(shares) == (4 if cross else 3)
        assert (np.diff([0, *shares]) > 0).all()
        assert shares[-1] == 1

    def test_flushes(
        self, key: jax.Array, X: np.ndarray, x64: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = open_memmap(tmp_path / "H.npy", "w+", np.float64, (N, N))
        flushed = []
        monkeypatch.setattr(np.memmap, "flush", lambda self: flushed.append(self))
        ink.ntk_into(out, network(key), X, tile=2)
        assert flushed[0] is out

    def test_share_is_mostly_that_of_the_solves(self, key: jax.Array, X: np.ndarray, x64: None) -> None:
        """Two of three tiles solved for at the second block, at twenty evaluations and more a row."""
        shares: list[float] = []
        ink.ntk_into(np.empty((N, N)), network(key), X, tile=2, progress=shares.append)
        assert 0.6 < shares[1] < 0.7


def readonly(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


OUT = [
    (np.empty((3, 2), np.float32), ValueError, r"out must have the kernel's shape \(2, 2\), got \(3, 2\)"),
    (np.empty((2, 2)), TypeError, "out is float64 but the kernel is float32; make out with dtype='float32'"),
    (readonly(np.empty((2, 2), np.float32)), ValueError, "out is read-only; open a memory map with mode"),
    ([[0.0, 0.0], [0.0, 0.0]], TypeError, "out must be a NumPy array or memory map, got list"),
]
GOOD = np.ones((2, D), np.float32)
ITERATE: dict[str, Callable] = {
    "kernel_tiles": ink.kernel_tiles,
    "ntk_into": lambda *args, **options: ink.ntk_into(np.empty((2, 2), np.float32), *args, **options),
}


@pytest.mark.parametrize(("out", "error", "message"), OUT)
def test_door_of_out(
    out: Any, error: type, message: str, key: jax.Array, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is factored."""
    monkeypatch.delattr(_walk, "prepared")
    with pytest.raises(error, match=f"^{message}"):
        ink.ntk_into(out, network(key), GOOD)


@pytest.mark.parametrize("entry", [*ENTRIES, *ITERATE.values()])
@pytest.mark.parametrize("tile", [0, 1.5, True])
def test_door_of_tile(entry: Callable, tile: Any, key: jax.Array, unchecked: None) -> None:
    with pytest.raises(ValueError, match=f"^tile must be a positive integer, got {tile}"):
        entry(network(key), GOOD, tile=tile)


@pytest.mark.parametrize("name", ITERATE)
def test_not_inside_of_a_transformation(name: str, key: jax.Array) -> None:
    with pytest.raises(TypeError, match=f"^{name} needs known arrays; call it outside of jit, grad and vmap"):
        jax.jit(lambda X: ITERATE[name](network(key), X))(GOOD)


def test_a_tile_inside_of_a_transformation(key: jax.Array) -> None:
    with pytest.raises(ValueError, match="^tile has no meaning inside of a transformation, where"):
        jax.jit(lambda X: ink.ntk(network(key), X, tile=1))(GOOD)
