"""What does gradient flow of many images take, when the kernel is never formed?

MNIST, odd digits against even ones, GG22's network, the implicit layer trained to t lambda_max = 700 by
`KrylovExponential` in float32: steps, evaluations of the cell on the whole batch, time, and the peak memory
over that of the kernel alone. After it the same on few images, where `Exponential` gives a reference at a
tighter tolerance: the errors of both against that, relative to `u(0) - y`.

    IMPLICIT_NTK_DATA=... python benchmarks/flow_large.py [--n 10000] [--m 500] [--check 1000] [--rtol 1e-2]
"""

import argparse
import resource
import time

import jax
import numpy as np
from _timing import device
from jaxtyping import Float

import implicit_ntk as ink
from implicit_ntk.data import load, to_inputs
from implicit_ntk.dynamics import AbstractIntegrator

UNSEEN = 200


def samples(split: str, n: int) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Rows of unit length with the parity of their digit."""
    images = load("mnist", split)
    if len(images.labels) < n:
        raise SystemExit(f"{n} images are asked for, {len(images.labels)} are here: set IMPLICIT_NTK_DATA")
    rows = to_inputs(images.images[:n]).astype(np.float32)
    return rows, np.where(images.labels[:n] % 2, 1, -1).astype(np.float32)


def run(n: int, m: int, until: float, integrator: AbstractIntegrator) -> tuple[ink.Trajectory, float]:
    """The run, recorded where it begins and ends, and its time, compilation included."""
    (X, y), (X_test, y_test) = samples("train", n), samples("test", UNSEEN)
    net = ink.ReluImplicit.init(jax.random.key(0), X.shape[1], m, 0.4)
    end = until / float(ink.kernel_operator(net, X).largest(1).values[0])
    began = time.perf_counter()
    traj = ink.gradient_flow(net, X, y, [0.0, end], integrator, X_test, y_test)
    jax.block_until_ready(traj.u)
    return traj, time.perf_counter() - began


def report(name: str, traj: ink.Trajectory, seconds: float) -> None:
    """Steps, evaluations, time, loss."""
    counts = f"{int(traj.forward_evaluations)} forward and {int(traj.adjoint_evaluations)} adjoint"
    losses = " to ".join(f"{loss / traj.u.shape[1]:.2e}" for loss in traj.loss)
    print(f"  {name}: {int(traj.steps)} steps, {counts} evaluations, {seconds:.0f} s; loss / n {losses}")


def errors(traj: ink.Trajectory, reference: ink.Trajectory, y: Float[np.ndarray, " n"]) -> str:
    """At the end, root mean squares relative to that of `u(0) - y`."""
    scale = np.sqrt(np.mean((np.asarray(traj.u[0]) - y) ** 2))
    pairs = ((traj.u, reference.u), (traj.f, reference.f))
    u, f = (float(np.sqrt(np.mean((np.asarray(a[-1]) - b[-1]) ** 2)) / scale) for a, b in pairs)
    return f"errors {u:.1e} in u, {f:.1e} in f"


def check(n: int, m: int, until: float, rtol: float) -> None:
    """Both integrators at one tolerance against the dense one at a tenth of it."""
    reference, seconds = run(n, m, until, ink.Exponential(rtol / 10))
    print(f"n = {n}, m = {m}, t lambda_max = {until:g}")
    report(f"reference, Exponential({rtol / 10:g})", reference, seconds)
    for integrator in (ink.Exponential(rtol), ink.KrylovExponential(rtol)):
        traj, seconds = run(n, m, until, integrator)
        report(f"{type(integrator).__name__}({rtol:g})", traj, seconds)
        print(f"    {errors(traj, reference, samples('train', n)[1])}")


def main() -> None:
    """Print the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--m", type=int, default=500)
    parser.add_argument("--check", type=int, default=1000)
    parser.add_argument("--until", type=float, default=700.0, help="t lambda_max")
    parser.add_argument("--rtol", type=float, default=1e-2)
    options = parser.parse_args()
    print(f"flow_large on {device()}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    traj, seconds = run(options.n, options.m, options.until, ink.KrylovExponential(options.rtol))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"n = {options.n}, m = {options.m}, t lambda_max = {options.until:g}")
    report(f"KrylovExponential({options.rtol:g})", traj, seconds)
    kernel = 4 * options.n**2 / 2**10
    print(f"    peak memory {peak / 2**20:.1f} GiB, {peak / kernel:.2f} of the kernel's alone")
    check(options.check, options.m, options.until, options.rtol)


if __name__ == "__main__":
    main()
