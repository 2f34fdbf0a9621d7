"""The empirical neural tangent kernel of a network."""

import math
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from implicit_ntk._checks import AnyArray
from implicit_ntk.equilibrium import Equilibrium, Method, Policy, checked
from implicit_ntk.jacobian import AbstractJacobian, build, check_request, require_gram, solves_of
from implicit_ntk.networks import AbstractNetwork

Kernel = Float[Array, "..."]
Blocks = dict[str, Kernel]
Reduction = Callable[[AbstractJacobian, AbstractJacobian], PyTree[Array]]


def ntk(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
) -> Kernel:
    """The empirical kernel `H = J J^T`, or the cross kernel `k(X1, X2) = J_1 J_2^T`.

    For GG22 `H = gamma^2 (Lam Lam^T) o (Z Z^T)` (GG22, eq. (7)-(9)). Costs one forward and one
    adjoint solve a batch and 4 n1 n2 m flops; memory of a few (n, m) arrays. With k outputs there are k
    adjoint solves, and k^2 entries a pair of samples: `ntk_trace` and `ntk_diagonal` do with k.

    **Arguments:** `X1` (n1, d); `X2` (n2, d), None for `X1`; `method`, None for the network's default;
    `kind` of Jacobian, see `jacobian`.

    **Returns:** (n1, n2), or (n1, k, n2, k) with k outputs: `H[i, c, j, e]` is the inner product of the
    gradients of `u_ic` and of `u_je`.

    **Raises:** as `jacobian`; `MemoryError` where the result is past the limit.
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

    def matrices() -> int:
        return len(net.trained) * math.prod(net.out_shape) ** 2

    return _kernel(net, X1, X2, method, kind, matrices, _all_blocks)


def ntk_trace(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
) -> Float[Array, "n1 n2"]:
    """The kernel traced over the outputs, `sum_c H[i, c, j, c]`, shape (n1, n2).

    What wide networks with an independent read-out an output approach is `H = (trace/k) x I_k`. Costs k
    Grams where `ntk` costs k^2 of them. With a scalar output it is `ntk`, whose arguments these are.
    """
    return _kernel(net, X1, X2, method, kind, lambda: 1, _trace)


def ntk_diagonal(
    net: AbstractNetwork,
    X1: Float[AnyArray, "n1 d"],
    X2: Float[AnyArray, "n2 d"] | None = None,
    method: Method | None = None,
    kind: str = "auto",
) -> Float[Array, "k n1 n2"]:
    """The kernel of each output by itself, `H[:, c, :, c]`, shape (k, n1, n2).

    Costs k Grams where `ntk` costs k^2 of them. With a scalar output it is `ntk(...)[None]`, whose
    arguments these are.
    """
    return _kernel(net, X1, X2, method, kind, lambda: math.prod(net.out_shape), _diagonal)


def _all_blocks(J1: AbstractJacobian, J2: AbstractJacobian) -> Blocks:
    return J1.kernel_blocks(J2)


def _trace(J1: AbstractJacobian, J2: AbstractJacobian) -> Float[Array, "n1 n2"]:
    return J1.kernel_trace(J2)


def _diagonal(J1: AbstractJacobian, J2: AbstractJacobian) -> Float[Array, "k n1 n2"]:
    return J1.kernel_diagonal(J2)


def _kernel(
    net: AbstractNetwork,
    X1: AnyArray,
    X2: AnyArray | None,
    method: Method | None,
    kind: str,
    matrices: Callable[[], int],
    reduction: Reduction,
) -> Any:
    """What a reduction makes of the Jacobians of both batches, of the size of so many (n1, n2) arrays.

    Their number is a function, for it is asked of a network that is checked.
    """
    X1, method, chosen = check_request(net, X1, method, kind, "X1")
    if X2 is not None:
        X2, _, _ = check_request(net, X2, method, kind, "X2")
    require_gram(matrices(), X1.shape[0], (X1 if X2 is None else X2).shape[0], X1.dtype)

    def run(policy: Policy) -> tuple[PyTree[Array], list[dict[str, Equilibrium]]]:
        return _reduced(net, X1, X2, method, policy, chosen, reduction)

    def solves(result: tuple[PyTree[Array], list[dict[str, Equilibrium]]]) -> dict[str, Equilibrium]:
        return {
            f"{what} of {name}": eq
            for name, s in zip(("X1", "X2"), result[1], strict=False)
            for what, eq in s.items()
        }

    return checked(run, solves, method.on_failure, (net, X1, X2))[0]


@eqx.filter_jit
def _reduced(
    net: AbstractNetwork,
    X1: Array,
    X2: Array | None,
    method: Method,
    policy: Policy,
    kind: str,
    reduction: Reduction,
) -> tuple[PyTree[Array], list[dict[str, Equilibrium]]]:
    with method.products():
        J1 = build(net, X1, method, policy, kind)
        J2 = J1 if X2 is None else build(net, X2, method, policy, kind)
        solves = [solves_of(J) for J in ((J1,) if X2 is None else (J1, J2))]
        return reduction(J1, J2), solves
