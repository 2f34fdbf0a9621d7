"""The kernel experiment on a small scale: every number of it recomputed from the public functions."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.experiments import (
    KernelConfig,
    KernelResult,
    Limit,
    NetworkConfig,
    SamplesConfig,
    kernel_rows,
    run_folder,
    run_kernel,
    write_kernel,
)
from implicit_ntk.experiments.kernel._eigen import decompose
from implicit_ntk.experiments.kernel._limit import compare
from implicit_ntk.experiments.kernel._subject_summary import markdown, subject_rows

N, D, K = 6, 4, 2


@pytest.fixture(scope="module")
def arrays():
    """Two rows parallel, one zero."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(N, D)).astype("float32")
    X[3], X[5] = 0, -2 * X[1]
    return {"X": X, "y": rng.normal(size=(N, K)).astype("float32")}


@pytest.fixture(scope="module")
def run(arrays, tmp_path_factory):
    """Runs the experiment with two outputs, in two tiles, by programs that compile quickly."""
    path = tmp_path_factory.mktemp("samples") / "own.npz"
    np.savez(path, **arrays)
    samples = SamplesConfig(data=path)
    network = NetworkConfig(width=8, gamma0=0.3, trained=("A", "W"), outputs=K, seed=5)

    def run(progress=lambda share, what: None, allocate=np.empty, **settings) -> KernelResult:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("implicit_ntk.experiments.kernel._assemble.TILE", 3)
            return run_kernel(KernelConfig(samples, network, **settings), progress, allocate)

    jax.config.update("jax_disable_most_optimizations", True)
    yield run
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def told():
    """What the progress was told."""
    return []


@pytest.fixture(scope="module")
def result(run, told) -> KernelResult:
    return run(lambda share, what: told.append((what, share)))


@pytest.fixture(scope="module")
def J(run, arrays):
    """Of the whole batch."""
    net = ink.ReluImplicit.init(jax.random.key(5), D, 8, 0.3, trained=("A", "W"), outputs=K)
    return ink.jacobian(net, arrays["X"])


def test_kernel_is_that_of_the_whole_batch(result, J, tol_solve):
    blocks = J.blocks()
    np.testing.assert_allclose(result.H, sum(blocks.values()), **tol_solve)
    traces = {name: np.einsum("icic", block) for name, block in blocks.items()}
    assert result.block_traces == pytest.approx(traces, rel=1e-4)
    assert result.trace == pytest.approx(sum(traces.values()), rel=1e-4)


def test_solves_are_those_of_the_whole_batch(result, J, tol_solve):
    at = J.linearization
    np.testing.assert_allclose(result.solves.u, at.outputs, **tol_solve)
    np.testing.assert_array_equal(result.solves.steps, at.equilibrium.steps)
    np.testing.assert_array_equal(result.solves.adjoint_steps, at.adjoint.steps)


def test_progress_rises_to_one_in_every_stage(told, result):
    for stage in ("solving", "kernel", "spectrum"):
        shares = [share for what, share in told if what == stage]
        assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    shares = [share for what, share in told if what == "kernel"]
    np.testing.assert_allclose(sorted(set(shares)), np.array([0, 9, 27, 36]) / 36)


def test_eigenvalues_and_shares_are_numpys(result, arrays):
    eigenvalues, Q = np.linalg.eigh(result.H.reshape(N * K, N * K).astype(float))
    np.testing.assert_allclose(result.eigen.descending, eigenvalues[::-1], atol=1e-5 * eigenvalues[-1])
    y = arrays["y"].reshape(-1).astype(float)
    aligned = result.eigen.aligned
    top = np.sum((Q[:, -3:].T @ y) ** 2) / np.sum(y**2)
    assert aligned.cumulative[2] == pytest.approx(top, rel=1e-3)
    assert aligned.cumulative[-1] == pytest.approx(1)
    target = np.vdot(result.H, np.multiply.outer(arrays["y"], arrays["y"]))
    assert aligned.target == pytest.approx(target / (np.linalg.norm(eigenvalues) * np.sum(y**2)), rel=1e-4)


def test_columns_of_targets_add_up(rng):
    """With a scalar output: `<H, Y Y^T> / (||H|| ||Y Y^T||)`, shares of all columns together."""
    J, Y = rng.normal(size=(5, 8)).astype("float32"), rng.normal(size=(5, 3))
    H = J @ J.T
    aligned = decompose(H, Y).aligned
    wanted = np.vdot(H, Y @ Y.T) / np.linalg.norm(H) / np.linalg.norm(Y @ Y.T)
    assert aligned.target == pytest.approx(wanted, rel=1e-5)
    q = np.linalg.eigh(H)[1][:, -1]
    assert aligned.shares[0] == pytest.approx(np.sum((q @ Y) ** 2) / np.sum(Y**2), rel=1e-4)


def test_limit_is_that_of_the_network(result, J, arrays):
    limit = np.asarray(ink.infinite_width.ntk(J.net, arrays["X"]))
    assert isinstance(result.limit, Limit)
    distance = np.linalg.norm(result.H - limit) / np.linalg.norm(limit)
    assert result.limit.distance == pytest.approx(distance, rel=1e-5)
    wanted = np.linalg.eigvalsh(limit.reshape(N * K, -1))[::-1]
    np.testing.assert_allclose(result.limit.eigen.descending, wanted, atol=1e-5 * wanted[0])


def test_parallel_rows_and_zero_rows_are_reported(result):
    assert result.subject.pairs.tolist() == [[1, 5]]
    rows = dict(kernel_rows(result))
    assert "1, the first samples 1 and 5" in rows["parallel pairs"]
    assert "1 sample is zero" in rows["parallel pairs"]


def test_without_decomposition_the_kernel_is_the_same_and_goes_where_it_is_told(run, result, tmp_path):
    def allocate(shape, dtype):
        return np.lib.format.open_memmap(tmp_path / "kernel.npy", "w+", dtype, shape)

    found = run(allocate=allocate, decomposed=False)
    assert found.eigen is None and not isinstance(found.limit, Limit)
    write_kernel(found, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "kernel.npy"), result.H)
    with np.load(tmp_path / "kernel.npz") as file:
        assert "H" not in file and "eigenvalues" not in file
    assert not (tmp_path / "spectrum.csv").exists()
    assert "lambda_min" not in dict(kernel_rows(found)) and "trace" in dict(kernel_rows(found))


def test_files_hold_what_was_found(result, tmp_path):
    write_kernel(result, tmp_path)
    with np.load(tmp_path / "kernel.npz") as file:
        np.testing.assert_array_equal(file["H"], result.H)
        np.testing.assert_array_equal(file["u"], result.solves.u)
        np.testing.assert_array_equal(file["X_indices"], np.arange(N))
        assert str(file["X_sha256"]) == result.subject.samples.digest
        assert dict(zip(file["blocks"], file["block_traces"], strict=True)) == result.block_traces
    table = np.genfromtxt(tmp_path / "spectrum.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    np.testing.assert_allclose(table["eigenvalues"], result.eigen.descending, rtol=1e-6)
    np.testing.assert_allclose(table["cumulative_share"], result.eigen.aligned.cumulative)
    assert table["index"].tolist() == list(range(1, N * K + 1))
    assert table["resolved"].sum() == result.eigen.spectrum.rank


def test_table_says_what_is_not_resolved(result):
    """One row is zero, so that two eigenvalues are."""
    rows = dict(kernel_rows(result))
    assert "not resolved" in rows["lambda_min"] and "float64" in rows["lambda_min"]
    assert rows["condition"] == "not resolved"
    shares = [f"{name} {trace / result.trace:.1%}" for name, trace in result.block_traces.items()]
    assert rows["trace"] == f"{result.trace:.4g}: {', '.join(shares)}"
    text = markdown(result.subject.config, kernel_rows(result))
    assert text.count("\n| ") == len(rows) + 1 and "||" not in text.replace("| |", "")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda key: ink.MonotoneImplicit.init(key, D, 8), "MonotoneImplicit, whose limit is not known"),
        (lambda key: ink.ReluImplicit.init(key, D, 8, gamma0=1.5), "gamma0 must be below"),
        (
            lambda key: ink.ReluImplicit.init(
                key, D, 40, a_init=ink.init.half_normal, scaling="operator_norm"
            ),
            "not of mean zero and variance one",
        ),
    ],
)
def test_where_there_is_no_limit_the_reason_is_given(make, reason, arrays, quick_compilation):
    assert reason in compare(make(jax.random.key(0)), arrays["X"], np.eye(N, dtype="float32"), None)


def test_folder_is_written_whole_or_not_at_all(result, tmp_path):
    with run_folder(result.subject.config, tmp_path / "run") as partial:
        assert not (tmp_path / "run").exists()
        (partial / "x").write_text("x")
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["network"]["width"] == 8
    with pytest.raises(KeyboardInterrupt), run_folder(result.subject.config, tmp_path / "other"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_does_not_fit_is_refused_before_any_work(run, monkeypatch):
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(4 * (N * K) ** 2 * 4 - 1))
    monkeypatch.setattr("implicit_ntk.experiments.kernel._kernel.solved_tiles", None)
    with pytest.raises(MemoryError, match="12 rows and its eigenvectors needs .*--memmap or --matrix-free"):
        run()


def test_float64_needs_x64(result):
    with pytest.raises(ValueError, match="jax_enable_x64"):
        run_kernel(dataclasses.replace(result.subject.config, precision="float64"))


def test_network_inside_its_wrappers_is_described(result):
    tied = ink.WeightTied(ink.ReluImplicit.init(jax.random.key(0), D, 8, gamma0=0.3), 3)
    subject = dataclasses.replace(result.subject, net=ink.Scaled(ink.Centred(tied), 2.5))
    described = dict(subject_rows(subject))["network"]
    for fact in ("ReluImplicit, its cell applied 3 times", "gamma0 = 0.3", "outputs times 2.5"):
        assert fact in described
