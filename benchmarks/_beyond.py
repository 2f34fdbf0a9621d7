"""The cells that Picard does not serve: beyond the edge, monotone with large weights, convolutional."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from _timing import describe, interleaved
from kernel_vs_gemm import problem as network_and_inputs

import implicit_ntk as ink
from implicit_ntk.data import two_class

BEYOND = 1.3
SEEDS = 5


def report(solver: object) -> ink.Method:
    """The method of a solver whose failures are looked at, not raised."""
    return ink.Method.of(solver, on_failure="report")


def report_beyond_the_edge(n: int, m: int) -> None:
    """At `gamma0 = 1.3`, per sample: which solvers find an equilibrium. Finding one claims no uniqueness."""
    solvers = {
        "Picard": ink.Picard(max_steps=2000),
        "Chord": ink.Chord(max_steps=2000),
        "Newton": ink.Newton(linear_solver=ink.LU()),
    }
    found = {name: np.zeros(0, bool) for name in solvers}
    steps = {name: np.zeros(0, int) for name in solvers}
    for seed in range(SEEDS):
        _, X = network_and_inputs(n, m)
        net = ink.ReluImplicit.init(jax.random.key(seed), X.shape[1], m, gamma0=BEYOND)
        for name, solver in solvers.items():
            eq = ink.solve(net, X, report(solver))
            found[name] = np.append(found[name], np.asarray(eq.succeeded))
            steps[name] = np.append(steps[name], np.asarray(eq.steps))
    print(f"gamma0 = {BEYOND:g}, m = {m}: {SEEDS} seeds, {n} samples each")
    for name in solvers:
        ended = steps[name][found[name]]
        median = int(np.median(ended)) if ended.size else 0
        print(f"  {name:10s} {found[name].sum()} of {found[name].size} samples solved; median steps {median}")
    newton, picard = found["Newton"], found["Picard"]
    print(
        f"  Newton found one where Picard did not: {(newton & ~picard).sum()}; Picard where Newton did not: "
        f"{(picard & ~newton).sum()}; neither: {(~picard & ~newton).sum()}"
    )


def compare_monotone(n: int, m: int, repeats: int) -> None:
    """N22's cell at two sizes of its weights: steps, and time of the kernel's two solves."""
    _, X = network_and_inputs(n, m)
    for scale in (3**-0.5, 0.4 * 3**-0.5):
        net = ink.MonotoneImplicit.init(jax.random.key(0), X.shape[1], m, scale=scale)
        norm, L = float(net.contraction()), float(net.lipschitz())
        print(f"MonotoneImplicit, n = {n}, m = {m}: ||W|| = {norm:.2f}, ||I - W|| = {L:.2f}, mu = 1")
        best = 1 / L**2
        solvers = {
            "PeacemanRachford, alpha = 1/sqrt(L)": ink.PeacemanRachford(alpha=L**-0.5),
            "PeacemanRachford, alpha = 1/2": ink.PeacemanRachford(alpha=0.5),
            "PeacemanRachford, low precision": ink.PeacemanRachford(alpha=L**-0.5, low_precision=True),
            f"ForwardBackward, alpha = mu/L^2 = {best:.2f}": ink.ForwardBackward(best),
            "Anderson": ink.Anderson(),
            "Chord": ink.Chord(),
            "Picard": ink.Picard(max_steps=300),
        }
        compare(solvers, lambda method, net=net: solve_both(net, X, method), repeats)


def compare_convolution(repeats: int) -> None:
    """N22's convolutional cell on 28 x 28 digits."""
    images = two_class("mnist", (0, 1), n_train=16, n_test=1).X
    for scale in (0.01, 1.0):
        net = ink.ConvImplicit.init(
            jax.random.key(0), (28, 28, 1), channels=16, inner_channels=32, stride=2, weight_scale=scale
        )
        print(f"ConvImplicit, 16 digits, standard deviation of the kernels {scale:g}")
        solvers = {"Anderson": ink.Anderson(), "Broyden": ink.Broyden(), "Picard": ink.Picard(max_steps=300)}
        compare(solvers, lambda method, net=net: forward(net, images, method), repeats)


def compare(solvers: dict[str, object], run: Callable[[ink.Method], tuple], repeats: int) -> None:
    """Steps, status and time of each, relative to the first."""
    methods = {name: report(solver) for name, solver in solvers.items()}
    steps = {name: run(method) for name, method in methods.items()}
    runs = [lambda method=method: run(method) for method in methods.values()]
    times = interleaved(runs, max(3, repeats // 3))
    for i, name in enumerate(methods):
        *counts, status = (int(jnp.max(x)) for x in steps[name])
        verdict = "" if status <= ink.Status.STALLED else f"; FAILED, {ink.Status(status).name}"
        print(
            f"  {name:42s} {' + '.join(map(str, counts))} steps; time over that of the first "
            f"{describe(times[:, i] / times[:, 0])}{verdict}"
        )


def solve_both(net: ink.AbstractNetwork, X: jax.Array, method: ink.Method) -> tuple:
    """Steps of both solves of the Jacobian, and their worst status."""
    at = ink.jacobian(net, X, method).linearization
    return at.equilibrium.steps, at.adjoint.steps, jnp.maximum(at.equilibrium.status, at.adjoint.status)


def forward(net: ink.AbstractNetwork, X: jax.Array, method: ink.Method) -> tuple:
    """Steps and status of the forward solve."""
    eq = ink.solve(net, X, method)
    return eq.steps, eq.status
