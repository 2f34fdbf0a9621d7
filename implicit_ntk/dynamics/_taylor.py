"""The network linearised in its parameters: the model whose training is the linearised twin."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from implicit_ntk._checks import AnyArray, Number, check_real, check_targets
from implicit_ntk.dynamics._linearized import linearized_flow
from implicit_ntk.dynamics._problem import Leaves
from implicit_ntk.equilibrium import Method
from implicit_ntk.jacobian import AbstractJacobian, jacobian
from implicit_ntk.networks import AbstractNetwork, as_tangent, check_network, trained_leaves


class Taylor(eqx.Module):
    """`f_0(x) + J_0(x) v`: linear in `v`, the displacement of the parameters of `net`, its centre.

    Build one with `taylor(net)`. `displacement` holds `v`, an array for each trained leaf.
    """

    net: AbstractNetwork
    displacement: Leaves
    method: Method | None

    def __call__(self, X: Float[AnyArray, "n d"]) -> Float[Array, "n *out"]:
        """The outputs on a batch, (n,) or (n, k), by one forward and one adjoint solve of the centre.

        Raises as `jacobian`.
        """
        return self._outputs(jacobian(self.net, X, method=self.method))

    def trained(
        self, X: Float[AnyArray, "n d"], y: Float[AnyArray, "n *out"], t: Number = jnp.inf
    ) -> "Taylor":
        """The model after gradient flow on `||u - y||^2 / 2` from here for a time `t`, exactly.

        `v + J^T Q diag((1 - e^{-lam t})/lam) Q^T (y - u)`, with `H = J J^T = Q diag(lam) Q^T`. At `t = inf`
        the interpolant of least `||v(inf) - v||_2`. On any data its outputs are those of `linearized_flow`.

        **Raises:** as `jacobian`, its `gram` and `linearized_flow`; `TypeError` for a `t` that is not one
        number, `ValueError` for `t = inf` where `lambda_min` is not resolved.
        """
        check_real(t, "t")
        J = jacobian(self.net, X, method=self.method)
        y = check_targets(y, J.linearization.shape).astype(J.linearization.X.dtype)
        twin = linearized_flow(J.gram(), self._outputs(J), y)
        moved = trained_leaves(J.rmv(twin.weights(t)))
        return Taylor(self.net, jax.tree.map(jnp.add, self.displacement, moved), self.method)

    @property
    def distances(self) -> dict[str, Float[Array, ""]]:
        """`||v||` of each trained leaf: `{"A": ||A(t) - A(0)||_F, ...}`."""
        return {name: jnp.linalg.norm(jnp.ravel(v)) for name, v in self.displacement.items()}

    @property
    def distance(self) -> Float[Array, ""]:
        """`||v||` over all trained leaves."""
        return jnp.linalg.norm(jnp.stack(list(self.distances.values())))

    def _outputs(self, J: AbstractJacobian) -> Float[Array, "n *out"]:
        at = J.linearization
        baseline = self.net.baseline(at.X, at.method)
        return at.outputs - baseline + J.mv(as_tangent(self.net, self.displacement))


def taylor(net: AbstractNetwork, method: Method | None = None) -> Taylor:
    """The first-order Taylor model of a network in its trained parameters, around where it is.

    `f_0(x) + J_0(x) v` with `v = 0` at first: `tay(X)` on any data, `tay.trained(X, y, t)` after training on
    some. How far a network that is trained goes from it is what `deviation` measures.

    **Arguments:** `method` of the solves at the centre, None for the network's default.

    **Raises:** `TypeError` for what is no network; `ValueError` for one that trains nothing.
    """
    check_network(net)
    if not net.trained:
        raise ValueError("net trains nothing; name its trained leaves, e.g. trained=('A',)")
    return Taylor(net, jax.tree.map(jnp.zeros_like, trained_leaves(net)), method)
