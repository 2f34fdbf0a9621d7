"""Anderson mixing against least squares by hand, and where its history is of no use."""

import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import Anderson, Broyden, Map, Method, Picard, Status, fixed_point
from implicit_ntk.equilibrium._restart import BLOW_UP, Refuge


def by_hand(f, z, memory, damping, evaluations):
    """The iterate at the last evaluation, with the coefficients of an unregularised least squares."""
    zs, gs = [], []
    for _ in range(evaluations):
        zs, gs = [*zs, z][-memory - 1 :], [*gs, f(z) - z][-memory - 1 :]
        dz, dg = (np.diff(np.stack(values), axis=0).T for values in (zs, gs))
        c = np.linalg.lstsq(dg, gs[-1])[0] if len(zs) > 1 else np.zeros(0)
        z = zs[-1] + damping * gs[-1] - (dz + damping * dg) @ c
    return zs[-1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("memory", "damping"), [(2, 1.0), (3, 0.6)])
def test_iterates_are_those_of_the_least_squares(cells, arguments, memory, damping):
    """Once the memory has been full for a while, for each row by itself."""
    A, phi = arguments(n=2, m=6, norm=0.9)
    method = Method(Anderson(max_steps=7, memory=memory, damping=damping), on_failure="report")
    eq = fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1, method)
    for found, row in zip(eq.z, np.asarray(phi), strict=True):
        wanted = by_hand(lambda z: np.tanh(z @ np.asarray(A) + row), np.zeros(6), memory, damping, 7)
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


def symmetric(rng, m, rate):
    Q = np.linalg.qr(rng.normal(size=(m, m)))[0]
    return jnp.asarray((Q * np.linspace(0, rate, m)) @ Q.T), jnp.asarray(rng.normal(size=(3, m)))


@pytest.mark.usefixtures("x64")
def test_fewer_evaluations_than_picard_on_an_ill_conditioned_symmetric_contraction(cells, rng):
    args = symmetric(rng, 12, 0.95)
    steps = {
        solver: fixed_point(cells["linear"], jnp.zeros((3, 12)), args, 1, Method(solver)).steps
        for solver in (Picard(), Anderson())
    }
    assert (3 * steps[Anderson()] < steps[Picard()]).all()


@pytest.mark.usefixtures("x64")
def test_a_linear_map_is_solved_in_as_many_evaluations_as_dimensions(cells, rng):
    """With enough memory it is GMRES (Walker and Ni 2011): `dim` differences, and one step to use them."""
    args = symmetric(rng, 6, 0.9)
    eq = fixed_point(cells["linear"], jnp.zeros((3, 6)), args, 1, Method(Anderson(memory=6)))
    assert (eq.steps <= 8).all()


def test_one_dimension_and_more_memory_than_that(dtype, tol_solve):
    """All differences are parallel: the least squares is singular from the second on."""
    method = Method(Anderson(memory=4))
    eq = fixed_point(lambda z, _: -0.7 * z + 1, jnp.zeros((1,), dtype), None, 0, method)
    np.testing.assert_allclose(eq.z, 1 / 1.7, **tol_solve)
    assert eq.steps <= 6


def test_a_residual_that_never_changes():
    """`z + 1`: every difference of residuals is zero; each step is a plain one."""
    method = Method(Anderson(max_steps=20), on_failure="report")
    eq = fixed_point(lambda z, _: z + 1, jnp.zeros(3), None, 0, method)
    assert eq.status == Status.DIVERGED
    np.testing.assert_array_equal(eq.z, np.zeros(3))
    np.testing.assert_allclose(eq.residual, np.sqrt(3), rtol=1e-6)


def test_refuge():
    """The plain step of the least residual; a problem must return to it once it is far above."""
    refuge = Refuge.init(jnp.zeros((3, 2)))
    residual = jnp.array([1.0, 1.0, 1.0])
    refuge, lost = refuge.seen(residual, jnp.ones((3, 2)))
    assert not lost.any()
    refuge, lost = refuge.seen(jnp.array([0.5, 0.9 * BLOW_UP, 2 * BLOW_UP]), jnp.full((3, 2), 2.0))
    np.testing.assert_array_equal(lost, [False, False, True])
    np.testing.assert_array_equal(refuge.plain, [[2.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_array_equal(refuge.least, [0.5, 1.0, 1.0])


def cliff(z):
    """The secant through `z = 0` and `1` leads to 100, which is far beyond where it is of any use."""
    return z + jnp.where(z < 10, 1 - 0.01 * z, -1000.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", [Anderson(), Broyden()])
def test_it_begins_again_after_a_blow_up(solver):
    """By the plain step from the best iterate, 1, and then another: the secant is forgotten."""
    f, z = Map(cliff, 1), jnp.zeros((1, 1))
    state, visited = solver.init(f, z), []
    for _ in range(5):
        visited.append(float(z[0, 0]))
        z, state = solver.step(f, z, f(z), state)
    np.testing.assert_allclose(visited, [0, 1, 100, 1.99, 1.99 + 1 - 0.0199], rtol=1e-8)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(memory=0), "memory must be a positive integer"),
        (dict(regularisation=-1.0), r"regularisation must lie in \[0, 1\)"),
        (dict(damping=0.0), r"damping must lie in \(0, 1\]"),
        (dict(rtol=2.0), "rtol must lie in"),
    ],
)
def test_options(wrong, message):
    with pytest.raises(ValueError, match=message):
        Anderson(**wrong)


def test_complex_states_are_refused():
    with pytest.raises(TypeError, match="must be real for this solver"):
        fixed_point(lambda z, _: 0.5j * z, jnp.ones(2, complex), None, 0, Method(Anderson()))
