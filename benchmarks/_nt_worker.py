"""One way to compute the kernel, in a process of its own that answers on its standard output.

    python _nt_worker.py PROBLEM.npz KERNEL.npy CORES GIBIBYTES ours [RTOL]
    python _nt_worker.py PROBLEM.npz KERNEL.npy CORES GIBIBYTES theirs SOLVER IMPLEMENTATION

The first answer comes after compilation, and then one for each line read; each is a line of JSON.
"""

import ctypes
import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable


def main(problem: str, result: str, cores: str, gibibytes: str, *which: str) -> None:
    """Compile, keep the kernel, answer; a failure is an answer in its own words."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        limit(cores, float(gibibytes))
        run = loaded(problem, which)
        answer(**warm_up(run, result))
        for _ in sys.stdin:
            answer(**timed(run))
    except Exception as failure:  # whatever is raised is the answer
        answer(failure=f"{type(failure).__name__}: {failure}")


def limit(cores: str, gibibytes: float) -> None:
    """Before jax is imported, whose threads are as many as the cores.

    The limit is on data, not on address space, much of which is only reserved.
    """
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    nbytes = int(gibibytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (nbytes, nbytes))


def loaded(problem: str, which: tuple[str, ...]) -> Callable[[], object]:
    """The computation, its library imported here."""
    import numpy as np

    with np.load(problem) as archive:
        arrays = dict(archive)
    if which[0] == "ours":
        import _nt_ours

        return _nt_ours.kernel(arrays, *which[1:])
    import _nt_theirs

    return _nt_theirs.kernel(arrays, *which[1:])


def warm_up(run: Callable[[], object], result: str) -> dict[str, object]:
    """The first call, which compiles; its kernel to a file; and the peak memory of a second call."""
    import jax
    import numpy as np

    began = time.perf_counter()
    np.save(result, np.asarray(run()))
    first = time.perf_counter() - began
    return {"jax": jax.__version__, "first": first, "peak": peak(run)}


def peak(run: Callable[[], object]) -> int:
    """By how many bytes a call raises the resident memory at its highest."""
    ctypes.CDLL(None).malloc_trim(0)  # what the first call left with the allocator would hide the need
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest mark starts from here
    before = status("VmRSS")
    run().block_until_ready()
    return status("VmHWM") - before


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(rf"{field}:\s+(\d+) kB", file.read())[1])


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Wall and processor time of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    run().block_until_ready()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - processor}


if __name__ == "__main__":
    main(*sys.argv[1:])
