"""The Python of the documents runs, block after block, and the numbers in them hold."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

DOCS = Path(__file__).parent.parent / "docs"


def blocks(name: str) -> list[str]:
    """The Python blocks of a document; blank lines before each, so that errors name the right line."""
    text = (DOCS / name).read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n" * text[: match.start(1)].count("\n") + match[1] for match in found]


def run(name: str) -> dict[str, Any]:
    """What the blocks, run in order, leave behind."""
    namespace: dict[str, Any] = {"__name__": name}
    for block in blocks(name):
        exec(compile(block, str(DOCS / name), "exec"), namespace)
    return namespace


@pytest.fixture
def own(x64: None, quick_compilation: None) -> dict[str, Any]:
    return run("your-own-network.md")


def test_your_own_network(own: dict[str, Any]) -> None:
    """The residual, the kernel and the gradient against differences, the certificate, the twin."""
    net, X, y, eq = own["net"], own["X"], own["y"], own["eq"]
    moved = own["cell"](own["params"], eq.z, net.inject(X))
    for name, leaf in moved.items():
        assert_allclose(leaf, eq.z[name], atol=1e-11, err_msg=name)
    directions = own["J"].rmv(own["u"] - y)
    slope = difference(lambda s: jax.tree.map(lambda a, b: a + s * b, net, directions)(X))
    assert_allclose(own["H"] @ (own["u"] - y), slope, rtol=1e-8)
    block, direction = own["blocks"]["G"] @ (own["u"] - y), directions.params["G"]
    at = net.params["G"]
    assert_allclose(block, difference(lambda s: with_G(net, at + s * direction)(X)), rtol=1e-8)
    assert own["deviation"] < 0.1
    assert own["radius"].shape == (5,)
    assert np.linalg.norm([[1 / 4, 1 / 2], [1 / 8, 0]], 2) < 0.58


def with_G(net: Any, G: jax.Array) -> Any:
    return eqx.tree_at(lambda net: net.params["G"], net, G)


def difference(f: Callable[[float], jax.Array], h: float = 1e-3) -> jax.Array:
    """The derivative at zero, error O(h^4)."""
    return (f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h)


def test_short() -> None:
    """Each of the two ways takes at most fifteen lines."""
    ways = [
        block for block in blocks("your-own-network.md") if "from_functions(" in block or "class " in block
    ]
    assert len(ways) == 2
    for way in ways:
        assert len([line for line in way.splitlines() if line.strip()]) <= 15, way


@pytest.mark.slow
def test_training(x64: None) -> None:
    """The run ends, its parts are the whole, and what it was made of adds up."""
    own = run("training.md")
    traj, net, X, y = own["traj"], own["net"], own["X"], own["y"]
    assert traj.loss[-1] < 1e-12
    twin = own["twin"].limit(own["ink"].ntk(net, own["X_test"], X), net(own["X_test"]))
    assert_allclose(own["model"](own["X_test"]), twin, atol=1e-9)
    assert_allclose(own["parts"].test.total[-1], own["f_inf"] - twin, atol=1e-9)
    assert own["path"].relative_residual[-1] < 1e-2
    assert_allclose(sum(shares[-1] for shares in own["meter"].shares.values()), 1, rtol=1e-12)
    assert abs(own["meter"].loss_residual[-1]) < 3e-2
    assert_allclose(
        own["run"].u[-1],
        own["ink"].linearized_descent(own["ink"].ntk(net, X), net(X), y, float(own["bound"].suggested))(100),
        atol=0.05,
    )
    assert_allclose(own["records"][-1].u, traj.u[2], atol=1e-12)
