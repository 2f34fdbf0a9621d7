"""What a kernel is of, in a table, and what all tables of kernels share."""

import numpy as np

from implicit_ntk.experiments.kernel._subject import KernelConfig, Subject
from implicit_ntk.networks import (
    AbstractNetwork,
    AbstractOutputWrapper,
    MonotoneImplicit,
    ReluImplicit,
    ReluImplicitFull,
    Scaled,
    WeightTied,
    trained_leaves,
)

Rows = list[tuple[str, str]]
"""Names and values."""


def subject_rows(subject: Subject) -> Rows:
    """The samples, the network, and why its solvers were chosen."""
    return [
        ("samples", _samples(subject)),
        ("parallel pairs", _pairs(subject)),
        ("network", _network(subject)),
        ("solvers", subject.choice.reason),
    ]


def value_rows(name: str, value: float, error: float, precision: str) -> Rows:
    """An eigenvalue, and whether it is a number or noise."""
    if value > error:
        return [(name, f"{value:.3e}, resolved (above {error:.1e})")]
    remedy = "; use --precision float64" if precision == "float32" else ""
    return [(name, f"{value:.1e}, not resolved (below {error:.1e}{remedy})")]


def condition_rows(largest: float, least: float, error: float) -> Rows:
    """`lambda_max / lambda_min`, where both are numbers."""
    return [("condition", f"{largest / least:.3g}" if least > error else "not resolved")]


def cost_rows(seconds: dict[str, float]) -> Rows:
    """How long it took, compilation included."""
    parts = ", ".join(f"{name} {time:.1f} s" for name, time in seconds.items())
    return [("time", f"{sum(seconds.values()):.1f} s: {parts}")]


def markdown(config: KernelConfig, rows: Rows) -> str:
    """The rows as a document."""
    lines = [f"# Kernel of {config.network.named} on {config.samples.named}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value.replace('||', '‖')} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _samples(subject: Subject) -> str:
    samples = subject.samples
    n, d = samples.X.shape
    classes = f", classes {', '.join(map(str, samples.classes))}" if samples.classes else ""
    return f"n = {n}, d = {d}: {subject.config.samples.named}{classes} ({samples.source})"


def _pairs(subject: Subject) -> str:
    zeros = int((~subject.samples.X.any(axis=1)).sum())
    of_zero = f"; {zeros} {'sample is' if zeros == 1 else 'samples are'} zero" if zeros else ""
    if not len(subject.pairs):
        return f"none{of_zero}"
    i, j = subject.pairs[0]
    return f"{len(subject.pairs)}, the first samples {i} and {j}: the limit may be singular{of_zero}"


def _network(subject: Subject) -> str:
    net, scales = subject.net, []
    while isinstance(net, AbstractOutputWrapper):
        scales += [f"outputs times {float(net.alpha):.3g}"] if isinstance(net, Scaled) else []
        net = net.net
    core, leaves = net.core, trained_leaves(net)
    tied = [f"its cell applied {net.depth} times"] if isinstance(net, WeightTied) else []
    outputs = [f"k = {np.prod(net.out_shape)} outputs"] if net.out_shape else []
    count = sum(leaf.size for leaf in leaves.values())
    facts = [*tied, f"m = {net.width}", *_scale(core), *outputs, *scales]
    facts.append(f"trains {', '.join(leaves)} ({count:,} numbers)")
    return f"{type(core).__name__}, {', '.join(facts)}, {subject.config.precision}"


def _scale(net: AbstractNetwork) -> list[str]:
    if isinstance(net, ReluImplicit | ReluImplicitFull):
        return [f"gamma0 = {float(net.gamma0):.3g}"]
    return [f"mu = {float(net.monotonicity):.3g}"] if isinstance(net, MonotoneImplicit) else []
