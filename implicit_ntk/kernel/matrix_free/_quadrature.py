"""Traces of functions of a kernel by stochastic Lanczos quadrature: log-determinant, spectral density.

`tr f(A) ~ N mean_z e_1.f(T_z) e_1`, `T_z` the tridiagonal matrix of Lanczos from a probe of random signs
(Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38, 2017).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from implicit_ntk.kernel.matrix_free._estimates import Estimate, SpectralDensity
from implicit_ntk.kernel.matrix_free._lanczos import ROUNDING, Apply, quadrature, tridiagonal
from implicit_ntk.kernel.matrix_free._preconditioner import Preconditioner
from implicit_ntk.kernel.matrix_free._products import KernelProducts

Rule = tuple[Float[Array, "z _"], Float[Array, "z _"]]
"""Nodes and weights of each probe."""


@eqx.filter_jit
def log_determinant(
    products: KernelProducts, preconditioner: Preconditioner, probes: int, steps: int, key: Key[Array, ""]
) -> Estimate:
    """`log det H = log det P + tr log(P^(-1/2) H P^(-1/2))`: the trace has little left to estimate."""

    def apply(v: Float[Array, " N"]) -> Float[Array, " N"]:
        half = preconditioner.power(-0.5, v)
        return preconditioner.power(-0.5, products.apply(half))

    def traces(rule: Rule) -> Float[Array, " z"]:
        nodes, weights = rule
        return products.size * jnp.sum(weights * _log(nodes), axis=1)

    with jax.default_matmul_precision("highest"):
        full, half = _rules(apply, products, probes, steps, key)
        value, stderr = _mean(traces(full))
        noise = products.error * jnp.sqrt(preconditioner.largest / preconditioner.shift)
        met = full[1] > jnp.finfo(products.dtype).eps
        return Estimate(
            value=value + preconditioner.logdet(),
            stderr=stderr,
            quadrature_error=jnp.abs(value - _mean(traces(half))[0]),
            resolved=jnp.min(jnp.where(met, full[0], jnp.inf)) > noise,
            products=jnp.asarray(probes * steps),
        )


@eqx.filter_jit
def spectral_density(
    products: KernelProducts,
    points: Float[Array, " p"],
    width: Float[Array, ""],
    probes: int,
    steps: int,
    key: Key[Array, ""],
) -> SpectralDensity:
    """Every node a Gaussian in `log lambda`."""

    def densities(rule: Rule) -> Float[Array, "z p"]:
        nodes, weights = rule
        distance = (jnp.log(points)[None, None] - _log(nodes)[..., None]) / width
        bumps = jnp.exp(-(distance**2) / 2) / (width * jnp.sqrt(2 * jnp.pi))
        return jnp.sum(weights[..., None] * bumps, axis=1)

    with jax.default_matmul_precision("highest"):
        full, half = _rules(products.apply, products, probes, steps, key)
        density, stderr = _mean(densities(full))
        # Where noise(lam) = lam, and what Lanczos drops.
        share = jnp.maximum(6 * products.error**2, ROUNDING * jnp.finfo(products.dtype).eps)
        return SpectralDensity(
            points=points,
            density=density,
            stderr=stderr,
            quadrature_error=jnp.abs(density - _mean(densities(half))[0]),
            width=width,
            resolution=share * jnp.max(full[0]),
            products=jnp.asarray(probes * steps),
        )


def _rules(
    apply: Apply, products: KernelProducts, probes: int, steps: int, key: Key[Array, ""]
) -> tuple[Rule, Rule]:
    """Gauss rules of each probe, of all the steps and of half of them, which cost no further products."""
    signs = jax.random.rademacher(key, (probes, products.size), products.dtype)
    diagonals, beside = lax.map(lambda z: tridiagonal(apply, z, steps), signs)
    half = max(1, steps // 2)
    rule = jax.vmap(quadrature)
    return rule(diagonals, beside), rule(diagonals[:, :half], beside[:, :half])


def _log(nodes: Float[Array, "z s"]) -> Float[Array, "z s"]:
    """Finite where rounding made a node negative."""
    return jnp.log(jnp.maximum(nodes, jnp.finfo(nodes.dtype).tiny))


def _mean(samples: Float[Array, "z ..."]) -> tuple[Array, Array]:
    """The mean over the probes and its standard error."""
    return jnp.mean(samples, axis=0), jnp.std(samples, axis=0, ddof=1) / jnp.sqrt(samples.shape[0])
