"""Affine solvers that update the product `z W` by what a step adds to it, instead of forming it anew.

An increment may come cheaper than a product: from a product of lower precision (`MixedPicard`), or from
the inverse that made the step (`Chord`, `PeacemanRachford`). Its error is in proportion to the step, so
that it falls with the residual: products that are formed anew now and then keep the sum true.
"""

import abc
import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from implicit_ntk.equilibrium._affine import AffineMap
from implicit_ntk.equilibrium._batch import magnitudes, norms, select
from implicit_ntk.equilibrium._solver import AbstractSolver, Map, Measure, Measuring, check_tolerances
from implicit_ntk.equilibrium._stopping import STALL_CEILING

PERIOD = 8
"""Every so many evaluations all products are formed anew: the same for all, and so of no consequence."""

TRUST = 4.0
"""A residual is believed while it is this many times the error that the increments may have left in it."""

FIRST_DOUBT = 1e-2
"""The relative error of increments that is assumed until one has been measured."""


SAMPLE = 32
"""Of wide states so many units, or one in so many, tell the length of a step."""


class Progress(eqx.Module):
    """What is known at an iterate: all but `extra` hold one row, or one number, a problem.

    `product` is `scale z weight` up to the errors of the increments; `moved` the root of the sum of
    squares of the residuals, to which the steps are in proportion, since it was last formed (infinite
    before); `doubt` the error of an increment relative to that, as last measured; `residual` the last,
    `gain` the length of the step taken from it over it, `count` the evaluations; `extra` is the solver's own.
    """

    product: Float[Array, "... m"]
    moved: Float[Array, "..."]
    doubt: Float[Array, "..."]
    residual: Float[Array, "..."]
    gain: Float[Array, "..."]
    count: Int[Array, ""]
    extra: PyTree[Array]


class AbstractIncremental(AbstractSolver):
    """A solver of `z = sigma(z W + offset)` that knows what a step adds to `z W`."""

    needs_affine = True

    @abc.abstractmethod
    def begin(self, affine: AffineMap, z: Float[Array, "... m"]) -> PyTree[Array]:
        """The solver's own part of the state."""

    @abc.abstractmethod
    def increment(
        self, affine: AffineMap, z: Float[Array, "... m"], fz: Float[Array, "... m"], state: Progress
    ) -> tuple[Float[Array, "... m"], Float[Array, "... m"], PyTree[Array]]:
        """The step, what it adds to the product, and the solver's own part of the next state."""

    def init(self, f: Map, z: Float[Array, "... m"]) -> Progress:
        """Nothing is known of the product yet."""
        size = norms(z, f.batch_ndim)
        never, doubt = jnp.full_like(size, jnp.inf), jnp.full_like(size, FIRST_DOUBT)
        extra = self.begin(_affine(f), z)
        return Progress(jnp.zeros_like(z), never, doubt, never, never, jnp.int32(0), extra)

    def evaluate(
        self, f: Map, z: Float[Array, "... m"], state: Progress, measure: Measuring
    ) -> tuple[Float[Array, "... m"], Measure, Progress]:
        """`f(z)` from the product so far, and a residual that allows for what is in doubt.

        The product is formed anew for all at the second and at every `PERIOD`-th evaluation, and for a
        problem in doubt in between. That costs the batch a product, which no other problem gets to see:
        what becomes of a problem depends on itself alone.
        """
        affine = _affine(f)
        off = state.doubt * state.moved
        found = measure(affine.apply(state.product), off)
        anew = (state.count % PERIOD == 0) | (state.count == 1) | (found.residual < (1 + TRUST) * off)

        def formed_anew(known: tuple) -> tuple:
            product = affine.product(z)
            doubt = _measured_doubt(state, product, f.batch_ndim)
            exact = (product, jnp.zeros_like(state.moved), doubt)
            product, moved, doubt = select(anew, exact, known[:3])
            return product, moved, doubt, measure(affine.apply(product), doubt * moved), jnp.asarray(False)

        # Not a `cond`, which would copy the product even where it stays as it is.
        known = (state.product, state.moved, state.doubt, found, jnp.any(anew))
        product, moved, doubt, found, _ = lax.while_loop(lambda known: known[-1], formed_anew, known)
        moved = jnp.hypot(moved, found.residual)
        state = Progress(product, moved, doubt, found.residual, state.gain, state.count + 1, state.extra)
        return affine.apply(product), found, state

    def step(
        self, f: Map, z: Float[Array, "... m"], fz: Float[Array, "... m"], state: Progress
    ) -> tuple[Float[Array, "... m"], Progress]:
        """The step, with the product brought up to date."""
        step, added, extra = self.increment(_affine(f), z, fz, state)
        sample = step[..., : max(SAMPLE, step.shape[-1] // SAMPLE)]
        length = norms(sample, f.batch_ndim) * (step.shape[-1] / sample.shape[-1]) ** 0.5
        product, gain = state.product + added, length / state.residual
        return z + step, dataclasses.replace(state, product=product, gain=gain, extra=extra)

    def freeze(self, running: Bool[Array, "..."], new: Progress, old: Progress) -> Progress:
        """A problem that is done keeps the product of its iterate, and doubts it no more."""
        product = select(running, new.product, old.product)
        moved = jnp.where(running, new.moved, jnp.zeros_like(new.moved))
        gain = jnp.where(running, new.gain, old.gain)
        extra = self.freeze_extra(running, new.extra, old.extra)
        return Progress(product, moved, new.doubt, new.residual, gain, new.count, extra)

    def freeze_extra(self, running: Bool[Array, "..."], new: PyTree, old: PyTree) -> PyTree:
        """The same for the solver's own part, where that is a row a problem."""
        return new

    def error(
        self, residual: Float[Array, "..."], rate: Float[Array, "..."], state: PyTree
    ) -> Float[Array, "..."]:
        """`||z - z*|| ~ gain residual / (1 - rate)`, the sum of the steps still to come."""
        return state.gain * residual / (1 - rate)


class MixedPicard(AbstractIncremental):
    """Picard whose products are updated by increments of low precision, to the same final residual.

    float32 states are moved by bfloat16 products that accumulate in float32, float64 states by float32
    products; every few steps a product is formed in full, and what the increments may have left in a
    residual in between is added to it. Pays where the device is faster at the former:
    `implicit-ntk doctor` measures it.

    Needs a cell of the form `sigma(z W + offset)`.
    """

    rtol: ArrayLike | None = None
    atol: ArrayLike = 0.0
    max_steps: int = 1000

    def __check_init__(self) -> None:
        check_tolerances(self.rtol, self.atol, self.max_steps)

    def begin(self, affine: AffineMap, z: Float[Array, "... m"]) -> Float[Array, "m m"]:
        """The weights, rounded once."""
        return affine.weight.astype(low_type(z.dtype))

    def increment(
        self, affine: AffineMap, z: Float[Array, "... m"], fz: Float[Array, "... m"], state: Progress
    ) -> tuple[Float[Array, "... m"], Float[Array, "... m"], Float[Array, "m m"]]:
        """All the way to `f(z)`; one product of low precision."""
        step = fz - z
        return step, affine.scale * low_product(step, state.extra), state.extra


class AbstractPreconditioned(AbstractIncremental):
    """Steps `e K^{-1}` with `K = alpha I - beta W`, so that a step adds `(alpha step - e)/beta` to `z W`.

    One product with the inverse an iteration, and none with the weights. `inverse` is formed by
    `prepare`, once for a solve and its adjoint; or once for a whole trajectory, by whoever passes a
    solver that has been prepared: then it lags behind the weights, which costs products formed anew. A
    residual allows for what the increments may be off by, as measured on the last product in full.
    """

    inverse: eqx.AbstractVar[Float[Array, "m m"] | None]
    low_precision: eqx.AbstractVar[bool]

    @property
    @abc.abstractmethod
    def pencil(self) -> tuple[float, float]:
        """`(alpha, beta)`."""

    def prepare(self, affine: AffineMap, other: AbstractSolver | None = None) -> "AbstractPreconditioned":
        """The solver with the inverse for these weights, unless it has one; or with that of `other`."""
        if self.inverse is not None:
            _check_inverse(self.inverse, affine.weight)
            return self
        alpha, beta = self.pencil
        if isinstance(other, AbstractPreconditioned) and other.pencil == self.pencil:
            return dataclasses.replace(self, inverse=other.prepare(affine).inverse)
        K = alpha * jnp.eye(affine.weight.shape[0], dtype=affine.weight.dtype)
        return dataclasses.replace(self, inverse=jnp.linalg.inv(K - beta * affine.scale * affine.weight))

    def transpose(self) -> "AbstractPreconditioned":
        """The solver for the transposed weights."""
        return self if self.inverse is None else dataclasses.replace(self, inverse=self.inverse.T)

    def preconditioned(
        self, e: Float[Array, "... m"], inverse: Float[Array, "m m"]
    ) -> tuple[Float[Array, "... m"], Float[Array, "... m"]]:
        """The step `e K^{-1}`, and what it adds to the product."""
        alpha, beta = self.pencil
        step = low_product(e, inverse) if self.low_precision else e @ inverse
        return step, (alpha * step - e) / beta

    def inverse_for(self, affine: AffineMap) -> Float[Array, "m m"]:
        """The inverse, in the precision that steps are taken in."""
        inverse = self.prepare(affine).inverse
        assert inverse is not None
        return inverse.astype(low_type(inverse.dtype)) if self.low_precision else inverse


def _check_inverse(inverse: Float[Array, "m m"], weight: Float[Array, "k k"]) -> None:
    """What was prepared for other weights may lag behind, but must fit."""
    if (inverse.shape, inverse.dtype) != (weight.shape, weight.dtype):
        raise ValueError(
            f"solver: it was prepared for weights {inverse.dtype}{list(inverse.shape)} and meets "
            f"{weight.dtype}{list(weight.shape)}; prepare it again, or leave that to the solve"
        )


def low_type(dtype: jnp.dtype) -> jnp.dtype:
    """The next precision down: bfloat16 for float32, float32 for float64."""
    return jnp.dtype(jnp.float32 if jnp.dtype(dtype) == jnp.float64 else jnp.bfloat16)


def low_product(x: Float[Array, "... m"], weight: Float[Array, "m k"]) -> Float[Array, "... k"]:
    """`x weight` with both rounded to the precision of `weight`, accumulated and returned in that of `x`.

    A row of float64 is taken in units of its own, since float32 has not its range; bfloat16 has float32's.
    """
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    accumulate = jnp.promote_types(weight.dtype, jnp.float32)
    unit = magnitudes(x, x.ndim - 1)[..., None] if x.dtype == jnp.float64 else jnp.ones((), x.dtype)
    low = (x / unit).astype(weight.dtype)
    product = lax.dot_general(low, weight, contract, preferred_element_type=accumulate)
    return unit * product.astype(x.dtype)


def _measured_doubt(state: Progress, product: Float[Array, "... m"], batch_ndim: int) -> Float[Array, "..."]:
    """How far the increments were off, relative to what they were.

    An error within rounding shows only that it is no larger.
    """
    rounding = STALL_CEILING * float(jnp.finfo(product.dtype).eps) * norms(product, batch_ndim)
    off = norms(product - state.product, batch_ndim)
    moved = jnp.isfinite(state.moved) & (state.moved > 0)
    share = jnp.minimum(jnp.maximum(off, rounding) / jnp.where(moved, state.moved, 1), 1)
    share = jnp.where(off > rounding, share, jnp.minimum(share, state.doubt))
    return jnp.where(moved, share, state.doubt)


def _affine(f: Map) -> AffineMap:
    assert f.affine is not None, "checked at the door: the solver says needs_affine"
    return f.affine
