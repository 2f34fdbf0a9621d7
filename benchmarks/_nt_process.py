"""A computation in a process of its own: started under limits, asked in turn, quoted when it fails.

Between its turns a process is stopped: threads that wait for work would take time from the other's.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
QUOTED = 130
"""How much of a failure is quoted."""


class Failed(Exception):
    """What a process said before it gave up, or how it ended without a word."""


def interpreter(environment: str) -> Path:
    """The Python of an environment beside the checkout's own; ours, where no name is given."""
    return ROOT / f".venv-nt-{environment}" / "bin" / "python" if environment else Path(sys.executable)


class Worker:
    """`_nt_worker.py` under an interpreter, its kernel in the file `result`; `with` ends the process."""

    def __init__(self, environment: str, arguments: list[str], result: Path, timeout: float) -> None:
        self.result, self.timeout = result, timeout
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [interpreter(environment), HERE / "_nt_worker.py", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
            bufsize=0,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def ask(self) -> dict[str, float]:
        """Have it compute once more."""
        self.process.send_signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # of a process that has ended: its last words say why
            self.process.stdin.write(b"\n")
        return self.answer()

    def answer(self) -> dict[str, float]:
        """Its next answer; `Failed` where there is none in time, or where it is a failure."""
        if not select.select([self.process.stdout], [], [], self.timeout)[0]:
            raise Failed(f"no answer in {self.timeout:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(self.last_words())
        fields = json.loads(line)
        if "failure" in fields:
            raise Failed(short(fields["failure"]))
        self.process.send_signal(signal.SIGSTOP)
        return fields

    def last_words(self) -> str:
        """Of a process that ended without an answer."""
        status = self.process.wait()
        how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self.errors.seek(0)
        lines = [line for line in self.errors if line.strip() and not re.match(r"[IW]\d{4} |WARNING: ", line)]
        return f"{how}: {short(lines[-1])}" if lines else how


def short(text: str) -> str:
    """The first line, cut."""
    line = text.strip().splitlines()[0]
    return line if len(line) <= QUOTED else line[:QUOTED] + "..."
