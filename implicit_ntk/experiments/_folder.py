"""A run's directory: everything, or nothing of that name; what is unfinished waits beside it.

While a run goes on there is `.<name>.partial`, with its settings, its checkpoints and the results as far as
they are written. That the results take the name is one rename, the last thing that happens.
"""

import dataclasses
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from implicit_ntk.experiments._checkpoint import save_json, sync
from implicit_ntk.experiments._environment import differences, environment

if sys.platform != "win32":
    import fcntl

Say = Callable[[str], object]


@contextmanager
def run_folder(
    config: Any, folder: Path, overwrite: bool = False, resume: bool = False, say: Say = warnings.warn
) -> Iterator[Path]:
    """A folder to write a run to, with `config.json` and `environment.json`; it is `folder` when complete.

    Checkpoints go to `checkpoints_beside` it. Where what is done here fails or is stopped they are kept, and
    `resume` goes on with them; where there are none nothing is left. A `KeyboardInterrupt` leaves with
    a sentence on how to go on.

    **Arguments:** `config`, a dataclass; `overwrite`, replace a finished run of that name, at the end;
    `resume`, go on with the unfinished run of that name, or begin one (else `overwrite` removes that);
    `say`, told in a sentence where the run is not going to be the uninterrupted one bit for bit.

    **Raises:** as `check_free`; `ValueError` where the run to go on with has other settings.
    """
    check_free(folder, overwrite, resume)
    partial = _partial(folder)
    results = partial / "results"
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        try:
            _begin(config, partial, resume, say)
            yield results
            _finish(results, folder)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_how_to_go_on(folder)) from None
        finally:
            if not _has_checkpoints(partial):
                shutil.rmtree(partial, ignore_errors=True)


def checkpoints_beside(results: Path) -> Path:
    """The folder for the checkpoints of a run whose results go to what `run_folder` yields."""
    return results.with_name("checkpoints")


def check_free(folder: Path, overwrite: bool, resume: bool = False) -> None:
    """Raise `FileExistsError` where a run of that name, finished or not, stands and may not be replaced."""
    if folder.exists() and not overwrite:
        raise FileExistsError(f"name: {folder} exists; pass another --name, or --overwrite")
    if _has_checkpoints(_partial(folder)) and not (overwrite or resume):
        raise FileExistsError(
            f"name: an unfinished run stands in {_partial(folder)}; go on with it by --resume, pass another "
            "--name, or --overwrite"
        )


def is_finished(config: Any, folder: Path) -> bool:
    """Does `folder` hold the finished run of these settings?

    Raises `ValueError` where it holds one of others, naming the first that differs, `FileExistsError` where
    it holds something else.
    """
    if not folder.exists():
        return False
    if not (folder / "config.json").exists():
        raise FileExistsError(f"name: {folder} exists and is no run; pass another --name")
    _check_same(config, folder)
    _tidy(_partial(folder))
    return True


def claim(config: Any, checkpoints: Path) -> None:
    """Make a folder for the checkpoints of these settings; raise `ValueError` where those of others stand."""
    if (checkpoints / "config.json").exists():
        _check_same(config, checkpoints)
    else:
        checkpoints.mkdir(parents=True, exist_ok=True)
        save_json(checkpoints / "config.json", dataclasses.asdict(config))


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _has_checkpoints(partial: Path) -> bool:
    return any(checkpoints_beside(partial / "results").glob("*.npz"))


def _tidy(partial: Path) -> None:
    """Remove what a kill after the last rename left: checkpoints without the results that they led to."""
    if partial.exists() and not (partial / "results").exists():
        with suppress(FileExistsError), _locked(partial):
            shutil.rmtree(partial, ignore_errors=True)


def _begin(config: Any, partial: Path, resume: bool, say: Say) -> None:
    """The settings and surroundings, of a run that begins or goes on; results are written anew."""
    results, here = partial / "results", environment()
    if not (resume and _has_checkpoints(partial)):
        shutil.rmtree(checkpoints_beside(results), ignore_errors=True)
    checkpoints_beside(results).mkdir(exist_ok=True)
    if _has_checkpoints(partial):
        _check_same(config, partial)
        there = json.loads((partial / "environment.json").read_text(encoding="utf-8"))
        here = _resumed(there, here, say)
    save_json(partial / "environment.json", here)
    save_json(partial / "config.json", dataclasses.asdict(config))
    shutil.rmtree(results, ignore_errors=True)
    (results / "figures").mkdir(parents=True)
    for name in ("config.json", "environment.json"):
        shutil.copy(partial / name, results)


def _resumed(there: dict[str, Any], here: dict[str, Any], say: Say) -> dict[str, Any]:
    """The surroundings that the run began in, with those that it went on in where they differ."""
    changed = differences(there, here)
    if not changed:
        return there
    say(
        f"resumed, but not bit for bit the uninterrupted run: {', '.join(changed)} differ from where it began"
    )
    return there | {"resumed_in": [*there.get("resumed_in", []), here]}


def _finish(results: Path, folder: Path) -> None:
    """All on the disk, then one rename."""
    for path in (results, *results.rglob("*")):
        sync(path)
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    results.rename(folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    shutil.rmtree(results.parent, ignore_errors=True)


def _check_same(config: Any, folder: Path) -> None:
    there = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    here = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for name in [*here, *there]:
        if name not in there or name not in here or there[name] != here[name]:
            raise ValueError(
                f"resume: {folder} is a run with {name} = {there.get(name)}, not {here.get(name)}; go on "
                "with its own settings, or pass another --name"
            )


def _how_to_go_on(folder: Path) -> str:
    if not _has_checkpoints(_partial(folder)):
        return "stopped; nothing was written"
    return f"stopped; the same command with --name {folder.name} --resume goes on from here"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raise `FileExistsError` while another process writes this run; a kill releases its lock."""
    if sys.platform == "win32":  # no such locks there
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise FileExistsError(
            f"name: another process is at {folder}; let it end, or pass another --name"
        ) from None
    else:
        yield
    finally:
        os.close(descriptor)
