"""One of two processes that hold a kernel's samples between them: the program of docs/scaling.md, made small.

`python in_two_processes.py ADDRESS 2 NUMBER`
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

import implicit_ntk as ink

N, D, M = 8, 5, 12
SIZES = "n, d, m = 4096, 784, 8192"


def of_the_document() -> dict[str, Any]:
    """What the program leaves behind."""
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    program = next(block for block in text.split("```python") if "distributed.initialize(" in block).split(
        "```"
    )[0]
    assert SIZES in program
    namespace: dict[str, Any] = {}
    exec(program.replace(SIZES, f"n, d, m = {N}, {D}, {M}"), namespace)
    return namespace


def refused(call: Callable[[], object], error: type[Exception], words: str) -> None:
    try:
        call()
    except error as found:
        assert words in str(found), found
    else:
        raise AssertionError(f"not refused: {words}")


def check_kernel(ran: dict[str, Any], net: ink.ReluImplicit, X: np.ndarray) -> None:
    """That of the document is that of one device; with rows that each process brings, too."""
    want = np.asarray(ink.ntk(net, X))
    mine = ink.spread_local_rows(X[_own()], ran["mesh"])
    assert not mine.is_fully_addressable and mine.shape == X.shape
    assert all(block.shape == (N // 2, N) for _, block in ran["mine"])
    for H in (ran["H"], ink.ntk(ran["net"], mine)):
        np.testing.assert_allclose(process_allgather(H, tiled=True), want, rtol=2e-6, atol=2e-7)
    out = np.empty_like(want)
    ink.ntk_into(out, ran["net"], ran["X"])
    np.testing.assert_allclose(out, want, rtol=2e-6, atol=2e-7)
    found = ink.spectrum(ran["H"]).eigenvalues
    np.testing.assert_allclose(found, np.linalg.eigvalsh(want), rtol=1e-5, atol=1e-6)


def check_refusals(ran: dict[str, Any], net: ink.ReluImplicit, X: np.ndarray) -> None:
    """In all processes, by the same words."""
    mesh, number, own = ran["mesh"], jax.process_index(), _own()
    bad = dataclasses.replace(ran["net"], gamma=20 * ran["net"].gamma)
    refused(
        lambda: ink.ntk(bad, ran["X"]), ink.ConvergenceError, "8 of 8 failed: the forward solve of X1 met an"
    )
    holes = ink.spread_local_rows(np.where(number == 1, np.nan, X[own]), mesh)
    refused(lambda: ink.ntk(ran["net"], holes), ValueError, "X1 holds NaN")
    refused(lambda: ink.spread_rows(X + number, mesh), ValueError, "X is not the same in all processes")
    refused(lambda: ink.spread_local_rows(X[: 4 - 2 * number], mesh), ValueError, "as many in each")
    across = ink.device_mesh(1, 4)
    refused(lambda: ink.spread_local_rows(X[own], across), ValueError, "pass the same rows in each")
    other = dataclasses.replace(net, b=net.b + number)
    refused(lambda: ink.spread_network(other, mesh), ValueError, "net is not the same in all processes")


def _own() -> slice:
    half = N // 2
    return slice(half * jax.process_index(), half * (jax.process_index() + 1))


def main() -> None:
    ran = of_the_document()
    X = np.random.default_rng(0).normal(size=(N, D))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    net = ink.ReluImplicit.init(jax.random.key(0), D, M)
    check_kernel(ran, net, X)
    check_refusals(ran, net, X)
    print("as on one device")


if __name__ == "__main__":
    main()
