"""All solvers reach one equilibrium, and their derivatives are one; a table of what each must do."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import (
    GMRES,
    LU,
    Anderson,
    BiCGStab,
    Broyden,
    ImplicitAdjoint,
    Iterated,
    Method,
    Neumann,
    Newton,
    Picard,
    Status,
    fixed_point,
)

SOLVERS = {
    "Anderson": Anderson(),
    "Anderson, damped": Anderson(damping=0.7, memory=3),
    "Broyden": Broyden(),
    "Newton": Newton(),
    "Newton by GMRES": Newton(linear_solver=GMRES()),
}
LINEAR_SOLVERS = {
    "Neumann": Neumann(),
    "GMRES": GMRES(),
    "BiCGStab": BiCGStab(),
    "LU": LU(),
    "Anderson": Iterated(Anderson()),
    "Broyden": Iterated(Broyden()),
}
each = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def array_cell(sigma):
    return lambda z, args: sigma(z @ args[0] + args[1])


def dict_cell(sigma):
    """The first two units in one leaf, the others in a leaf of another shape."""

    def cell(z, args):
        whole = sigma(jnp.concatenate([z["a"], z["b"][..., 0]], axis=-1) @ args[0] + args[1])
        return {"a": whole[..., :2], "b": whole[..., 2:, None]}

    return cell


def loop(sigma, A, phi) -> np.ndarray:
    """The equilibrium by a plain loop in NumPy."""
    z = np.zeros_like(phi)
    for _ in range(400):
        z = sigma(z @ np.asarray(A) + np.asarray(phi))
    return z


SIGMAS = {"tanh": (jnp.tanh, np.tanh), "relu": (jax.nn.relu, lambda x: np.maximum(x, 0))}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sigma", SIGMAS)
@each
def test_one_equilibrium(solver, sigma, arguments):
    """In a batch of arrays, for a single array, and for a batch of dictionaries."""
    A, phi = arguments(norm=0.8)
    ours, numpys = SIGMAS[sigma]
    wanted, method = loop(numpys, A, phi), Method(solver)
    for size in (3, 1):
        args = (A, phi) if size == 3 else (A, phi[0])
        eq = fixed_point(array_cell(ours), jnp.zeros_like(args[1]), args, args[1].ndim - 1, method)
        np.testing.assert_allclose(eq.z, wanted if size == 3 else wanted[0], rtol=1e-10, atol=1e-10)
    guess = {"a": jnp.zeros((3, 2)), "b": jnp.ones((3, 3, 1))}
    eq = fixed_point(dict_cell(ours), guess, (A, phi), 1, method)
    found = jnp.concatenate([eq.z["a"], eq.z["b"][..., 0]], axis=-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


@each
def test_one_equilibrium_in_float32(solver, arguments, tol_solve):
    A, phi = arguments(norm=0.8)
    eq = fixed_point(array_cell(jnp.tanh), 0 * phi, (A, phi), 1, Method(solver))
    np.testing.assert_allclose(eq.z, loop(np.tanh, A, phi), **tol_solve)
    np.testing.assert_allclose(
        eq.z[1], fixed_point(array_cell(jnp.tanh), 0 * phi, (A, phi), 1).z[1], **tol_solve
    )


def rated(z, args):
    """A row beyond the first two may be made to diverge, by its rate or by a NaN."""
    A, phi, rate = args
    return jax.nn.relu(rate[:, None] * (z @ A) + phi)


@pytest.mark.usefixtures("x64")
@each
def test_batch_mates_do_not_matter(solver, arguments):
    """State, residual, steps and status of a row, beside a healthy row, one that diverges and a NaN."""
    A, phi = arguments(norm=0.9)
    A = jnp.abs(A)
    method = Method(solver, on_failure="report")
    healthy = fixed_point(rated, 0 * phi, (A, phi, jnp.array([1.0, 0.5, 0.7])), 1, method)
    np.testing.assert_array_equal(healthy.status, 0)
    for third, rate in ((phi[2], 50.0), (phi[2].at[1].set(jnp.nan), 0.7)):
        args = (A, phi.at[2].set(third), jnp.array([1.0, 0.5, rate]))
        beside = fixed_point(rated, 0 * phi, args, 1, method)
        for name in ("z", "residual", "steps", "status", "error"):
            np.testing.assert_array_equal(getattr(beside, name)[:2], getattr(healthy, name)[:2])
        if np.isnan(third).any():
            assert beside.status[2] == Status.NONFINITE


@each
def test_units_do_not_matter(solver, arguments):
    """`c f(z / c)`, a power of two near a million: the same steps, and the same numbers times `c`."""
    A, phi = arguments(norm=0.9)
    cell, found = (lambda z, c: c * jnp.tanh(z / c @ A + phi)), {}
    for c in (1.0, 2.0**20, 2.0**-20):
        eq = fixed_point(cell, 0 * phi, jnp.asarray(c), 1, Method(solver))
        found[c] = eq
        np.testing.assert_array_equal(eq.z / c, found[1.0].z)
        np.testing.assert_array_equal(eq.steps, found[1.0].steps)


@each
def test_failures_hand_out_the_best_iterate(solver, arguments):
    """Where nothing is found in time, the state and its residual are those of the least residual."""
    A, phi = arguments(n=4, norm=6.0)
    cell = lambda z, args: jnp.sin(5 * (z @ A) + phi) * 3  # noqa: E731
    short = type(solver)(max_steps=6)
    eq = fixed_point(cell, 0 * phi, None, 1, Method(short, on_failure="report"))
    failed = np.asarray(eq.status) > Status.STALLED
    assert failed.any()
    recomputed = np.linalg.norm(cell(eq.z, None) - eq.z, axis=1)
    np.testing.assert_allclose(eq.residual[failed], recomputed[failed], rtol=1e-4)
    assert (eq.residual <= np.linalg.norm(cell(0 * phi, None), axis=1)).all()


def operations(outputs: Callable, A, phi) -> dict[str, jax.Array]:
    """The derivatives that training and kernels ask for, of a function of the weights."""
    loss = lambda A: jnp.sum(outputs(A, phi) ** 2)  # noqa: E731
    direction = jnp.cos(jnp.arange(A.size, dtype=A.dtype)).reshape(A.shape)
    return {
        "grad": jax.grad(loss)(A),
        "jvp": jax.jvp(lambda A: outputs(A, phi), (A,), (direction,))[1],
        "vmap of jacrev": jax.vmap(lambda row: jax.jacrev(lambda A: outputs(A, row[None])[0])(A))(phi),
        "hvp": jax.jvp(jax.grad(loss), (A,), (direction,))[1],
        "vmap": jax.vmap(lambda c: jax.grad(loss)(c * A))(jnp.array([1.0, 0.7])),
    }


def unrolled(A, phi):
    z, _ = jax.lax.scan(lambda z, _: (jnp.tanh(z @ A + phi), None), jnp.zeros_like(phi), length=120)
    return z @ jnp.arange(1.0, 6)


def compare_operations(solver, linear_solver, arguments) -> None:
    method = Method(solver, ImplicitAdjoint(linear_solver))

    def outputs(A, phi):
        return fixed_point(array_cell(jnp.tanh), jnp.zeros_like(phi), (A, phi), 1, method).z @ jnp.arange(
            1.0, 6
        )

    A, phi = arguments(norm=0.7)
    found, wanted = (jax.jit(lambda A, phi: operations(u, A, phi))(A, phi) for u in (outputs, unrolled))
    for name in found:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-9, atol=1e-9, err_msg=name)


QUICK = [("Anderson", "GMRES"), ("Newton", "LU")]
FORWARD = ("Anderson", "Broyden", "Newton", "Newton by GMRES")
SLOW = [(solver, linear) for solver in FORWARD for linear in LINEAR_SOLVERS]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("solver", "linear_solver"),
    [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW if pair not in QUICK)],
)
def test_derivatives(solver, linear_solver, arguments):
    compare_operations(SOLVERS[solver], LINEAR_SOLVERS[linear_solver], arguments)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("linear_solver", list(LINEAR_SOLVERS)[2:])
def test_a_gradient_by_each_linear_solver(linear_solver, arguments):
    """The cotangent equation of each row, `p = A D p + 1`, by a dense solve."""
    A, phi = arguments(norm=0.7)
    method = Method(Picard(), ImplicitAdjoint(LINEAR_SOLVERS[linear_solver]))
    found = jax.grad(lambda phi: fixed_point(array_cell(jnp.tanh), 0 * phi, (A, phi), 1, method).z.sum())(phi)
    slopes = 1 - loop(np.tanh, A, phi) ** 2
    for row, D in zip(found, slopes, strict=True):
        p = np.linalg.solve(np.eye(5) - np.asarray(A) * D[None, :], np.ones(5))
        np.testing.assert_allclose(row, D * p, rtol=1e-10, atol=1e-10)
