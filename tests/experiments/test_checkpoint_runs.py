"""Runs that are killed and gone on with end as if nothing had happened, bit for bit."""

import dataclasses
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from implicit_ntk.experiments import Checkpoints, TwinConfig, TwinResult, load_arrays, run_twin
from implicit_ntk.experiments._host_loop import _targets

CONFIGS = {
    "euler": TwinConfig(
        n_train=8, n_test=6, widths=(12,), seeds=2, integrator="euler", horizon=3.0, records=4
    ),
    "exponential": TwinConfig(n_train=8, n_test=6, widths=(12,), seeds=1, activation="tanh", records=4),
}


class Killed(BaseException):
    """What no code catches."""


@cache
def uninterrupted(name: str) -> TwinResult:
    return run_twin(CONFIGS[name])


def killed_at(pause: int, error: type[BaseException]):
    """A progress that stops the run at a pause."""
    pauses = []

    def progress(share: float, what: str) -> None:
        pauses.append(share)
        if len(pauses) == pause:
            raise error

    return progress


def bits(result: TwinResult) -> list[bytes]:
    runs = [(run.u, run.uhat, run.f, run.fhat, run.eigenvalues, *run.metrics.values()) for run in result.runs]
    return [array.tobytes() for run in runs for array in run]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pauses between records as a long run makes."""
    monkeypatch.setattr("implicit_ntk.experiments._host_loop.REACH", 1e-9)
    monkeypatch.setattr("implicit_ntk.experiments._host_loop.MOST_PAUSES", 3)


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
@pytest.mark.parametrize("name", CONFIGS)
def test_killed_at_every_pause(name, error, often, tmp_path, quick_compilation) -> None:
    """A kill leaves the checkpoint of the pause before, Ctrl-C that of this one."""
    keep = Checkpoints(tmp_path, 0.0 if error is Killed else 1e9)
    kills = 0
    while True:
        try:
            result = run_twin(CONFIGS[name], killed_at(2, error), keep)
            break
        except error:
            kills += 1
            assert kills < 100
            assert list(tmp_path.glob("*.npz"))
            tmp_path.joinpath("m12-seed0-under-way.npz.partial").write_bytes(b"PK half")
    assert kills >= 3
    assert bits(result) == bits(uninterrupted(name))


def test_what_is_finished_is_not_done_again(tmp_path, monkeypatch, quick_compilation) -> None:
    name = "euler"
    result = run_twin(CONFIGS[name], checkpoints=Checkpoints(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "m12-seed0.npz", "m12-seed1.npz"}
    monkeypatch.setattr("implicit_ntk.experiments._twin_run._posed", None)
    again = run_twin(CONFIGS[name], checkpoints=Checkpoints(tmp_path))
    assert bits(again) == bits(result) == bits(uninterrupted(name))
    assert [(run.width, run.seed, run.resolution) for run in again.runs] == [
        (run.width, run.seed, run.resolution) for run in result.runs
    ]


def test_times_are_those_that_the_run_began_with(tmp_path, monkeypatch, quick_compilation) -> None:
    """Another machine rounds the eigenvalues otherwise, of which the times are made."""
    with pytest.raises(Killed):
        run_twin(CONFIGS["exponential"], killed_at(2, Killed), Checkpoints(tmp_path, 0.0))
    monkeypatch.setattr("implicit_ntk.experiments._twin.initial_spectrum", lambda *_: (np.ones(8), 0.1))
    again = run_twin(CONFIGS["exponential"], checkpoints=Checkpoints(tmp_path))
    assert again.times.tobytes() == uninterrupted("exponential").times.tobytes()
    assert bits(again) == bits(uninterrupted("exponential"))


def test_checkpoints_of_other_settings_are_refused(tmp_path, quick_compilation) -> None:
    """Though the arrays have the same shapes."""
    run_twin(CONFIGS["euler"], checkpoints=Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"gamma0 = 0\.4, not 0\.3"):
        run_twin(dataclasses.replace(CONFIGS["euler"], gamma0=0.3), checkpoints=Checkpoints(tmp_path))


def test_pauses_lead_from_record_to_record() -> None:
    np.testing.assert_allclose(_targets(1.0, 3.0, 4), [1.5, 2, 2.5, 3])
    assert _targets(1.0, 3.0, 1).tolist() == [3.0] and _targets(0.0, 0.0, 2).tolist() == [0, 0]
    assert _targets(5.0, np.inf, 3).tolist() == [10, 20, np.inf] and _targets(5.0, np.inf, 1)[0] == np.inf


COMMAND = [sys.executable, "-c", "import sys; from implicit_ntk.cli import main; sys.exit(main())", "run"]
FLAGS = ["--n-train", "10", "--n-test", "6", "--widths", "12", "16", "--seeds", "2"]
FLAGS += ["--records", "12", "--checkpoint-every", "0"]


def command(out: Path, name: str, *flags: str) -> subprocess.Popen:
    arguments = [*FLAGS, *flags, "--out", str(out), "--name", name, "--resume"]
    with (out / "log").open("ab") as log:
        return subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=log)


def killed(process: subprocess.Popen, when: float, folder: Path | None) -> bool:
    """Kill after some seconds, and then, given a folder, as soon as a file is being written there."""
    end = time.monotonic() + when
    while process.poll() is None:
        writing = folder is None or list(folder.glob("*.partial"))
        if time.monotonic() > end and writing:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(1e-4 if folder else 1e-2)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "kills"), [(("--activation", "tanh"), 20), (("--integrator", "euler"), 6)])
def test_killed_at_random_moments(flags, kills, tmp_path, rng, monkeypatch) -> None:
    """By SIGKILL, in a chain: each start goes on from where the last was killed."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    began = time.monotonic()
    assert command(tmp_path, "whole", *flags).wait() == 0, (tmp_path / "log").read_text()
    lasts, partial = time.monotonic() - began, tmp_path / ".killed.partial"
    while kills:
        process = command(tmp_path, "killed", *flags)
        while not partial.exists() and process.poll() is None:
            time.sleep(0.01)
        writing = partial / "checkpoints" if kills % 2 else None
        kills -= killed(process, rng.uniform(0, lasts / 4), writing)
        assert process.returncode in (0, -signal.SIGKILL), (tmp_path / "log").read_text()
        if (tmp_path / "killed").exists():  # it was through: another one, from the start
            (tmp_path / "killed").rename(tmp_path / f"killed-{kills}-{process.pid}")
    assert command(tmp_path, "killed", *flags).wait() == 0, (tmp_path / "log").read_text()
    finished = [path for path in tmp_path.iterdir() if path.name.startswith("killed")]
    for path in finished:
        assert (path / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
        found, expected = (load_arrays(folder / "arrays.npz") for folder in (path, tmp_path / "whole"))
        assert found.keys() == expected.keys()
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    assert not partial.exists()
