"""`implicit-ntk doctor`: versions, devices, precision, memory, and a one-second check of the numbers."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

import implicit_ntk as ink
from implicit_ntk._memory import memory_limit
from implicit_ntk.equilibrium import low_product, low_type
from implicit_ntk.experiments import environment

PAYS = 0.7
"""A low-precision product below this share of a full one makes up for the full ones in between."""

Check = tuple[str, float, float]
"""What was compared, the relative difference found, the largest that is healthy."""


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Look at the machine: versions, devices, precision, memory, and a self-check of about a second."""

    json: bool = False
    """Print one JSON object instead of tables."""

    def execute(self) -> int:
        """Print the findings; 1 if a check failed."""
        findings = examine()
        if self.json:
            print(json.dumps(findings, indent=2))
        else:
            _show(Console(), findings)
        return 0 if all(check["ok"] for check in findings["checks"]) else 1


def examine() -> dict:
    """Everything that the doctor knows, as plain data."""
    began = time.perf_counter()
    checks = [
        {"check": name, "found": found, "limit": limit, "ok": bool(found <= limit)}
        for name, found, limit in _checks()
    ]
    return {
        "environment": environment(),
        "memory_limit_bytes": memory_limit(),
        "default_product_error": _product_error("default"),
        "highest_product_error": _product_error("highest"),
        "low_precision_time": low_precision_time(),
        "checks": checks,
        "seconds": round(time.perf_counter() - began, 2),
    }


def _product_error(precision: str) -> float:
    """Relative error of a float32 product: 1e-7 is float32, 1e-4 TF32, 1e-3 bfloat16."""
    import numpy as np

    a = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    exact = a.astype(np.float64) @ a
    found = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))(a)
    return float(np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact))


def low_precision_time(n: int = 500, m: int = 1000, repeats: int = 9) -> float:
    """Time of a product in bfloat16 that accumulates in float32, over that of one in float32.

    `MixedPicard` and `low_precision=True` pay where this is well below one.
    """
    x, weight = jnp.ones((n, m)), jnp.ones((m, m))
    low = weight.astype(low_type(weight.dtype))
    full = jax.jit(lambda x: jnp.matmul(x, weight, precision="highest"))
    cheap = jax.jit(lambda x: low_product(x, low))
    jax.block_until_ready((full(x), cheap(x)))
    times = [(_seconds(full, x), _seconds(cheap, x)) for _ in range(repeats)]
    return min(cheap for _, cheap in times) / min(full for full, _ in times)


def _seconds(run: Callable[[Array], Array], x: Array) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run(x))
    return time.perf_counter() - began


def _checks() -> Iterator[Check]:
    """Residual, kernel against Jacobian products, Jacobian against differences; few compilations."""
    net = ink.ReluImplicit.init(jax.random.key(0), in_size=8, width=64)
    X = jnp.sin(jnp.arange(48.0)).reshape(6, 8)
    J = ink.jacobian(net, X)
    eq = J.linearization.equilibrium
    yield "residual of the equilibrium", float(jnp.max(eq.residual / jnp.linalg.norm(eq.z, axis=1))), 1e-6
    columns = jax.vmap(lambda e: J.mv(J.rmv(e)))(jnp.eye(6))
    yield "kernel against J (J^T e_i)", _difference(columns, J.gram()), 1e-5
    direction = J.rmv(jnp.ones(6))
    h = 0.01 / optax.tree.norm(direction)
    ahead, behind = (eqx.apply_updates(net, optax.tree.scale(s * h, direction))(X) for s in (1, -1))
    yield "J v against central differences", _difference((ahead - behind) / (2 * h), J.mv(direction)), 1e-2
    lin = ink.linearized_flow(J.gram(), net(X), jnp.ones(6))
    euler = lin.u0 + 1e-3 * J.gram() @ (lin.y - lin.u0)
    yield "linearised flow against its first step", _difference(lin(1e-3), euler), 1e-3


def _difference(a: Array, b: Array) -> float:
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def _show(console: Console, findings: dict) -> None:
    facts = Table("", "", show_header=False, title="implicit-ntk doctor")
    env = findings["environment"]
    facts.add_row("implicit_ntk", f"{env['implicit_ntk']} ({env['commit'] or 'no checkout'})")
    facts.add_row("python", env["python"])
    for name, version in env["versions"].items():
        facts.add_row(name, version)
    facts.add_row("devices", f"{', '.join(env['devices'])} ({env['backend']}), {env['cpu_count']} CPU cores")
    facts.add_row(
        "memory limit", f"{findings['memory_limit_bytes'] / 2**30:.1f} GiB (IMPLICIT_NTK_MEMORY changes it)"
    )
    facts.add_row("float32 product, JAX's default", f"relative error {findings['default_product_error']:.0e}")
    facts.add_row(
        "float32 product, this package's", f"relative error {findings['highest_product_error']:.0e}"
    )
    gain = findings["low_precision_time"]
    advice = "MixedPicard pays" if gain < PAYS else "MixedPicard does not pay"
    facts.add_row("bfloat16 product", f"{gain:.2f} of the time of a float32 product: {advice} here")
    console.print(facts)
    checks = Table("check", "difference", "at most", "", title=f"self-check, {findings['seconds']:.1f} s")
    for check in findings["checks"]:
        verdict = "[green]ok[/]" if check["ok"] else "[red]FAILED[/]"
        checks.add_row(check["check"], f"{check['found']:.1e}", f"{check['limit']:.0e}", verdict)
    console.print(checks)
