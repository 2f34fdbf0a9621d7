"""Losses for gradient descent: sums over the samples, as functions of the outputs."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Integer, Shaped

from implicit_ntk._checks import AnyArray, check_array, check_targets
from implicit_ntk._tracing import is_traced

Outputs = Float[Array, "n *out"]
Labels = Float[AnyArray, "n *out"] | Integer[AnyArray, " n"]


class AbstractLoss(eqx.Module):
    """`L(u, y)`, without 1/n; the gradient of a network is `J^T dL/du`."""

    @abc.abstractmethod
    def value(self, u: Outputs, y: Outputs) -> Float[Array, ""]:
        """`L(u, y)`, for targets as `targets` makes them."""

    @abc.abstractmethod
    def targets(
        self, y: Labels, rows: int, out: tuple[int, ...], dtype: DTypeLike, name: str = "y"
    ) -> Outputs:
        """Targets of the outputs' shape, of what a user passed; raises `ValueError`, `TypeError`."""

    @abc.abstractmethod
    def curvature(self, out: tuple[int, ...]) -> float:
        """The largest second derivative with respect to the outputs of one sample, in operator norm."""

    def slope(self, u: Outputs, y: Outputs) -> Outputs:
        """`dL/du`: the residual `u - y` of the square loss."""
        return jax.grad(self.value)(u, y)


class SquareLoss(AbstractLoss):
    """`||u - y||^2 / 2`, for targets of the outputs' shape."""

    def value(self, u: Outputs, y: Outputs) -> Float[Array, ""]:
        """`||u - y||^2 / 2`."""
        return jnp.sum((u - y) ** 2) / 2

    def targets(
        self, y: Labels, rows: int, out: tuple[int, ...], dtype: DTypeLike, name: str = "y"
    ) -> Outputs:
        """Of the outputs' shape, finite and floating."""
        return check_targets(y, (rows, *out), name).astype(dtype)

    def curvature(self, out: tuple[int, ...]) -> float:
        """One."""
        return 1.0


class CrossEntropy(AbstractLoss):
    """The negative log-likelihood of classes, summed over the samples.

    - k outputs: `-sum_c y_c log softmax(u)_c`, for integer labels (n,) from 0 to k - 1, or for (n, k) of
      shares that sum to one, such as one-hot rows.
    - a scalar output: the logistic loss `log(1 + e^{-y u})`, for labels of -1 and 1.
    """

    def value(self, u: Outputs, y: Outputs) -> Float[Array, ""]:
        """Of logits `u`, stable for large ones."""
        if u.ndim == 1:
            return -jnp.sum(jax.nn.log_sigmoid(y * u))
        return -jnp.sum(y * jax.nn.log_softmax(u, axis=1))

    def targets(
        self, y: Labels, rows: int, out: tuple[int, ...], dtype: DTypeLike, name: str = "y"
    ) -> Outputs:
        """Signs, or shares of the classes."""
        if out == (1,):
            raise ValueError(
                "CrossEntropy() of one output (n, 1) is always zero; take a scalar output (outputs=None) for "
                "two classes"
            )
        check_array(y, name)
        if out and jnp.issubdtype(jnp.result_type(y), jnp.integer):
            return _one_hot(y, rows, out[0], dtype, name)
        y = check_targets(y, (rows, *out), name).astype(dtype)
        if not is_traced(y):
            (_check_shares if out else _check_signs)(np.asarray(y), name)
        return y

    def curvature(self, out: tuple[int, ...]) -> float:
        """1/4 for the logistic loss, 1/2 for the softmax (`diag(p) - p p^T`)."""
        return 0.5 if out else 0.25


def check_loss(loss: object) -> None:
    """Raise `TypeError` for what is no loss."""
    if not isinstance(loss, AbstractLoss):
        raise TypeError(f"loss must be a loss such as SquareLoss() or CrossEntropy(), got {loss!r}")


def _one_hot(y: Shaped[AnyArray, "..."], rows: int, k: int, dtype: DTypeLike, name: str) -> Outputs:
    if np.shape(y) != (rows,):
        raise ValueError(f"{name} must have shape ({rows},), one class a row, got {np.shape(y)}")
    if not is_traced(y) and not ((np.asarray(y) >= 0) & (np.asarray(y) < k)).all():
        raise ValueError(f"{name} must hold classes from 0 to {k - 1}, one for each output of the network")
    return jax.nn.one_hot(y, k, dtype=dtype)


def _check_signs(y: np.ndarray, name: str) -> None:
    if not (np.abs(y) == 1).all():
        raise ValueError(f"{name} must hold -1 and 1, the two classes of a scalar output")


def _check_shares(y: np.ndarray, name: str) -> None:
    if not ((y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-5)):
        raise ValueError(f"{name} must have rows of shares that sum to one; or pass integer classes (n,)")
