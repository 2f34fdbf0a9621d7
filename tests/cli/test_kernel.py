"""`implicit-ntk kernel` as a user types it: what it writes, prints and refuses."""

import json

import jax
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.cli import main
from implicit_ntk.data import two_class

SMALL = ["kernel", "--n", "10", "--width", "16"]


@pytest.fixture(autouse=True)
def _bundled_data(monkeypatch):
    monkeypatch.delenv("IMPLICIT_NTK_DATA", raising=False)


def test_writes_its_directory_and_prints_the_table(tmp_path, capsys, quick_compilation, tol_solve):
    assert main([*SMALL, "--gamma0", "0.3", "--name", "small", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "small"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "config.json", "environment.json", "kernel.npz", "spectrum.csv", "summary.md",
        "figures/kernel.png", "figures/kernel.pdf",
    }  # fmt: skip
    data = two_class("mnist", n_train=10, n_test=0)
    net = ink.ReluImplicit.init(jax.random.key(0), 784, 16, gamma0=0.3)
    with np.load(folder / "kernel.npz") as file:
        np.testing.assert_allclose(file["H"], ink.ntk(net, data.X), **tol_solve)
        np.testing.assert_array_equal(file["y"], data.y)
    config = json.loads((folder / "config.json").read_text())
    assert config["samples"]["dataset"] == "mnist" and config["network"]["gamma0"] == 0.3
    printed = capsys.readouterr().out
    for name in ("n = 10, d = 784", "m = 16, gamma0 = 0.3", "lambda_min", "||H - H_inf||_F"):
        assert name in printed


def test_memory_mapped_kernel_of_a_loaded_network(tmp_path, capsys, quick_compilation, rng):
    net = ink.Centred(ink.ReluImplicit.init(jax.random.key(1), 3, 16))
    ink.save(tmp_path / "net.npz", net)
    X = rng.normal(size=(10, 3)).astype("float32")
    np.savez(tmp_path / "own.npz", X=X)
    flags = ["--data", str(tmp_path / "own.npz"), "--load", str(tmp_path / "net.npz"), "--memmap"]
    assert main(["kernel", *flags, "--name", "run", "--out", str(tmp_path)]) == 0
    found = np.load(tmp_path / "run" / "kernel.npy", mmap_mode="r")
    np.testing.assert_allclose(found, ink.ntk(net, X), rtol=1e-4, atol=1e-4)
    with np.load(tmp_path / "run" / "kernel.npz") as file:
        np.testing.assert_allclose(file["u"], 0, atol=1e-5)
    assert not list((tmp_path / "run" / "figures").iterdir())
    assert "lambda_min" not in capsys.readouterr().out


@pytest.mark.slow
def test_matrix_free_writes_its_directory_and_prints_the_errors(tmp_path, capsys):
    assert main([*SMALL, "--n", "30", "--matrix-free", "--name", "run", "--out", str(tmp_path)]) == 0
    names = {path.name for path in (tmp_path / "run").rglob("*")}
    assert {"kernel.npz", "spectrum.csv", "summary.md", "kernel.png", "kernel.pdf"} <= names
    printed = capsys.readouterr().out
    assert "log-determinant" in printed and "+-" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--monotonicity", "1"], "monotonicity does not apply"),
        (["--load", "x.npz"], "width does not apply to a network that is loaded"),
        (["--data", "x.npz", "--dataset", "mnist"], "dataset does not apply"),
        (["--data", "nowhere.npz"], "nowhere.npz is not a file"),
        (["--dataset", "svhn", "--data-dir", "nowhere"], "nowhere"),
        (["--n", "5000"], "ask for fewer"),
        (["--classes", "0", "7"], "of class 7"),
        (["--outputs", "3"], "outputs must be as many as"),
        (["--trained", "Q"], "trained must be one of"),
        (["--memmap", "--matrix-free"], "memmap does not apply"),
    ],
)
def test_bad_flags_get_one_line_and_leave_nothing(flags, message, tmp_path, capsys):
    assert main([*SMALL, *flags, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_refuses_to_replace_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("implicit_ntk.cli._kernel.run_kernel", None)
    (tmp_path / "small").mkdir()
    assert main([*SMALL, "--name", "small", "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing(monkeypatch, tmp_path, capsys):
    def interrupted(tiles, out, progress):
        out[:] = 1
        raise KeyboardInterrupt

    monkeypatch.setattr("implicit_ntk.experiments.kernel._kernel.solved_tiles", lambda *_: [])
    monkeypatch.setattr("implicit_ntk.experiments.kernel._kernel.solves_of_all", lambda _: Outputs)
    monkeypatch.setattr("implicit_ntk.experiments.kernel._kernel.assemble", interrupted)
    assert main([*SMALL, "--memmap", "--out", str(tmp_path)]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class Outputs:
    u = np.zeros(10)


def test_help_names_every_flag_in_its_group(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["kernel", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    groups = [printed.index(f"{name} options") for name in ("samples", "network", "destination")]
    assert groups == sorted(groups)
    assert groups[0] < printed.index("--dataset") < groups[1] < printed.index("--gamma0") < groups[2]
