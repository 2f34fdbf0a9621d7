"""The widths in tables, and in words."""

import numpy as np

from implicit_ntk.experiments.widths._initial import DELTA, Concentration
from implicit_ntk.experiments.widths._laws import Law, Measured
from implicit_ntk.experiments.widths._moments import Architecture
from implicit_ntk.experiments.widths._monotone import ANGLES, POWERS, Monotone
from implicit_ntk.experiments.widths._widths import WidthsResult

Cells = list[list[str]]
FAR = 3.0
WIDEST = 3
"""Widths at which the leading order is told from the next."""
SMALL = -5
"""Standard errors below this power of ten are written with one."""
UNLIKELY = 0.01
"""Below this p value a law is marked as one that does not hold."""


def widths_markdown(result: WidthsResult) -> str:
    """What was run, and a table for each part of it."""
    parts = [_heading(result)]
    if result.architectures:
        parts += [_limits(result), _scores(result)]
    if result.edge:
        parts.append(_edge(result))
    if result.printed:
        parts.append(_half_normal(result))
    if result.concentration is not None:
        parts.append(_diagonal(result.concentration))
    if result.monotone is not None:
        parts += [_exponents(result.monotone), _extrapolated(result.monotone)]
    return "\n\n".join(parts) + "\n"


def limit_rows(result: WidthsResult) -> Cells:
    """An architecture a row: spread, bias, their exponents, and how far the mean lies from the limit."""
    return [
        [
            row.title,
            f"{100 * row.moments[-1].fluctuation.value:.1f}%",
            exponent(row.law("fluctuation")),
            exponent(row.law("fluctuation", WIDEST)),
            plus_minus(row.bias_constant.estimate) + _mark(row.bias_constant),
            exponent(row.law("bias")),
            f"{np.abs(row.z).max():.2f}",
            f"{np.abs(row.z_at_infinity).max():.2f}",
        ]
        for row in result.architectures.values()
    ]


def limit_columns(result: WidthsResult) -> list[str]:
    """The head of `limit_rows`."""
    m = result.config.widths[-1]
    scores = [f"largest z, m = {m}", "largest z, m to infinity"]
    return [
        "architecture",
        f"fluctuation, m = {m}",
        "its exponent",
        f"{WIDEST} widest",
        "bias times m",
        "its exponent",
        *scores,
    ]


def plus_minus(measured: Measured) -> str:
    """A number with the digits that its standard error leaves it."""
    value, stderr = measured
    if not 0 < stderr < np.inf:
        return f"{value:.3g}"
    order = int(np.floor(np.log10(stderr)))
    if order < SMALL:
        power = int(np.floor(np.log10(max(abs(value), stderr))))
        return f"({plus_minus(Measured(value / 10.0**power, stderr / 10.0**power))})e{power}"
    digits = max(0, 1 - order)
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"


def exponent(law: Law) -> str:
    """An exponent, marked where no power fits, or that there is none to be seen."""
    return plus_minus(law.estimate) + _mark(law) if law.estimate.stderr < 0.5 else "not resolved"


def _heading(result: WidthsResult) -> str:
    c = result.config
    draws = ", ".join(str(c.draws(m, 2, c.seeds)) for m in c.widths)
    return (
        "# Finite networks beside their infinite-width limits\n\n"
        f"Widths {', '.join(map(str, c.widths))}; {draws} networks at each (half-normal layers: "
        f"{c.seeds}); unit inputs in the directions {', '.join(f'{a:g}' for a in c.angles)} degrees; "
        f"gamma0 = {c.gamma0:g}, {c.precision}, seed {c.seed}. `±` is one standard error."
    )


def _limits(result: WidthsResult) -> str:
    return (
        "## Fluctuation and bias\n\n"
        "Fluctuation: root mean square of `||H - E H||_F / ||H_inf||_F`. Bias: `<E H - H_inf, H_inf> / "
        "||H_inf||_F^2`; its constant is that of the law c/m. Exponents: of m, over all widths "
        f"and over the {WIDEST} widest; * where the law does not fit "
        f"(p < {UNLIKELY:g}). z: `(mean - limit) / stderr` of an entry.\n\n"
        + _table(limit_columns(result), limit_rows(result))
    )


def _scores(result: WidthsResult) -> str:
    rows = list(result.architectures.values())
    pairs = [f"{i},{j}" for i, j in zip(*np.triu_indices(len(rows[0].limit)), strict=True)]
    cells = [[row.title, *(f"{z:.2f}" for z in row.z)] for row in rows]
    above = sum(int((np.abs(row.z) > FAR).sum()) for row in rows)
    return (
        f"## z of every entry, m = {result.config.widths[-1]}\n\n"
        f"{_table(['architecture', *pairs], cells)}\n\n"
        f"|z| > {FAR:g} in {above} of {len(rows) * len(pairs)} entries. The entries of one row share their "
        "draws and are strongly correlated."
    )


def _edge(result: WidthsResult) -> str:
    widths = [f"m = {m}" for m in result.config.widths]
    cells = [_edge_row(row) for row in result.edge]
    return (
        "## Nearer to the edge\n\n"
        f"Relative bias of {result.edge[0].title}; in brackets the networks that were not solved, which are "
        f"left out. p: of the law c/m.\n\n{_table(['gamma0', *widths, 'exponent', 'p'], cells)}"
    )


def _edge_row(row: Architecture) -> list[str]:
    cells = [
        plus_minus(m.bias) + (f" ({m.failed} of {m.draws} failed)" if m.failed else "") for m in row.moments
    ]
    return [f"{row.gamma0:g}", *cells, exponent(row.law("bias")), f"{row.bias_constant.p_value:.2g}"]


def _half_normal(result: WidthsResult) -> str:
    norms = _table(
        [f"m = {m}" for m in result.config.widths], [[plus_minus(found) for found in result.printed]]
    )
    return (
        "## Half-normal layers\n\n"
        "`gamma ||A||` with `gamma = gamma0 / sqrt(m)`, as printed: it goes as m to the power "
        f"{plus_minus(result.printed_law.estimate)}.\n\n{norms}\n\n"
        f"With `gamma = gamma0 / ||A||` H goes as m to the power {plus_minus(result.vanishing.estimate)}."
    )


def _diagonal(found: Concentration) -> str:
    cells = [
        [str(m), *(f"{c:.3f}" for c in line)] for m, line in zip(found.widths, found.constants, strict=True)
    ]
    return (
        f"## Diagonal layers\n\n`||H - H_inf||_F` of {found.samples[-1]} random unit inputs goes as m "
        f"to the power {plus_minus(found.exponent.estimate)}. The C with which "
        f"`C n sqrt(log(n / {DELTA}) / m)` bounds all but {DELTA:.0%} of the draws:\n\n"
        + _table(["m", *(f"n = {n}" for n in found.samples)], cells)
    )


def _exponents(monotone: Monotone) -> str:
    laws = [[monotone.exponent(name, mu) for name in POWERS] for mu in range(len(monotone.monotonicities))]
    cells = [
        [f"{mu:g}", *map(exponent, line)] for mu, line in zip(monotone.monotonicities, laws, strict=True)
    ]
    failed = f" {monotone.failed} networks were not solved and are left out." if monotone.failed else ""
    return (
        "## Monotone networks\n\n"
        f"The power of m that each block grows with, for one input; * where no single power fits "
        f"(p < {UNLIKELY:g}).{failed}\n\n" + _table(["mu", *(f"K_{name}" for name in POWERS)], cells)
    )


def _extrapolated(monotone: Monotone) -> str:
    parts = [
        "Extrapolated to infinite width along `K + c/m`, unit inputs at the angles given, in degrees; "
        f"* where that law does not fit (p < {UNLIKELY:g})."
    ]
    for name, power in POWERS.items():
        cells = [
            [f"{mu:g}", *(_entry(monotone.limit(name, k, angle)) for angle in range(len(ANGLES)))]
            for k, mu in enumerate(monotone.monotonicities)
        ]
        head = ["mu", *map(str, ANGLES)]
        parts.append(f"`K_{name}{'/m' if power else ''}`:\n\n{_table(head, cells)}")
    return "\n\n".join(parts)


def _entry(law: Law) -> str:
    return "0" if abs(law.estimate.value) < 1e-9 else plus_minus(law.estimate) + _mark(law)


def _mark(law: Law) -> str:
    return "*" if law.p_value < UNLIKELY else ""


def _table(head: list[str], cells: Cells) -> str:
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
