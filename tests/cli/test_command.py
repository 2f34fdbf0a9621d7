"""The command as a user types it: what it writes, prints and refuses."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from implicit_ntk.cli import main
from implicit_ntk.cli._interrupts import interrupts
from implicit_ntk.experiments import run_twin

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = ["--n-train", "12", "--n-test", "8", "--widths", "16", "24", "--seeds", "1"]
SMALL += ["--integrator", "euler", "--horizon", "1", "--records", "4"]


def test_run_writes_its_directory_and_prints_the_table(tmp_path, capsys):
    assert main(["run", *SMALL, "--name", "small", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "small"
    for name in ("config.json", "environment.json", "metrics.csv", "arrays.npz", "summary.md"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "figures" / "twin.png").exists() and (folder / "figures" / "twin.pdf").exists()
    assert json.loads((folder / "config.json").read_text())["widths"] == [16, 24]
    printed = capsys.readouterr().out
    assert "linearised twin" in printed and "16" in printed and "24" in printed


def test_finished_run_is_not_redone(tmp_path, capsys, monkeypatch):
    to = ["--name", "small", "--out", str(tmp_path)]
    assert main(["run", *SMALL, *to, "--resume"]) == 0
    monkeypatch.setattr("implicit_ntk.cli._run.run_twin", None)
    capsys.readouterr()
    assert main(["run", *SMALL, *to, "--resume"]) == 0
    assert str(tmp_path / "small" / "summary.md") in capsys.readouterr().out
    assert main(["run", *SMALL, *to, "--resume", "--seeds", "2"]) == 2
    assert "seeds = 1, not 2" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_and_the_run_goes_on(number, tmp_path, capsys, monkeypatch):
    """Heard at the next pause: the checkpoint is written, the sentence says how to go on."""
    to = ["--name", "small", "--out", str(tmp_path), "--checkpoint-every", "1e9"]
    before = signal.getsignal(number)

    def signalled(config, progress, checkpoints):
        def tell(share, what):
            if share > 0.7:
                os.kill(os.getpid(), number)
            progress(share, what)

        return run_twin(config, tell, checkpoints)

    monkeypatch.setattr("implicit_ntk.cli._run.run_twin", signalled)
    assert main(["run", *SMALL, *to]) == 130
    said = capsys.readouterr().err
    assert "--name small --resume" in said and said.count("\n") == 1
    assert signal.getsignal(number) is before
    kept = {path.name for path in (tmp_path / ".small.partial" / "checkpoints").iterdir()}
    assert (
        kept == {"config.json", "m16-seed0.npz", "m24-seed0-under-way.npz"}
        and not (tmp_path / "small").exists()
    )
    monkeypatch.undo()
    assert main(["run", *SMALL, *to]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["run", *SMALL, *to, "--resume"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_the_second_signal_stops_at_once():
    with interrupts() as heard:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            heard()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "resume needs the --name"),
        (["--checkpoint-every", "-1"], "checkpoint-every must not be negative"),
    ],
)
def test_flags_that_make_no_sense(flags, message, tmp_path, capsys):
    assert main(["run", *SMALL, *flags, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_run_refuses_to_replace(tmp_path, capsys):
    (tmp_path / "small").mkdir()
    assert main(["run", *SMALL, "--name", "small", "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["run", *SMALL, "--name", "small", "--out", str(tmp_path), "--resume"]) == 2
    assert "is no run" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "keeps"), [("run", True), ("sweep", False)])
def test_checkpoints_have_an_interval_where_it_counts(command, keeps, capsys):
    """A sweep keeps every run that is finished: there is nothing to set."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert ("--checkpoint-every" in capsys.readouterr().out) == keeps


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
