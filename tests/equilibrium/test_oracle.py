"""The linear cell `z = z A + phi` has everything in closed form: `z = phi S`, `S = (I - A)^-1`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import Neumann, fixed_point, linear_equation


@pytest.fixture
def problem(arguments):
    """`A`, `phi`, `S`, and weights of the outputs."""
    A, phi = arguments()
    S = np.linalg.inv(np.eye(5) - np.asarray(A, np.float64))
    return A, phi, S, jnp.cos(jnp.arange(15.0)).reshape(3, 5)


@pytest.fixture
def loss(cells, problem):
    _, phi, _, weights = problem

    def loss(args):
        z = fixed_point(cells["linear"], jnp.zeros_like(phi), args, batch_ndim=1).z
        return jnp.sum(weights * z)

    return loss


def test_equilibrium(dtype, problem, cells, tol_solve):
    A, phi, S, _ = problem
    eq = fixed_point(cells["linear"], jnp.zeros_like(phi), (A, phi), batch_ndim=1)
    np.testing.assert_allclose(eq.z, phi @ S, **tol_solve)
    assert eq.succeeded.all()


def test_gradient(dtype, problem, loss, tol_solve):
    A, phi, S, weights = problem
    grad_A, grad_phi = jax.jit(jax.grad(loss))((A, phi))
    np.testing.assert_allclose(grad_A, (phi @ S).T @ (weights @ S.T), **tol_solve)
    np.testing.assert_allclose(grad_phi, weights @ S.T, **tol_solve)


def test_second_derivatives(x64, problem, loss, tol_solve):
    """`D^2 z [V, V] = 2 phi S V S V S`, and the Hessian-vector product of `<weights, z>`."""
    A, phi, S, weights = problem
    V = jnp.sin(jnp.arange(25.0)).reshape(5, 5) / 5
    direction = (V, jnp.zeros_like(phi))

    @jax.jit
    def second(args):
        first = lambda args: jax.jvp(loss, (args,), (direction,))[1]  # noqa: E731
        along = jax.jvp(first, (args,), (direction,))[1]
        return along, jax.jvp(jax.grad(loss), (args,), (direction,))[1]

    along, (product, mixed) = second((A, phi))
    Sw = weights @ S.T
    np.testing.assert_allclose(along, 2 * jnp.vdot(weights, phi @ S @ V @ S @ V @ S), **tol_solve)
    wanted = (phi @ S @ V @ S).T @ Sw + (phi @ S).T @ (Sw @ V.T @ S.T)
    np.testing.assert_allclose(product, wanted, **tol_solve)
    np.testing.assert_allclose(mixed, Sw @ V.T @ S.T, **tol_solve)


def test_linear_equation(x64, problem, tol_solve):
    """`x = x A + b` by itself: `x = b S`; its derivatives in `A` and `b`; what `solve` reports of it."""
    A, b, S, weights = problem

    def solve(apply, rhs, transposed):
        eq = Neumann().solve(apply, rhs, 1)
        return eq.z, eq.steps

    def loss(A, b):
        x, steps = linear_equation(lambda x: x @ A, b, solve, has_aux=True)
        return jnp.sum(weights * x), steps

    grads, steps = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(A, b)
    np.testing.assert_allclose(grads[0], (b @ S).T @ (weights @ S.T), **tol_solve)
    np.testing.assert_allclose(grads[1], weights @ S.T, **tol_solve)
    assert (steps > 1).all()


def test_large_batch_axes_change_nothing(problem, cells, tol_solve):
    """`batch_ndim` 0 and 2: one problem, and a table of problems; the books have these axes."""
    A, phi, S, _ = problem
    table = jnp.broadcast_to(phi[:, None], (3, 2, 5))
    for batch_ndim, guess, args in [(0, phi, (A, phi)), (2, 0 * table, (A, table))]:
        eq = fixed_point(cells["linear"], guess, args, batch_ndim)
        np.testing.assert_allclose(eq.z, args[1] @ S, **tol_solve)
        for book in (eq.residual, eq.error, eq.steps, eq.status):
            assert book.shape == guess.shape[:batch_ndim]
