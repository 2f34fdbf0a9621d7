"""How long the steps of gradient descent may be: the kernel's largest eigenvalue says it."""

import equinox as eqx
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray
from implicit_ntk.dynamics.descent._loss import AbstractLoss, SquareLoss, check_loss
from implicit_ntk.equilibrium import Method
from implicit_ntk.kernel import kernel_operator
from implicit_ntk.networks import AbstractNetwork


class StepBound(eqx.Module):
    """What `largest_step` found.

    - `suggested`: `1 / (c lambda_max)`, with which the linearised error shrinks in every mode without
      changing its sign, in the fastest the most; the kernel may grow to twice its size on the way.
    - `bound`: `2 / (c lambda_max)`, from which on the linearised descent diverges.
    - `lambda_max` of `H(0)`, and the curvature `c` of the loss.
    """

    suggested: Float[Array, ""]
    bound: Float[Array, ""]
    lambda_max: Float[Array, ""]
    curvature: float = eqx.field(static=True)


def largest_step(
    net: AbstractNetwork,
    X: Float[AnyArray, "n d"],
    loss: AbstractLoss = SquareLoss(),
    method: Method | None = None,
) -> StepBound:
    """The largest safe constant step of plain gradient descent, `optax.sgd(largest_step(net, X).suggested)`.

    For the network linearised where it is: the Hessian of the loss is then `J^T L'' J`, and with `L'' <= c`
    (1 for the square loss, 1/2 for `CrossEntropy()`, 1/4 for that of a scalar output) descent is stable below
    `2 / (c lambda_max(J J^T))`. For the cross-entropy that is safe and not sharp: its curvature falls while
    the classes part. The eigenvalue is found by Lanczos, without forming the kernel.

    **Raises:** as `kernel_operator`; `TypeError` for what is no loss.
    """
    check_loss(loss)
    lambda_max = kernel_operator(net, X, method=method).largest(1).values[0]
    c = loss.curvature(net.out_shape)
    return StepBound(1 / (c * lambda_max), 2 / (c * lambda_max), lambda_max, c)
