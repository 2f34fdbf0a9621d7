"""What users pass: NumPy, numbers, halves, complex numbers, modules, keys, integers; scans and donation."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import (
    ImplicitAdjoint,
    Method,
    Neumann,
    Picard,
    ReverseAdjoint,
    fixed_point,
)


class Cell(eqx.Module):
    """A module as a map: arrays, a static field, a field that is a function."""

    A: jax.Array
    scale: float = eqx.field(static=True)
    activation: Callable = jnp.tanh

    def __call__(self, z, phi):
        return self.activation(self.scale * (z @ self.A) + phi)


def tanh(z, args):
    A, phi = args
    return jnp.tanh(z @ A + phi)


ADJOINTS = [ImplicitAdjoint(), ReverseAdjoint()]


def test_a_module_is_differentiated(arguments, tol):
    """Its arrays are; its static fields are not touched."""
    A, phi = arguments()
    cell = Cell(A / 2, 2.0)

    def loss(cell):
        return jnp.sum(fixed_point(cell, jnp.zeros((3, 5)), phi, 1).z)

    grads = eqx.filter_grad(loss)(cell)
    wanted = jax.grad(lambda A: jnp.sum(fixed_point(tanh, jnp.zeros((3, 5)), (A, phi), 1).z))(A)
    np.testing.assert_allclose(grads.A, 2 * wanted, **tol)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_integers_keys_and_strings_as_arguments(adjoint, key, arguments, tol):
    """They have no derivatives and do not disturb those of others."""
    A, phi = arguments()
    noise = 0.1 * jax.random.normal(key, (3, 5))

    def loss(A, rows, key):
        def f(z, args):
            A, rows, key, name = args
            return getattr(jnp, name)(z @ A + phi[rows] + 0.1 * jax.random.normal(key, (3, 5)))

        args = (A, rows, key, "tanh")
        return jnp.sum(fixed_point(f, jnp.zeros((3, 5)), args, 1, Method(adjoint=adjoint)).z)

    found = jax.jit(jax.grad(loss))(A, jnp.array([2, 0, 1]), key)
    args = (A, phi[jnp.array([2, 0, 1])] + noise)
    wanted = jax.jit(jax.grad(lambda args: jnp.sum(fixed_point(tanh, jnp.zeros((3, 5)), args, 1).z)))(args)
    np.testing.assert_allclose(found, wanted[0], **tol)


def test_no_arguments_and_python_numbers():
    eq = fixed_point(lambda z, args: 0.5 * z + 1, 0.0)
    np.testing.assert_allclose(eq.z, 2.0, rtol=1e-5)
    assert eq.steps.shape == ()
    eq = fixed_point(lambda z, args: {"a": 0.5 * z["a"] + args}, {"a": 0.0}, 3)
    np.testing.assert_allclose(eq.z["a"], 6.0, rtol=1e-5)


def test_numpy_doubles_follow_the_precision_of_the_session(dtype, arguments):
    """Without x64 they become float32 at the door, and no warning is given."""
    A, phi = (np.asarray(leaf, np.float64) for leaf in arguments())
    eq = fixed_point(tanh, np.zeros((3, 5)), (A, phi), 1)
    assert eq.z.dtype == dtype
    assert eq.residual.dtype == dtype


@pytest.mark.parametrize("half", [jnp.float16, jnp.bfloat16])
def test_half_precision(half, arguments):
    """Tolerances and norms are those of the dtype; states whose squares overflow it are solved."""
    A, phi = arguments()
    exact = fixed_point(tanh, jnp.zeros((3, 5)), (A, phi), 1).z
    eq = fixed_point(tanh, jnp.zeros((3, 5), half), (A.astype(half), phi.astype(half)), 1)
    assert eq.z.dtype == eq.residual.dtype == half
    np.testing.assert_allclose(eq.z.astype(jnp.float32), exact, atol=16 * float(jnp.finfo(half).eps))
    large = fixed_point(lambda z, phi: 0.5 * z + phi, jnp.zeros(5, half), jnp.full(5, 1e3, half))
    np.testing.assert_allclose(large.z.astype(jnp.float32), 2e3, rtol=0.1)


@pytest.mark.parametrize("half", [jnp.float16, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_half_precision_gradient(half, arguments):
    A, phi = arguments()
    gradient = jax.jit(jax.grad(lambda A, phi: jnp.sum(fixed_point(tanh, 0 * phi, (A, phi), 1).z)))
    found, exact = gradient(A.astype(half), phi.astype(half)), gradient(A, phi)
    assert found.dtype == half
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=0.2, atol=0.2)


@pytest.mark.usefixtures("x64")
def test_leaves_of_two_precisions():
    """The tolerance is that of the less precise leaf; no leaf changes its dtype."""
    guess = {"a": jnp.zeros(3, jnp.float32), "b": jnp.zeros(2, jnp.float64)}

    def f(z, _):
        return {"a": jnp.cos(z["a"]), "b": 0.5 * jnp.cos(z["b"])}

    eq = fixed_point(f, guess)
    assert eq.z["a"].dtype == jnp.float32
    assert eq.z["b"].dtype == jnp.float64
    assert eq.succeeded
    np.testing.assert_allclose(eq.z["a"], 0.739085, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_complex_states(tol_solve):
    """`z = i z / 2 + conj(z) / 4 + phi`: linear over the reals only, with derivatives as JAX defines them."""
    phi = jnp.array([1 + 2j, -1j, 0.5])

    def f(z, phi):
        return 0.5j * z + 0.25 * jnp.conj(z) + phi

    def solved(phi):
        eq = fixed_point(f, jnp.zeros(3, complex), phi)
        return jnp.sum(jnp.abs(eq.z) ** 2 + jnp.real(eq.z))

    def reference(phi):
        z, _ = jax.lax.scan(lambda z, _: (f(z, phi), None), jnp.zeros(3, complex), length=150)
        return jnp.sum(jnp.abs(z) ** 2 + jnp.real(z))

    assert fixed_point(f, jnp.zeros(3, complex), phi).residual.dtype == jnp.float64
    for transform in (jax.grad, lambda g: lambda phi: jax.jvp(g, (phi,), (phi * 1j,))[1]):
        np.testing.assert_allclose(transform(solved)(phi), transform(reference)(phi), **tol_solve)


@pytest.mark.parametrize("adjoint", [ImplicitAdjoint, ReverseAdjoint])
def test_arrays_and_tracers_in_a_method(adjoint, arguments, tol):
    """Tolerances that are arrays, concrete or traced, in derivatives as well."""
    A, phi = arguments()

    def gradient(rtol):
        method = Method(Picard(rtol), adjoint(Neumann(rtol)))
        return jax.grad(lambda A: jnp.sum(fixed_point(tanh, jnp.zeros((3, 5)), (A, phi), 1, method).z))(A)

    wanted = gradient(1e-6)
    np.testing.assert_allclose(gradient(jnp.array(1e-6)), wanted, **tol)
    np.testing.assert_allclose(jax.jit(gradient)(1e-6), wanted, **tol)
    assert not jnp.allclose(jax.jit(gradient)(1e-1), wanted, **tol)


def test_no_derivative_with_respect_to_a_tolerance(arguments):
    A, phi = arguments()

    def loss(rtol):
        method = Method(Picard(rtol), ImplicitAdjoint(Neumann(rtol)))
        return jnp.sum(fixed_point(tanh, jnp.zeros((3, 5)), (A, phi), 1, method).z)

    assert jax.grad(loss)(1e-3) == 0


def test_method_as_an_argument_of_a_filtered_jit(arguments):
    A, phi = arguments()
    steps = eqx.filter_jit(lambda method: fixed_point(tanh, jnp.zeros((3, 5)), (A, phi), 1, method).steps)
    loose, tight = steps(Method(Picard(jnp.array(1e-2)))), steps(Method(Picard(jnp.array(1e-6))))
    assert (loose < tight).all()


def test_donated_guess_in_a_scan_of_solves(arguments, tol):
    """A user's training step: nested jit, warm starts carried by a scan, buffers donated."""
    A, phi = arguments()

    @jax.jit
    def inner(z, args):
        return fixed_point(tanh, z, args, 1).z

    @eqx.filter_jit(donate="all")
    def run(z, A, phi):
        def step(carry, scale):
            z, A = carry
            z, pull = jax.vjp(lambda A: inner(z, (A, scale * phi)), A)
            return (z, A - 0.1 * pull(z)[0]), None

        return jax.lax.scan(step, (z, A), jnp.linspace(0.5, 1, 4))[0]

    z, B = run(jnp.zeros((3, 5)), A + 0, phi + 0)
    np.testing.assert_allclose(z, jax.block_until_ready(z), **tol)
    assert jnp.isfinite(B).all()
    assert not jnp.allclose(A, B)


def test_unhashable_and_local_functions_of_all_kinds(arguments, tol):
    """Bound methods, partials, `jax.jit`ed and `custom_jvp` functions."""
    A, phi = arguments()
    wanted = fixed_point(tanh, jnp.zeros((3, 5)), (A, phi), 1).z
    module = Cell(A, 1.0)

    @jax.custom_jvp
    def activation(x):
        return jnp.tanh(x)

    @activation.defjvp
    def _(primals, tangents):
        return jnp.tanh(primals[0]), 3.0 * tangents[0]

    maps = [
        (module.__call__, phi),
        (jax.tree_util.Partial(tanh), (A, phi)),
        (jax.jit(tanh), (A, phi)),
        (Cell(A, 1.0, activation), phi),
    ]
    for f, args in maps:
        np.testing.assert_allclose(fixed_point(f, jnp.zeros((3, 5)), args, 1).z, wanted, **tol)
    # The user's own derivative rule survives the closure conversion.
    by_rule = jax.grad(lambda phi: fixed_point(Cell(0 * A, 1.0, activation), 0 * phi, phi, 1).z.sum())(phi)
    np.testing.assert_allclose(by_rule, 3 * np.ones((3, 5)), **tol)


def test_an_equilibrium_inside_an_equilibrium(arguments, tol_solve):
    """The cell of one solve holds another; the gradient goes through both."""
    A, phi = arguments(norm=0.4)

    def nested(A):
        def f(z, A):
            return jnp.tanh(fixed_point(lambda y, _: jnp.tanh(y @ A + z), 0 * phi, None, 1).z @ A + phi)

        return jnp.sum(fixed_point(f, 0 * phi, A, 1).z)

    def loops(A):
        def inner(y, z):
            return jax.lax.fori_loop(0, 40, lambda _, y: jnp.tanh(y @ A + z), y)

        return jnp.sum(jax.lax.fori_loop(0, 40, lambda _, z: jnp.tanh(inner(0 * z, z) @ A + phi), 0 * phi))

    np.testing.assert_allclose(jax.jit(jax.grad(nested))(A), jax.jit(jax.grad(loops))(A), **tol_solve)


@pytest.mark.slow
def test_disabled_jit(arguments, tol):
    A, phi = arguments(n=1, m=2, norm=0.1)
    wanted = fixed_point(tanh, jnp.zeros((1, 2)), (A, phi), 1)
    with jax.disable_jit():
        found = fixed_point(tanh, jnp.zeros((1, 2)), (A, phi), 1, Method())
    np.testing.assert_allclose(found.z, wanted.z, **tol)
    np.testing.assert_array_equal(found.steps, wanted.steps)


def test_abstract_evaluation():
    """`eval_shape` runs nothing and finds the result's form."""
    shape = jax.eval_shape(lambda z: fixed_point(lambda z, _: 0.5 * z, z, None, 1), jnp.zeros((4, 2)))
    assert shape.z.shape == (4, 2)
    assert shape.steps.shape == (4,)
