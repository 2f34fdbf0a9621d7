"""What the exponential integrator remembers: the last step, the position at its end, its books."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from implicit_ntk.dynamics._problem import States
from implicit_ntk.dynamics.exponential._modes import Scalar
from implicit_ntk.dynamics.exponential._position import Pace, Position, Waypoint
from implicit_ntk.dynamics.exponential._step import AbstractStep

Count = Int[Array, ""]


class Books(eqx.Module):
    """What the steps so far took; `error` adds up their estimates, root mean squares over outputs."""

    error: Scalar
    steps: Count
    rejected: Count
    decompositions: Count
    forward_evaluations: Count
    adjoint_evaluations: Count
    status: Count


class ExponentialState(eqx.Module):
    """All that the flow remembers: what a checkpoint would hold.

    The step that covers `[time, time + h]`, the position at its `end`, and for the next one: how far it is
    to go, the `pace` of the last, the states of the `probes`.
    """

    time: Scalar
    step: AbstractStep
    end: Position
    way: Scalar
    pace: Pace
    probes: States
    books: Books

    @property
    def states(self) -> States:
        """From which the solves of a record start."""
        return self.end.states

    @property
    def steps(self) -> Count:
        """Accepted steps."""
        return self.books.steps

    @property
    def forward_evaluations(self) -> Count:
        """Of the steps, rejected ones included."""
        return self.books.forward_evaluations

    @property
    def adjoint_evaluations(self) -> Count:
        """Of the steps, rejected ones included."""
        return self.books.adjoint_evaluations

    @property
    def status(self) -> Count:
        """The worst status of the run."""
        return self.books.status


class Work(eqx.Module):
    """What the tries of a step took."""

    tries: Count
    decompositions: Count
    forward: Count
    adjoint: Count

    def __add__(self, other: "Work") -> "Work":
        return jax.tree.map(jnp.add, self, other)


class Trial(eqx.Module):
    """A step as tried: its estimated error, that over what is allowed, how far it went.

    `blame` is the share of the error that is for the sake of old modes; the solves of the next try of this
    step start near `known`.
    """

    step: AbstractStep
    end: Position
    error: Scalar
    excess: Scalar
    way: Scalar
    blame: Scalar
    pace: Pace
    known: Waypoint
    probes: States
    status: Count
    work: Work


def rms(x: Float[Array, "..."]) -> Scalar:
    """The root mean square."""
    return jnp.sqrt(jnp.mean(x**2))


def zeros(form: PyTree) -> PyTree:
    """Arrays of a form, of zeros: what a loop starts from that overwrites them."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)
