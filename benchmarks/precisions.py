"""How far can float32 follow gradient flow, and does it say where it can no longer?

MNIST 0/1, GG22's network, the implicit layer trained by `Exponential` in float32 and in float64 from the same
weights: the losses, how far the outputs are apart, and what float32 says of itself: its own estimate
`integrator_error`, relative to `u(0) - y`, the status, and the end of training where it is refused.

    python benchmarks/precisions.py [--n 100 500] [--m 500] [--rtol 1e-3]
"""

import argparse

import jax
import numpy as np
from _timing import device
from jaxtyping import Float

import implicit_ntk as ink
from implicit_ntk.data import two_class

UNITS = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
"""Times, over `1/lambda_max`."""


def run(n: int, m: int, rtol: float, dtype: str, times: Float[np.ndarray, " T"]) -> ink.Trajectory:
    """Weights are drawn in float32, whatever they are used in."""
    data = two_class("mnist", (0, 1), n_train=n, n_test=100, dtype=np.dtype(dtype))
    drawn = ink.ReluImplicit.init(jax.random.key(0), data.X.shape[1], m, dtype="float32")
    net = jax.tree.map(lambda leaf: leaf.astype(dtype), drawn)
    method = ink.Method(on_failure="report")
    return ink.gradient_flow(
        ink.Centred(net), data.X, data.y, times, ink.Exponential(rtol), data.X_test, method=method
    )


def side_by_side(n: int, m: int, rtol: float) -> None:
    """A row a time."""
    data = two_class("mnist", (0, 1), n_train=n, n_test=1, dtype=np.float32)
    net = ink.ReluImplicit.init(jax.random.key(0), data.X.shape[1], m, dtype="float32")
    found = ink.spectrum(ink.ntk(net, data.X))
    largest, smallest = (float(found.eigenvalues[i]) for i in (-1, 0))
    resolved = "resolved" if found.resolved else "not resolved"
    print(f"n = {n}, m = {m}: float32 has lambda_max / lambda_min = {largest / smallest:.1e}, {resolved}")
    times = np.append(0.0, np.array(UNITS) / largest)
    single, double = (run(n, m, rtol, dtype, times) for dtype in ("float32", "float64"))
    print("| t lambda_max | loss, float32 | float64 | apart in u | in f | integrator_error, float32 |")
    print("|---|---|---|---|---|---|")
    size = np.linalg.norm(single.u[0] - data.y)
    for i, unit in enumerate(UNITS, 1):
        u, f = (_rms(a[i], b[i]) * n**0.5 / size for a, b in ((single.u, double.u), (single.f, double.f)))
        claimed = float(single.metrics["integrator_error"][i]) / size
        losses = f"{float(single.loss[i]):.1e} | {float(double.loss[i]):.1e}"
        print(f"| {unit:.0e} | {losses} | {u:.1e} | {f:.1e} | {claimed:.1e} |")
    for traj in (single, double):
        print(
            f"{traj.u.dtype}: {ink.Status(int(traj.status)).name}, {int(traj.steps)} steps; to t = inf: ",
            end="",
        )
        print(the_end(n, m, rtol, str(traj.u.dtype)))


def the_end(n: int, m: int, rtol: float, dtype: str) -> str:
    """The loss there, or why there is none."""
    try:
        traj = run(n, m, rtol, dtype, np.array([np.inf]))
    except ValueError as error:
        return f"refused ({error})"
    return f"{ink.Status(int(traj.status)).name}, loss {float(traj.loss[-1]):.1e}"


def _rms(a: jax.Array, b: jax.Array) -> float:
    return float(np.sqrt(np.mean((np.asarray(a, np.float64) - np.asarray(b)) ** 2)))


def main() -> None:
    """Print the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[100, 500])
    parser.add_argument("--m", type=int, default=500)
    parser.add_argument("--rtol", type=float, default=1e-3)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"precisions on {device()}")
    for n in options.n:
        side_by_side(n, options.m, options.rtol)


if __name__ == "__main__":
    main()
