"""The empirical neural tangent kernel of a network."""

import operator

import equinox as eqx
import jax
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray
from implicit_ntk._memory import require_memory
from implicit_ntk.equilibrium import Equilibrium, Method, Policy, checked
from implicit_ntk.jacobian import build, check_request, solves_of
from implicit_ntk.networks import AbstractNetwork

Blocks = dict[str, Float[Array, "n1 n2"]]


def ntk(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
) -> Float[Array, "n1 n2"]:
    """The empirical kernel `H = J J^T`, or the cross kernel `k(X1, X2) = J_1 J_2^T`.

    For GG22 `H = gamma^2 (Lam Lam^T) o (Z Z^T)` (GG22, eq. (7)-(9)). Costs one forward and one
    adjoint solve a batch and 4 n1 n2 m flops; memory of a few (n, m) arrays.

    **Arguments:** `X1` (n1, d); `X2` (n2, d), None for `X1`; `method`, None for the network's default;
    `kind` of Jacobian, see `jacobian`.

    **Raises:** as `jacobian`; `MemoryError` where the (n1, n2) result is past the limit.
    """
    return jax.tree.reduce(operator.add, ntk_blocks(net, X1, X2, method, kind))


def ntk_blocks(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
) -> Blocks:
    """The kernel of each trained leaf, `{"A": H_A, ...}`; they sum to `ntk`, whose arguments these are."""
    X1, method, chosen = check_request(net, X1, method, kind, "X1")
    if X2 is not None:
        X2, _, _ = check_request(net, X2, method, kind, "X2")
    size = X1.shape[0] * (X1 if X2 is None else X2).shape[0] * X1.dtype.itemsize
    require_memory(3 * len(net.trained) * size, "the kernel", "pass fewer samples")

    def run(policy: Policy) -> tuple[Blocks, list[dict[str, Equilibrium]]]:
        return _ntk_blocks(net, X1, X2, method, policy, chosen)

    def solves(result: tuple[Blocks, list[dict[str, Equilibrium]]]) -> dict[str, Equilibrium]:
        return {
            f"{what} of {name}": eq
            for name, s in zip(("X1", "X2"), result[1], strict=False)
            for what, eq in s.items()
        }

    return checked(run, solves, method.on_failure, (net, X1, X2))[0]


@eqx.filter_jit
def _ntk_blocks(
    net: AbstractNetwork, X1: Array, X2: Array | None, method: Method, policy: Policy, kind: str
) -> tuple[Blocks, list[dict[str, Equilibrium]]]:
    with method.products():
        J1 = build(net, X1, method, policy, kind)
        J2 = J1 if X2 is None else build(net, X2, method, policy, kind)
        solves = [solves_of(J) for J in ((J1,) if X2 is None else (J1, J2))]
        return J1.kernel_blocks(J2), solves
