"""What a run leaves behind."""

import equinox as eqx
from jaxtyping import Array, Float, Int, Shaped

from implicit_ntk._checks import AnyArray
from implicit_ntk.equilibrium import Method
from implicit_ntk.networks import AbstractNetwork


class Trajectory(eqx.Module):
    """A training run, recorded at the requested times.

    - `times` (T,); `u` (T, n) or (T, n, k), the outputs on the training data; `f` (T, q) or (T, q, k), on
      unseen data, or None.
    - `loss` (T,): `||u - y||^2 / 2`, summed over all outputs.
    - `metrics`: a dictionary of (T,) arrays; see `gradient_flow`.
    - `net`: the network at the last requested time, or the one whose solve failed.
    - `steps`, `forward_evaluations`, `adjoint_evaluations`: integrator steps, and applications of the
      cell and of its transpose to the whole batch, that the steps took (records not counted).
    - `status`: a `Status`, that of the worst solve of the run; after a failure the run stands still and
      its later records are NaN.
    """

    times: Float[Array, " T"]
    u: Float[Array, "T n *out"]
    f: Float[Array, "T q *out"] | None
    loss: Float[Array, " T"]
    metrics: dict[str, Shaped[Array, " T"]]
    net: AbstractNetwork
    steps: Int[Array, ""]
    forward_evaluations: Int[Array, ""]
    adjoint_evaluations: Int[Array, ""]
    status: Int[Array, ""]


def predict(
    traj: Trajectory, X: Float[AnyArray, "n d"], method: Method | None = None
) -> Float[Array, "n *out"]:
    """The outputs, (n,) or (n, k), on `X` of the network at the end of a run; raises as the network does."""
    return traj.net(X, method)
