"""Healthy solves that a bare relative test would fail: zero right-hand sides, dead units, zero inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import Method, Neumann, ReverseAdjoint, Status, fixed_point


@pytest.fixture(params=["implicit", "reverse"])
def method(request) -> Method:
    """Under `raise`: whatever fails here is an error."""
    return Method() if request.param == "implicit" else Method(adjoint=ReverseAdjoint())


def test_zero_right_hand_sides_take_no_steps(dtype, arguments, rows, tol_solve):
    """A zero row is solved by zero in zero steps; its mates are what they are without it."""
    A, rhs = arguments()
    S = np.linalg.inv(np.eye(5) - np.asarray(A, np.float64))
    eq = rows(Neumann(), A, rhs.at[1].set(0))
    np.testing.assert_allclose(eq.z[::2], rhs[::2] @ S, **tol_solve)
    np.testing.assert_array_equal(eq.z[1], np.zeros(5))
    assert eq.steps[1] == 0
    assert eq.residual[1] == 0
    assert eq.error[1] == 0
    np.testing.assert_array_equal(eq.status, 3 * [Status.CONVERGED])


def test_zero_guesses_and_zero_maps(arguments, rows):
    """Zero against a guess that is not zero; a map that is zero: one step, the right-hand side."""
    A, rhs = arguments()
    zero = rows(Neumann(), A, 0 * rhs, rhs)
    assert not zero.z.any()
    assert not zero.steps.any()
    dead = rows(Neumann(), 0 * A, rhs)
    np.testing.assert_array_equal(dead.z, rhs)
    np.testing.assert_array_equal(dead.steps, [1, 1, 1])


def test_nan_right_hand_side_is_a_failure_of_its_row_only(arguments, rows):
    A, rhs = arguments()
    eq = rows(Neumann(), A, rhs.at[1, 1].set(jnp.nan))
    np.testing.assert_array_equal(eq.status, [Status.CONVERGED, Status.NONFINITE, Status.CONVERGED])


def test_zero_and_one_hot_cotangents(x64, cells, arguments, method, tol_solve):
    """Rows without a cotangent get exactly zero; the one-hot rows make up the whole Jacobian."""
    A, phi = arguments()

    @jax.jit
    def pull(zbar):
        z = lambda phi: fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1, method).z  # noqa: E731
        return jax.vjp(z, phi)[1](zbar)[0]

    assert not pull(jnp.zeros((3, 5))).any()
    eq = fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1)
    slope = np.asarray(1 - eq.z[1] ** 2, np.float64)
    jacobian = np.linalg.solve(np.eye(5) - slope[:, None] * np.asarray(A, np.float64).T, np.diag(slope))
    for j in range(5):
        row = pull(jnp.zeros((3, 5)).at[1, j].set(1))
        np.testing.assert_allclose(row[1], jacobian[j], **tol_solve)
        assert not row[::2].any()


def test_zero_tangents(cells, arguments):
    A, phi = arguments()
    z = jax.jit(lambda A, phi: fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1).z)
    some_rows = jnp.zeros_like(phi).at[0].set(1)
    _, tangent = jax.jvp(z, (A, phi), (jnp.zeros_like(A), some_rows))
    assert tangent[0].all()
    assert not tangent[1:].any()
    _, tangent = jax.jvp(z, (A, phi), (jnp.zeros_like(A), jnp.zeros_like(phi)))
    assert not tangent.any()


def test_dead_units_and_zero_inputs(cells, arguments, method):
    """Pre-activations all negative, or all zero: the equilibrium is zero, and so is every derivative."""
    A, phi = arguments()
    phi = -jnp.abs(phi).at[1].set(0)
    # An equilibrium of zero is reached exactly where the last unit dies.
    grad = jax.jit(
        jax.value_and_grad(
            lambda args: jnp.sum(fixed_point(cells["relu"], jnp.zeros((3, 5)), args, 1, method).z)
        )
    )
    value, (grad_A, grad_phi) = grad((A, phi))
    assert value == 0
    assert not grad_A.any()
    assert not grad_phi.any()


def test_some_dead_units(x64, cells, arguments, method, tol_solve):
    """`dz/dphi = D (I - A D)^-1` with zeros in the slopes `D`."""
    A, phi = arguments()
    z = fixed_point(cells["relu"], jnp.zeros_like(phi), (A, phi), 1).z
    assert (z == 0).any()
    pull = jax.jit(jax.grad(lambda phi: jnp.sum(fixed_point(cells["relu"], 0 * phi, (A, phi), 1, method).z)))
    for got, slope in zip(pull(phi), np.asarray(z > 0, np.float64), strict=True):
        wanted = np.linalg.solve(np.eye(5) - slope[:, None] * np.asarray(A, np.float64).T, np.diag(slope))
        np.testing.assert_allclose(got, wanted.sum(0), **tol_solve)
