"""Newton's method: finite termination on relu cells, where Picard diverges, kinks and overshoots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import (
    GMRES,
    LU,
    BiCGStab,
    Broyden,
    ImplicitAdjoint,
    Iterated,
    Method,
    Neumann,
    Newton,
    Picard,
    Status,
    Unrolled,
    fixed_point,
)


def gaussian(rng, n, m, gamma0):
    A = gamma0 * rng.normal(size=(m, m)) / np.sqrt(m)
    return jnp.asarray(A), jnp.asarray(np.abs(rng.normal(size=(n, m))))


@pytest.mark.usefixtures("x64")
def test_relu_cells_end_after_finitely_many_steps(cells, rng):
    """Near the edge, where Picard takes hundreds: at most ten evaluations, and then only rounding is left."""
    A, phi = gaussian(rng, 4, 40, 1.2)
    eq = fixed_point(cells["relu"], jax.nn.relu(phi), (A, phi), 1, Method(Newton(rtol=0.0)))
    assert (eq.steps <= 10).all()
    # With the active set known, the equilibrium is that of a linear equation.
    for z, row in zip(np.asarray(eq.z), np.asarray(phi), strict=True):
        # A dead unit may be left at a rounding error above zero.
        alive = z @ np.asarray(A) + row > 0
        block = np.eye(alive.sum()) - np.asarray(A)[np.ix_(alive, alive)].T
        np.testing.assert_allclose(z[alive], np.linalg.solve(block, row[alive]), rtol=1e-12)
    picard = fixed_point(cells["relu"], jax.nn.relu(phi), (A, phi), 1, Method(on_failure="report"))
    assert (picard.steps > 100).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("linear_solver", [None, LU(), GMRES(), BiCGStab(), Iterated(Broyden())])
def test_where_picard_diverges(cells, arguments, linear_solver):
    A, phi = arguments(m=6, norm=2.5)
    method = Method(Newton(linear_solver=linear_solver))
    eq = fixed_point(cells["linear"], jnp.zeros_like(phi), (A, phi), 1, method)
    wanted = np.linalg.solve(np.eye(6) - np.asarray(A).T, np.asarray(phi).T).T
    np.testing.assert_allclose(eq.z, wanted, rtol=1e-9, atol=1e-9)
    picard = Method(Picard(max_steps=60), on_failure="report")
    diverged = fixed_point(cells["linear"], jnp.zeros_like(phi), (A, phi), 1, picard)
    assert (diverged.status > Status.STALLED).all()


def stiff(z, args):
    return z - args * jnp.arctan(z)


@pytest.mark.usefixtures("x64")
def test_overshoots_are_halved():
    """Newton's method on the arc tangent diverges from any start beyond 1.39."""
    eq = fixed_point(
        stiff, jnp.array([[1.0], [2.0], [-3.0]]), jnp.asarray(5.0), 1, Method(Newton(atol=1e-12))
    )
    np.testing.assert_allclose(eq.z, 0, atol=1e-12)


def test_a_singular_jacobian_takes_plain_steps():
    """`I - J = 0` for `z + 1`: the linear solve fails at every step, the solve with a status."""
    method = Method(Newton(max_steps=20), on_failure="report")
    eq = fixed_point(lambda z, _: z + 1, jnp.zeros(3), None, 0, method)
    assert eq.status == Status.DIVERGED
    assert np.isfinite(eq.z).all()


def test_the_default_beyond_the_dense_limit(cells, arguments, monkeypatch):
    """GMRES: as good, and no matrix of that size in the program."""
    monkeypatch.setattr("implicit_ntk.equilibrium._newton.DENSE_DIM", 4)
    A, phi = arguments(n=2, m=5)
    solve = lambda phi: fixed_point(cells["tanh"], 0 * phi, (A, phi), 1, Method(Newton())).z  # noqa: E731
    assert " lu[" not in str(jax.make_jaxpr(solve)(phi))
    wanted = fixed_point(cells["tanh"], 0 * phi, (A, phi), 1).z
    np.testing.assert_allclose(jax.jit(solve)(phi), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_the_unrolled_iteration(cells, arguments):
    """Each step is differentiated through its linear solve, in either mode: those of the implicit rule."""
    A, phi = arguments()

    def loss(phi, adjoint):
        return jnp.sum(fixed_point(cells["tanh"], 0 * phi, (A, phi), 1, Method(Newton(), adjoint)).z ** 3)

    wanted = jax.grad(loss)(phi, ImplicitAdjoint(Neumann()))
    np.testing.assert_allclose(jax.grad(loss)(phi, Unrolled(9)), wanted, rtol=1e-9, atol=1e-10)
    tangent = jax.jvp(lambda phi: loss(phi, Unrolled(9)), (phi,), (jnp.ones_like(phi),))[1]
    np.testing.assert_allclose(tangent, wanted.sum(), rtol=1e-9)


@pytest.mark.usefixtures("unchecked")
def test_options():
    with pytest.raises(TypeError, match="linear_solver must be a linear solver"):
        Newton(linear_solver=Picard())
