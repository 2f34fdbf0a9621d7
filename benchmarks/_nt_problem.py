"""GG22's network as plain arrays, and its kernel in closed form in float64: NumPy alone.

Z = relu(gamma Z A + Phi),    G = D o (b/sqrt(m) + gamma G A^T),    H = gamma^2 (G G^T) o (Z Z^T)
"""

import dataclasses
from bisect import bisect_left
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float

IN_SIZE = 64
GAMMA0 = 0.4
TOLERANCE = 1e-6
KINK = 3e-6
"""Float32 does not tell on which side of the kink a unit closer to it than this is."""

Arrays = dict[str, np.ndarray]
Matrix = Float[np.ndarray, "n k"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """The network and unit inputs in float32, and what is exact about them."""

    n: int
    m: int

    @cached_property
    def arrays(self) -> Arrays:
        """Drawn from a fixed seed."""
        rng = np.random.default_rng(0)
        X = rng.standard_normal((self.n, IN_SIZE))
        drawn = {
            "A": rng.standard_normal((self.m, self.m)),
            "W": rng.standard_normal((IN_SIZE, self.m)),
            "b": rng.choice([-1.0, 1.0], self.m),
            "X": X / np.linalg.norm(X, axis=1, keepdims=True),
            "gamma": np.asarray(GAMMA0 / self.m**0.5),
        }
        return {name: leaf.astype(np.float32) for name, leaf in drawn.items()}

    @cached_property
    def exact(self) -> "Exact":
        """In float64."""
        return Exact({name: leaf.astype(float) for name, leaf in self.arrays.items()})


@dataclasses.dataclass(frozen=True)
class Exact:
    """Equilibria, kernel, and what a truncated loop makes of it, in the dtype of the arrays."""

    arrays: Arrays

    @cached_property
    def offset(self) -> Matrix:
        """`Phi = relu(X W)`, and the first iterate."""
        return np.maximum(self.arrays["X"] @ self.arrays["W"], 0)

    @cached_property
    def iterates(self) -> list[Matrix]:
        """Picard's, to the end."""
        Z = [self.offset]
        while len(Z) < 2 or np.linalg.norm(Z[-1] - Z[-2]) > 1e-14 * np.linalg.norm(Z[-1]):
            Z.append(np.maximum(self.before(Z[-1]), 0))
        return Z

    def before(self, Z: Matrix) -> Matrix:
        """What the activation is applied to."""
        return self.arrays["gamma"] * (Z @ self.arrays["A"]) + self.offset

    @cached_property
    def steps(self) -> int:
        """How many applications Picard needs until a step is the tolerance of the iterate."""
        pairs = enumerate(pairwise(self.iterates), start=1)
        return next(
            i for i, (old, new) in pairs if np.linalg.norm(new - old) <= TOLERANCE * np.linalg.norm(new)
        )

    @cached_property
    def clear(self) -> np.ndarray:
        """The samples none of whose units is at the kink."""
        return np.flatnonzero(np.abs(self.before(self.iterates[-1])).min(axis=1) > KINK)

    @cached_property
    def kernel(self) -> Matrix:
        """The closed form."""
        arrays, Z, G = self.arrays, self.iterates[-1], np.zeros_like(self.offset)
        slopes, readout = Z > 0, arrays["b"] / arrays["b"].size ** 0.5
        for _ in self.iterates:
            G = slopes * (readout + arrays["gamma"] * (G @ arrays["A"].T))
        return arrays["gamma"] ** 2 * (G @ G.T) * (Z @ Z.T)

    def error(self, H: Matrix) -> float:
        """The largest error of an entry over the largest entry, samples at a kink left out."""
        rows = np.ix_(self.clear, self.clear)
        return float(np.abs(H[rows] - self.kernel[rows]).max() / np.abs(self.kernel[rows]).max())

    def truncated(self, steps: int) -> Matrix:
        """The kernel of so many applications, differentiated exactly."""
        gamma, A, b = (self.arrays[name] for name in ("gamma", "A", "b"))
        p = np.tile(b / b.size**0.5, (len(self.offset), 1))
        H = np.zeros((len(p), len(p)))
        gradients = []
        for Z, image in zip(self.iterates[:steps][::-1], self.iterates[1 : steps + 1][::-1], strict=True):
            gradients.append((p * (image > 0), Z))
            p = gamma * (gradients[-1][0] @ A.T)
        for G1, Z1 in gradients:
            for G2, Z2 in gradients:
                H = H + gamma**2 * (G1 @ G2.T) * (Z1 @ Z2.T)
        return H

    def shortest(self, error: float) -> int:
        """The least length of a loop that gives this error in exact arithmetic."""
        lengths = range(len(self.iterates))
        return bisect_left(lengths, True, key=lambda steps: self.error(self.truncated(steps)) < error)
