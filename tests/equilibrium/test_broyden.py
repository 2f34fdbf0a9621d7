"""Broyden's method against its dense form by hand, and what its memory is worth."""

import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import Broyden, Method, Picard, Status, fixed_point


def by_hand(f, z, evaluations):
    """The iterate at the last evaluation, with the inverse Jacobian as a matrix."""
    H, last = -np.eye(z.size), None
    for _ in range(evaluations):
        g = f(z) - z
        if last is not None:
            s, y = z - last[0], g - last[1]
            H = H + np.outer(s - H @ y, s @ H) / (s @ H @ y)
        last, z = (z, g), z - H @ g
    return last[0]


@pytest.mark.usefixtures("x64")
def test_iterates_are_those_of_the_dense_method(cells, arguments):
    A, phi = arguments(n=2, m=6, norm=0.9)
    method = Method(Broyden(max_steps=8), on_failure="report")
    eq = fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1, method)
    for found, row in zip(eq.z, np.asarray(phi), strict=True):
        wanted = by_hand(lambda z: np.tanh(z @ np.asarray(A) + row), np.zeros(6), 8)
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_a_linear_map_ends_after_twice_its_dimension(cells, arguments):
    """Gay's theorem (1979): at most `2 dim` steps, whether or not the map contracts."""
    A, phi = arguments(n=3, m=4, norm=3.0)
    eq = fixed_point(cells["linear"], jnp.zeros_like(phi), (A, phi), 1, Method(Broyden()))
    wanted = np.linalg.solve(np.eye(4) - np.asarray(A).T, np.asarray(phi).T).T
    np.testing.assert_allclose(eq.z, wanted, rtol=1e-9, atol=1e-9)
    assert (eq.steps <= 10).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("memory", [1, 3])
def test_a_memory_that_is_full_is_forgotten(cells, arguments, memory):
    """Many times over, and the equilibrium is reached all the same."""
    A, phi = arguments(m=6, norm=0.8)
    wanted = fixed_point(cells["relu"], jnp.zeros_like(phi), (A, phi), 1, Method(Picard()))
    eq = fixed_point(cells["relu"], jnp.zeros_like(phi), (A, phi), 1, Method(Broyden(memory=memory)))
    np.testing.assert_allclose(eq.z, wanted.z, rtol=1e-10, atol=1e-10)
    assert eq.steps.max() > memory + 3


def test_no_equilibrium():
    """`z + 1`: the denominators of the update are zero; each step is a plain one."""
    method = Method(Broyden(max_steps=20), on_failure="report")
    eq = fixed_point(lambda z, _: z + 1, jnp.zeros(3), None, 0, method)
    assert eq.status == Status.DIVERGED
    assert np.isfinite(eq.z).all()


@pytest.mark.usefixtures("unchecked")
def test_options():
    with pytest.raises(ValueError, match="memory must be a positive integer"):
        Broyden(memory=0)
