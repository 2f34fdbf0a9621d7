"""What is traced, how often, and what a compiled solve takes of memory."""

import chex
import jax
import jax.numpy as jnp
import pytest

from implicit_ntk.equilibrium import Method, Picard, ReverseAdjoint, Unrolled, fixed_point

calls = 0


def counted(z, args):
    """A cell that counts how often Python runs it: only while JAX traces."""
    global calls
    calls += 1
    A, phi = args
    return jnp.tanh(z @ A + phi)


@pytest.fixture
def solved(arguments):
    """`fixed_point` of the counted cell at a phi, as everybody would call it."""
    A, phi = arguments()
    return phi, lambda phi: fixed_point(counted, jnp.zeros((3, 5)), (A, phi), batch_ndim=1).z


def traces_of_a_second_call(run, phi) -> int:
    run(phi)
    before = calls
    assert before > 0
    run(phi + 1)
    return calls - before


def test_a_second_call_does_not_retrace(solved):
    phi, z = solved
    assert traces_of_a_second_call(z, phi) == 0


def test_eager_derivatives_do_not_retrace(solved):
    phi, z = solved
    assert traces_of_a_second_call(jax.grad(lambda phi: z(phi).sum()), phi) == 0
    assert traces_of_a_second_call(lambda phi: jax.jvp(z, (phi,), (phi,)), phi) == 0


def test_strong_and_weak_guesses_share_a_trace(arguments):
    """A Python number as a guess is an array of the default float type."""

    def halve(z, args):
        global calls
        calls += 1
        return 0.5 * z + args

    fixed_point(halve, jnp.zeros(()), jnp.ones(()))
    before = calls
    eq = fixed_point(halve, 0.0, jnp.ones(()))
    assert calls == before
    assert not eq.z.weak_type


def test_user_functions_are_traced_once(solved):
    phi, z = solved

    @jax.jit
    @chex.assert_max_traces(1)
    def gradient(phi):
        return jax.grad(lambda phi: jnp.sum(z(phi) ** 2))(phi)

    for shift in range(3):
        gradient(phi + shift)


def temporary_bytes(method: Method, arguments) -> int:
    A, phi = arguments(n=16, m=32)

    def loss(A):
        args = (A, phi)
        return jnp.sum(
            fixed_point(lambda z, a: jnp.tanh(z @ a[0] + a[1]), jnp.zeros_like(phi), args, 1, method).z
        )

    memory = jax.jit(jax.grad(loss)).lower(A).compile().memory_analysis()
    return memory.temp_size_in_bytes


@pytest.mark.parametrize("adjoint", [None, ReverseAdjoint()], ids=["implicit", "reverse"])
def test_memory_does_not_grow_with_iterations(adjoint, arguments):
    kwargs = {} if adjoint is None else {"adjoint": adjoint}
    few, many = (
        temporary_bytes(Method(Picard(max_steps=steps), **kwargs), arguments) for steps in (10, 1000)
    )
    assert few == many


def test_memory_of_unrolling_does(arguments):
    """So that the test above could fail."""
    few, many = (temporary_bytes(Method(adjoint=Unrolled(depth)), arguments) for depth in (10, 100))
    assert many > few + 90 * 16 * 32 * 4
