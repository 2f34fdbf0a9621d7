"""Several devices and several processes, in processes of their own: JAX counts its devices once."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PATIENCE = 240.0


def environment(devices: int) -> dict[str, str]:
    """That of a process which sees so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def on_eight_devices(marks: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks]
    done = subprocess.run(
        [*command, "on_eight_devices.py"],
        cwd=FOLDER,
        env=environment(8),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout[-8000:]


def test_eight_devices() -> None:
    on_eight_devices("not slow")


@pytest.mark.slow
def test_eight_devices_at_length() -> None:
    """All networks on all meshes, training, wrappers."""
    on_eight_devices("slow")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together(count: int, folder: Path) -> list[tuple[int | None, str]]:
    """Exit status and output of processes that work on one mesh; all are killed where one fails or lags."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(FOLDER / "in_two_processes.py"), address, str(count)]
    outputs = [folder / f"{i}.txt" for i in range(count)]
    started = []
    try:
        for i, output in enumerate(outputs):
            with output.open("w") as file:
                run = subprocess.Popen([*command, str(i)], env=environment(2), stdout=file, stderr=file)
            started.append(run)
        return list(zip(watched(started), [output.read_text() for output in outputs], strict=True))
    finally:
        for run in started:
            run.kill()
            run.wait()


def watched(started: list[subprocess.Popen]) -> list[int | None]:
    """What became of processes that wait for each other, once all ended, one failed or patience did."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and any(run.poll() is None for run in started):
        if any(run.poll() for run in started):
            time.sleep(2)  # for the last words of the others
            break
        time.sleep(0.05)
    return [run.poll() for run in started]


def test_two_processes(tmp_path: Path) -> None:
    for i, (status, text) in enumerate(together(2, tmp_path)):
        assert status == 0, f"process {i}: {status}\n{text[-8000:]}"
        assert "as on one device" in text
