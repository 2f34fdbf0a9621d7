"""How much cheaper than Euler's is the exponential integrator, at equal error?

MNIST 0/1, GG22's network, the implicit layer trained, in float64. Errors are root mean squares over the
outputs, relative to `u(0) - y`, against the exponential integrator at a tighter tolerance; that Euler's
error falls in proportion to its step beside that reference is printed, too: it is a check of the
reference. Costs are in products of (n, m) with (m, m) matrices, everything counted, and in seconds.

Then to a loss of 1e-8, Euler's cost extrapolated: its cost a step, by the number of its largest stable
steps. Where no Euler step is named (`--euler` with nothing behind it) the first answer is extrapolated, too.

    python benchmarks/flow.py [--n 500] [--widths 1000 4000] [--until 700] [--rtol 1e-2 1e-3]
"""

import argparse
import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _products import products_outside_solves
from _timing import device

import implicit_ntk as ink
from implicit_ntk.data import two_class
from implicit_ntk.dynamics import AbstractIntegrator, FlowProblem, pose, segment, start

PROBES = 64
"""Rows of the unseen data that `Exponential` solves for besides."""

EULER = (1.9, 1.6, 1.3, 1.0, 0.5)
"""Steps that are tried, in units of 1/lambda_max."""

STABLE = 1.9
"""Of the 2/lambda_max that Euler's steps must stay below; the kernel may grow."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run to one time: outputs, on the data and unseen, steps, products, seconds."""

    u: np.ndarray
    f: np.ndarray
    loss: float
    steps: int
    rejected: int
    products: float
    seconds: float

    def error(self, reference: "Run", scale: float) -> tuple[float, float]:
        """In u and in f, relative to the rms of `u(0) - y`."""
        return tuple(
            float(np.sqrt(np.mean((mine - theirs) ** 2))) / scale
            for mine, theirs in ((self.u, reference.u), (self.f, reference.f))
        )


def problem(n: int, m: int, gamma0: float) -> FlowProblem:
    """The samples and the network, posed."""
    data = two_class("mnist", (0, 1), n_train=n, n_test=100, dtype=np.float64)
    net = ink.Centred(ink.ReluImplicit.init(jax.random.key(m), data.X.shape[1], m, gamma0))
    return pose(net, data.X, data.y, data.X_test, data.y_test)


def run(posed: FlowProblem, integrator: AbstractIntegrator, until: float) -> Run:
    """Compile on a step or two, then integrate."""
    integrator = eqx.tree_at(lambda i: jax.tree.leaves(i), integrator, replace_fn=jnp.asarray)
    time_of = jnp.asarray(until)
    jax.block_until_ready(segment(posed, integrator, start(posed, integrator), 0 * time_of))
    began = time.perf_counter()
    state, rec = jax.block_until_ready(segment(posed, integrator, start(posed, integrator), time_of))
    took = time.perf_counter() - began
    if rec.status > ink.Status.STALLED:
        raise SystemExit(f"{integrator} failed: {ink.Status(int(rec.status)).name}")
    last, n, q = state.integrator, posed.y.size, posed.y_test.size
    rejected = int(getattr(getattr(last, "books", None), "rejected", 0))
    a_step, a_try = products_outside_solves(posed, integrator)
    spent = float(last.forward_evaluations + last.adjoint_evaluations)
    if isinstance(integrator, ink.Exponential):  # it watches that many rows besides, solved for roughly
        spent *= 1 + min(q, PROBES) / n
    spent += a_step * int(last.steps) + a_try * (int(last.steps) + rejected)
    return Run(np.asarray(rec.u), np.asarray(rec.f), float(rec.loss), int(last.steps), rejected, spent, took)


def equal_error(
    posed: FlowProblem, until: float, reference: float, rtols: list[float], shares: list[float]
) -> None:
    """Euler by steps beside the exponential integrator by tolerances, and the ratio at equal error."""
    largest = float(posed.eigenvalues[-1])
    scale = float(jnp.sqrt(jnp.mean(posed.initial_residual**2)))
    horizon = until / largest
    tight = run(posed, ink.Exponential(reference), horizon)
    print(f"  reference: {_row(tight)}", flush=True)
    eulers = [(share, run(posed, ink.Euler(share / largest), horizon)) for share in shares]
    for share, euler in eulers:
        print(f"  Euler, dt = {share:g}/lambda_max: {_row(euler)}; {_errors(euler, tight, scale)}")
    for rtol in rtols:
        ours = run(posed, ink.Exponential(rtol), horizon)
        error = ours.error(tight, scale)
        print(f"  Exponential({rtol:g}): {_row(ours)}; {_errors(ours, tight, scale)}")
        if not eulers:
            extrapolated(posed, ours, horizon)
            continue
        enough = [euler for _, euler in eulers if max(euler.error(tight, scale)) <= max(error)]
        if not enough:
            print("    no Euler step tried is as accurate; at the smallest:")
            enough = [eulers[-1][1]]
        best = min(enough, key=lambda euler: euler.products)
        print(
            f"    Euler at equal error over ours: {best.products / ours.products:.1f} in products, "
            f"{best.seconds / ours.seconds:.1f} in seconds"
        )


def extrapolated(posed: FlowProblem, ours: Run, horizon: float, steps: int = 40) -> None:
    """Beside Euler's cost to a time: that of its first steps, the largest stable ones, times their number."""
    dt = STABLE / float(posed.eigenvalues[-1])
    few = run(posed, ink.Euler(dt), steps * dt)
    share = horizon / dt / few.steps
    print(
        f"    Euler (extrapolated from {few.steps} steps): {share * few.steps:.3g} steps; over ours "
        f"{share * few.products / ours.products:.3g} in products, "
        f"{share * few.seconds / ours.seconds:.3g} in seconds"
    )


def to_the_end(posed: FlowProblem, rtol: float) -> None:
    """To a loss of 1e-8, beside Euler's count."""
    largest, integrator = float(posed.eigenvalues[-1]), ink.Exponential(rtol)
    horizon = first_time_below(posed, integrator, 1e-8)
    ours = run(posed, integrator, horizon)
    print(f"  to loss 1e-8, t = {horizon:.3g}, t lambda_max = {horizon * largest:.3g}: {_row(ours)}")
    extrapolated(posed, ours, horizon)


def first_time_below(posed: FlowProblem, integrator: AbstractIntegrator, loss: float) -> float:
    """To a tenth, by dense output: the decade first."""
    state, early, late = start(posed, integrator), 0.1 / float(posed.eigenvalues[-1]), np.inf
    latest = 1e12 * early
    while late > 1.1 * early:
        middle = 10 * early if np.isinf(late) else (early * late) ** 0.5
        ahead, rec = segment(posed, integrator, state, jnp.asarray(middle))
        if rec.loss <= loss:
            late = middle
        else:
            state, early = ahead, middle
        if early > latest:
            raise SystemExit(f"the loss did not fall to {loss:g}")
    return late


def _row(run: Run) -> str:
    tries = f" + {run.rejected} rejected" if run.rejected else ""
    return f"{run.steps} steps{tries}, {run.products:.0f} products, {run.seconds:.1f} s, loss {run.loss:.1e}"


def _errors(run: Run, reference: Run, scale: float) -> str:
    return "errors {:.1e} in u, {:.1e} in f".format(*run.error(reference, scale))


def main() -> None:
    """Print the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--widths", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--gamma0", type=float, default=0.4)
    parser.add_argument("--until", type=float, default=700.0, help="t lambda_max")
    parser.add_argument("--rtol", type=float, nargs="+", default=[1e-2, 1e-3])
    parser.add_argument("--reference", type=float, default=1e-4, help="rtol of the reference")
    parser.add_argument("--euler", type=float, nargs="*", default=[*EULER], help="dt lambda_max")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"flow on {device()}")
    for m in options.widths:
        posed = problem(options.n, m, options.gamma0)
        smallest, largest = float(posed.eigenvalues[0]), float(posed.eigenvalues[-1])
        print(f"n = {options.n}, m = {m}: lambda_max / lambda_min = {largest / smallest:.3g}", flush=True)
        equal_error(posed, options.until, options.reference, options.rtol, options.euler)
        to_the_end(posed, max(options.rtol))


if __name__ == "__main__":
    main()
