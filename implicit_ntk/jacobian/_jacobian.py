"""The door to `J`: solve, choose an implementation, check."""

import math

import equinox as eqx
import jax
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray, check_batch, check_choice
from implicit_ntk._memory import require_memory
from implicit_ntk.equilibrium import ADJOINT, FORWARD, Equilibrium, Method, Policy, checked
from implicit_ntk.jacobian._autodiff import AutodiffJacobian
from implicit_ntk.jacobian._dense import DenseJacobian
from implicit_ntk.jacobian._linearization import Linearization, implicit_adjoint, linearize
from implicit_ntk.jacobian._operator import AbstractJacobian
from implicit_ntk.jacobian._outer import OuterProductJacobian
from implicit_ntk.networks import AbstractNetwork, check_network, trained_leaves

KINDS = {"outer": OuterProductJacobian, "autodiff": AutodiffJacobian}
DENSE = "dense"


def jacobian(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    method: Method | None = None,
    kind: str = "auto",
) -> AbstractJacobian:
    """The Jacobian `J = du/dtheta` of the outputs on a batch, as an operator.

    One forward solve and one adjoint solve an output; every product after them is free of solves.

    **Arguments:** `X` (n, d); `method`, None for the network's default; `kind`: `"outer"` (gradient
    factors), `"autodiff"` (any network), `"dense"` (a matrix, for tests), `"auto"` for the first
    where the network has factors and the second where not.

    **Returns:** an operator with `mv`, `rmv`, `gram`, `blocks`.

    **Raises:** as `solve`; `MemoryError` for a dense Jacobian past the limit; `ValueError` for an
    unknown kind, or one that the network has not.
    """
    X, method, kind = check_request(net, X, method, kind)

    def run(policy: Policy) -> AbstractJacobian:
        return _jacobian(net, X, method, policy, kind)

    return checked(run, solves_of, method.on_failure, (net, X))


def check_request(
    net: AbstractNetwork, X: AnyArray, method: Method | None, kind: str = "auto", name: str = "X"
) -> tuple[Array, Method, str]:
    """What `jacobian` and the kernels ask of their arguments; the choice that `auto` stands for."""
    check_network(net)
    method = net.resolve(method)
    implicit_adjoint(method)
    check_choice(kind, ("auto", *KINDS, DENSE), "kind")
    if kind == "outer" and default_kind(net) != "outer":
        raise ValueError("kind='outer' needs gradient factors, which this network has not; use 'autodiff'")
    if not net.trained:
        raise ValueError("net trains nothing; name its trained leaves, e.g. trained=('A',)")
    X = check_batch(X, net.in_size, jax.tree.leaves(net), name)
    if kind == DENSE:
        size = X.shape[0] * math.prod(net.out_shape) * sum(leaf.size for leaf in trained_leaves(net).values())
        what = f"a dense Jacobian of {X.shape[0]} rows"
        require_memory(3 * size * X.dtype.itemsize, what, "use kind='auto'")
    return X, method, default_kind(net) if kind == "auto" else kind


def solves_of(J: AbstractJacobian) -> dict[str, Equilibrium]:
    """The solves whose statuses decide whether `J` may be handed out."""
    return {FORWARD: J.linearization.equilibrium, ADJOINT: J.linearization.adjoint}


def build(net: AbstractNetwork, X: Array, method: Method, policy: Policy, kind: str) -> AbstractJacobian:
    """`jacobian` without its door: traceable, in the precision context of the caller."""
    at = linearize(net, X, method, policy)
    return DenseJacobian(at, policy) if kind == DENSE else KINDS[kind](at)


def default_kind(net: AbstractNetwork) -> str:
    """What `kind="auto"` stands for: gradient factors where the network has them, else autodiff."""
    return "autodiff" if net.factored is None else "outer"


def from_linearization(at: Linearization) -> AbstractJacobian:
    """The Jacobian of `kind="auto"` at states that were solved for elsewhere. Traceable."""
    return KINDS[default_kind(at.net)](at)


@eqx.filter_jit
def _jacobian(net: AbstractNetwork, X: Array, method: Method, policy: Policy, kind: str) -> AbstractJacobian:
    with method.products():
        return build(net, X, method, policy, kind)
