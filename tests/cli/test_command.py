"""The command as a user types it: what it writes, prints and refuses."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from implicit_ntk.cli import main

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = ["--n-train", "12", "--n-test", "8", "--widths", "16", "24", "--seeds", "1"]
SMALL += ["--horizon", "1", "--records", "4"]


@pytest.fixture(autouse=True)
def _keep_precision():
    """The command sets 64 bits for its own process; here the process is the tests'."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def test_run_writes_its_directory_and_prints_the_table(tmp_path, capsys):
    assert main(["run", *SMALL, "--name", "small", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "small"
    for name in ("config.json", "environment.json", "metrics.csv", "arrays.npz", "summary.md"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "figures" / "twin.png").exists() and (folder / "figures" / "twin.pdf").exists()
    assert json.loads((folder / "config.json").read_text())["widths"] == [16, 24]
    printed = capsys.readouterr().out
    assert "linearised twin" in printed and "16" in printed and "24" in printed


def test_run_refuses_to_replace(tmp_path, capsys):
    (tmp_path / "small").mkdir()
    assert main(["run", *SMALL, "--name", "small", "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_float64_run_holds_float64_and_resolves_more(tmp_path):
    """In a process of its own, as a user starts it."""
    command = [sys.executable, "-c", "import sys; from implicit_ntk.cli import main; sys.exit(main())"]
    flags = ["run", *SMALL, "--widths", "16", "--precision", "float64", "--name", "x", "--out", str(tmp_path)]
    done = subprocess.run(command + flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "x" / "arrays.npz") as arrays:
        assert arrays["u"].dtype == np.float64
        assert (arrays["resolution"] < 1e-8).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "seeds must be a positive integer"),
        (["--dataset", "svhn", "--data-dir", "nowhere"], "nowhere"),
        (["--n-train", "100000"], "n_train"),
        (["--dt", "100"], "unstable"),
        (["--classes", "3", "5"], "classes"),
    ],
)
def test_bad_flags_get_one_line(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("IMPLICIT_NTK_DATA", raising=False)
    assert main(["run", *SMALL, *flags, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--widht", "10"])
    assert stop.value.code == 2


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "run" in printed and "doctor" in printed


def test_ctrl_c_ends_cleanly(monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("implicit_ntk.cli._run.run_twin", interrupted)
    assert main(["run", *SMALL, "--out", str(tmp_path)]) == 130
    assert not list(tmp_path.iterdir())


def test_doctor_finds_a_healthy_machine(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(check["ok"] for check in found["checks"]) and len(found["checks"]) >= 4
    assert found["environment"]["versions"]["jax"] == jax.__version__
    assert found["memory_limit_bytes"] > 0
    assert found["highest_product_error"] < 1e-6


def test_doctor_fails_where_a_check_fails(monkeypatch, capsys):
    monkeypatch.setattr("implicit_ntk.cli._doctor._checks", lambda: iter([("the moon", 1.0, 0.5)]))
    assert main(["doctor"]) == 1
    assert "FAILED" in capsys.readouterr().out
