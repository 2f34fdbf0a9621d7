"""Which solver, for which cell, and how does it stand beside other libraries?

One forward and backward pass of `0.5 ||f(X) - y||^2` with respect to `A`, interleaved in one run: every
method of ours, and jaxopt and optimistix where they are installed (`make bench-peers`), each of them at
the loosest tolerances that reach our true residual and our gradient error.

    python benchmarks/solvers.py [--only peers edge monotone convolution table] [--n 500] [--m 1000]
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial

import _peers
import jax
import jax.numpy as jnp
import numpy as np
from _beyond import compare_convolution, compare_monotone, report_beyond_the_edge
from _table import print_table
from _timing import describe, device, interleaved
from kernel_vs_gemm import problem as network_and_inputs

import implicit_ntk as ink
from implicit_ntk.equilibrium import Iterated

SCALES = (0.4, 0.9, 1.2)
LOOSER = (30.0, 10.0, 5.0, 3.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1)
"""Tolerances that are tried for a peer, in units of our own."""

OURS = {
    "Picard": ink.Picard(),
    "MixedPicard": ink.MixedPicard(),
    "Chord": ink.Chord(),
    "Chord, low precision": ink.Chord(low_precision=True),
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """GG22's network at one scale, with data: unit inputs, random signs as targets."""

    net: ink.ReluImplicit
    X: jax.Array
    y: jax.Array
    phi: jax.Array

    @classmethod
    def at(cls, gamma0: float, n: int, m: int) -> "Problem":
        """Drawn from fixed keys."""
        net, X = network_and_inputs(n, m)
        net = dataclasses.replace(net, gamma=jnp.asarray(gamma0 / m**0.5, X.dtype))
        return cls(net, X, jnp.sign(jax.random.normal(jax.random.key(2), (n,))), net.inject(X))

    def residual(self, Z: jax.Array) -> float:
        """`||f(Z) - Z|| / ||f(Z)||` of the batch, in float64."""
        Z, A, phi = (np.asarray(leaf, float) for leaf in (Z, self.net.A, self.phi))
        image = np.maximum(float(self.net.gamma) * Z @ A + phi, 0)
        return float(np.linalg.norm(image - Z) / np.linalg.norm(image))

    def gradient_error(self, Z: jax.Array, gradient: jax.Array) -> float:
        """Relative to the gradient at these very states, in float64: what the adjoint solve is to blame for.

        A unit that switches within the tolerance of the states moves the gradient by much more.
        """
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (self.net, self.phi, self.y, Z))
            exact = np.asarray(exact_gradient(*exact))
        return float(np.linalg.norm(np.asarray(gradient, float) - exact) / np.linalg.norm(exact))


@jax.jit
def exact_gradient(net: ink.ReluImplicit, phi: jax.Array, y: jax.Array, Z: jax.Array) -> jax.Array:
    """`gamma Z^T (D o P)` with the adjoint states `P` solved for to the end."""
    with jax.default_matmul_precision("highest"):
        at, read = net.affine(phi).linearized(Z).transpose(), net.b / jnp.sqrt(net.width)
        rhs = (Z @ read - y)[:, None] * read[None, :]
        P = Iterated(solver=ink.Chord()).solve(
            lambda P: net.gamma * (at.slopes * P) @ net.A.T, rhs, 1, None, at
        )
        return net.gamma * Z.T @ (at.slopes * P.z)


def ours(method: ink.Method) -> Callable:
    """(loss, gradient) through the public interface."""

    @jax.jit
    def loss_and_gradient(net: ink.ReluImplicit, X: jax.Array, y: jax.Array) -> tuple:
        def loss(A: jax.Array) -> jax.Array:
            return jnp.sum((dataclasses.replace(net, A=A)(X, method) - y) ** 2) / 2

        return jax.value_and_grad(loss)(net.A)

    return loss_and_gradient


@dataclasses.dataclass(frozen=True)
class Entry:
    """A way to do it: what it runs, how long its forward solve was, how well it did."""

    name: str
    run: Callable[[], object]
    residual: float
    gradient_error: float
    steps: str


def our_entry(name: str, solver: object, at: Problem) -> Entry:
    """One of our methods, at its default tolerance."""
    method = ink.Method.of(solver)
    run = ours(method)
    eq = ink.solve(at.net, at.X, method)
    J = ink.jacobian(at.net, at.X, method).linearization
    steps = f"{int(eq.steps.max())} + {int(J.adjoint.steps.max())}"
    error = at.gradient_error(eq.z, run(at.net, at.X, at.y)[1])
    return Entry(name, lambda: run(at.net, at.X, at.y), at.residual(eq.z), error, steps)


def peer_entry(name: str, make: Callable, whole_batch: bool, at: Problem, best: Entry) -> Entry | None:
    """A peer at the loosest tolerances that do as well as we do; None where none does."""
    arrays = (at.net.A, at.net.gamma, at.phi, at.net.b, at.y)
    unit = best.residual * (float(jnp.linalg.norm(at.phi)) if whole_batch else 1.0)
    for forward in LOOSER:
        for adjoint in LOOSER:
            run = _peers.loss_and_gradient(make(forward * unit, adjoint * 1e-6))
            try:
                (_, Z), gradient = run(*arrays)
            except Exception as failure:  # whatever a peer raises is its answer
                print(f"    {name}: {str(failure).splitlines()[0][:90]}")
                return None
            residual = at.residual(Z)
            if not residual <= 1.1 * best.residual:
                break
            error = at.gradient_error(Z, gradient)
            if error <= 1.2 * best.gradient_error:
                return Entry(name, partial(run, *arrays), residual, error, "")
    return None


def compare_with_peers(gamma0: float, n: int, m: int, repeats: int, beside: str) -> None:
    """All entries in turn; ratios are to the fastest of the peers, or to our Picard without them."""
    at = Problem.at(gamma0, n, m)
    entries = [our_entry(name, solver, at) for name, solver in OURS.items()]
    # Each of ours is as good as the tolerance asks; the least good is what a peer has to reach.
    reference = Entry(
        "",
        entries[0].run,
        max(entry.residual for entry in entries),
        max(entry.gradient_error for entry in entries),
        "",
    )
    peers = {name: peer for name, peer in _peers.available().items() if beside in name}
    for name, (make, whole_batch) in peers.items():
        found = peer_entry(name, make, whole_batch, at, reference)
        if found is None:
            print(f"    {name}: does not reach residual {reference.residual:.0e} and our gradient error")
        entries += [found] if found else []
    times = interleaved([entry.run for entry in entries], repeats)
    against = fastest_peer(times, len(OURS))
    print(f"gamma0 = {gamma0:g}, n = {n}, m = {m}; speed relative to {entries[against].name}")
    for i, entry in enumerate(entries):
        speed = describe(times[:, against] / times[:, i])
        print(
            f"  {entry.name:40s} {speed}; best {times[:, i].min() * 1e3:.0f} ms; steps {entry.steps or '-'}; "
            f"residual {entry.residual:.1e}; gradient error {entry.gradient_error:.1e}"
        )


def fastest_peer(times: np.ndarray, first: int) -> int:
    """The peer of the least median time; our Picard where there is none."""
    return first + int(np.argmin(np.median(times[:, first:], axis=0))) if times.shape[1] > first else 0


def main() -> None:
    """Print the answers."""
    sections = ("peers", "edge", "monotone", "convolution", "table")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=sections, choices=sections)
    parser.add_argument("--scales", nargs="+", type=float, default=SCALES, help="gamma0 ...")
    parser.add_argument("--beside", default="", help="only the peers with this in their name")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--m", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    print(f"solvers on {device()}; beside {', '.join(_peers.available()) or 'nobody (make bench-peers)'}")
    if "peers" in options.only:
        for gamma0 in options.scales:
            compare_with_peers(gamma0, options.n, options.m, options.repeats, options.beside)
    if "edge" in options.only:
        report_beyond_the_edge(options.n // 10, options.m)
    if "monotone" in options.only:
        compare_monotone(options.n, options.m, options.repeats)
    if "convolution" in options.only:
        compare_convolution(options.repeats)
    if "table" in options.only:
        print_table(options.n, [options.m // 4, options.m], max(3, options.repeats // 3))


if __name__ == "__main__":
    main()
