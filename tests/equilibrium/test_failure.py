"""A failed solve cannot be compiled away: each policy, in each transformation, forward and adjoint.

The cells work elementwise, `z = sigma(rate z + phi)`, with a rate a row, so that all has a closed form.
Solves may take three steps: enough at the rate 1e-4, not at 0.9. The exact solution as a guess lets
the forward solve succeed where the adjoint solve must fail.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import (
    ConvergenceError,
    ImplicitAdjoint,
    JacobianFree,
    Method,
    Neumann,
    Picard,
    ReverseAdjoint,
    Status,
    Unrolled,
    fixed_point,
)

GOOD, BAD = 1e-4, 0.9
PHI = jnp.array([[1.0, -2.0], [0.5, 1.5], [-1.0, 2.0]])
FORWARD, ADJOINT = (
    "the forward solve reached max_steps",
    r"the adjoint \(linear\) solve reached max_steps",
)

# What JAX makes of an error in a compiled program: the second on its fast path, from the second call on.
RUNTIME = (RuntimeError, ValueError)


def linear(z, args):
    """A derivative of this needs no state: here a check that sits on the state alone is dead code."""
    rate, phi = args
    return rate[..., None] * z + phi


def relu(z, args):
    """At a state that is NaN this seems dead and its slopes seem zero."""
    return jax.nn.relu(linear(z, args))


def solution(cell, rate, phi=PHI):
    """The exact equilibrium: where a unit is alive, `phi / (1 - rate)`."""
    return cell(jnp.zeros_like(phi), (rate, phi)) / (1 - rate[:, None])


def slopes(cell, rate, phi=PHI):
    """The exact diagonal of `dz/dphi`."""
    alive = jnp.ones_like(phi) if cell is linear else (phi > 0).astype(phi.dtype)
    return alive / (1 - rate[:, None])


def short(adjoint=ImplicitAdjoint, on_failure="raise") -> Method:
    return Method(Picard(max_steps=3), adjoint(Neumann(max_steps=3)), on_failure)


def transformed(name, cell, method):
    """`(phi, rate, guess) ->` the state, or the diagonal of `dz/dphi` by some transformation."""

    def z(phi, rate, guess):
        return fixed_point(cell, guess, (rate, phi), batch_ndim=phi.ndim - 1, method=method).z

    def by_jvp(phi, rate, guess):
        return jax.jvp(lambda phi: z(phi, rate, guess), (phi,), (jnp.ones_like(phi),))[1]

    def by_jacrev(phi, rate, guess):
        return jnp.diagonal(jax.vmap(jax.jacrev(z))(phi, rate, guess), axis1=1, axis2=2)

    return {
        "call": z,
        "jit": jax.jit(z),
        "jit(grad)": jax.jit(jax.grad(lambda *args: jnp.sum(z(*args)))),
        "jit(jvp)": jax.jit(by_jvp),
        "jit(vmap(jacrev))": jax.jit(by_jacrev),
    }[name]


ALL_GOOD, ONE_BAD, ALL_BAD = (jnp.array(rates) for rates in ([GOOD] * 3, [GOOD, BAD, GOOD], [BAD] * 3))
DERIVATIVES = ["jit(grad)", "jit(jvp)", "jit(vmap(jacrev))"]


@pytest.mark.parametrize("cell", [linear, relu])
@pytest.mark.parametrize("transformation", ["jit", *DERIVATIVES])
def test_raise(transformation, cell, tol_solve):
    run = transformed(transformation, cell, short())
    exact = solution if transformation == "jit" else slopes
    np.testing.assert_allclose(run(PHI, ALL_GOOD, 0 * PHI), exact(cell, ALL_GOOD), **tol_solve)
    for rates in (ONE_BAD, ALL_BAD):
        with pytest.raises(RUNTIME, match=FORWARD):
            jax.block_until_ready(run(PHI, rates, 0 * PHI))
        if transformation != "jit":
            with pytest.raises(RUNTIME, match=ADJOINT):
                jax.block_until_ready(run(PHI, rates, solution(cell, rates)))


@pytest.mark.parametrize("transformation", ["jit(grad)", "jit(vmap(jacrev))"])
def test_raise_with_reverse_adjoint(transformation):
    run = transformed(transformation, linear, short(ReverseAdjoint))
    jax.block_until_ready(run(PHI, ALL_GOOD, 0 * PHI))
    with pytest.raises(RUNTIME, match=FORWARD):
        jax.block_until_ready(run(PHI, ONE_BAD, 0 * PHI))
    with pytest.raises(RUNTIME, match=ADJOINT):
        jax.block_until_ready(run(PHI, ONE_BAD, solution(linear, ONE_BAD)))


@pytest.mark.parametrize("adjoint", [Unrolled(3), Unrolled(), JacobianFree()])
def test_raise_without_a_linear_solve(adjoint):
    run = transformed("jit(grad)", linear, Method(Picard(max_steps=3), adjoint))
    jax.block_until_ready(run(PHI, ALL_GOOD, 0 * PHI))
    with pytest.raises(RUNTIME, match=FORWARD):
        jax.block_until_ready(run(PHI, ONE_BAD, 0 * PHI))


@pytest.mark.parametrize("adjoint", [ImplicitAdjoint(), Unrolled(3), JacobianFree()])
@pytest.mark.parametrize(("rates", "count"), [(ONE_BAD, 1), (ALL_BAD, 3)])
def test_an_eager_call_tells_the_numbers(adjoint, rates, count):
    method = Method(Picard(max_steps=3), adjoint)
    worst = 1 if count == 1 else 0
    with pytest.raises(ConvergenceError) as error:
        fixed_point(linear, 0 * PHI, (rates, PHI), 1, method)
    message = str(error.value)
    assert f"{count} of 3 failed: {FORWARD}" in message
    assert f"problem {worst}: residual" in message
    assert "after 3 steps" in message
    assert "raise max_steps, loosen rtol" in message
    assert "\n" not in message


def test_an_eager_call_says_that_it_met_a_nan():
    phi = PHI.at[2, 0].set(jnp.nan)
    with pytest.raises(ConvergenceError, match=r"1 of 3 failed: .* an infinity or a NaN.*problem 2"):
        fixed_point(linear, 0 * PHI, (ALL_GOOD, phi), 1, short())


def test_eager_derivatives_raise():
    """No `jit` of the user's own; the inputs are traced, or only what the function captured is."""
    with pytest.raises(RUNTIME, match=FORWARD):
        jax.grad(lambda phi: fixed_point(linear, 0 * PHI, (ONE_BAD, phi), 1, short()).z.sum())(PHI)
    for guess, message in ((0 * PHI, FORWARD), (solution(linear, ONE_BAD), ADJOINT)):
        with pytest.raises(RUNTIME, match=message):
            jax.grad(
                lambda phi: fixed_point(
                    lambda z, _: linear(z, (ONE_BAD, phi)), guess, None, 1, short()
                ).z.sum()
            )(PHI)


def test_a_failing_sample_under_vmap_raises():
    def one(rate, phi):
        return fixed_point(linear, jnp.zeros(2), (rate, phi), method=short()).z

    with pytest.raises(RUNTIME, match=FORWARD):
        jax.block_until_ready(jax.vmap(one)(ONE_BAD, PHI))


def test_a_failing_solve_in_a_scan_raises():
    @jax.jit
    def run(rates):
        step = lambda z, rate: (fixed_point(linear, z, (rate, PHI), 1, short()).z, None)  # noqa: E731
        return jax.lax.scan(step, 0 * PHI, rates)[0]

    jax.block_until_ready(run(jnp.stack([ALL_GOOD, ALL_GOOD])))
    with pytest.raises(RUNTIME, match=FORWARD):
        jax.block_until_ready(run(jnp.stack([ALL_GOOD, ONE_BAD])))


@pytest.mark.parametrize("on_failure", ["nan", "report"])
@pytest.mark.parametrize("transformation", DERIVATIVES)
def test_nan_in_the_derivatives_of_the_bad_sample_only(transformation, on_failure, tol_solve):
    """Whether the forward or the adjoint solve failed; dead units of a relu have slope zero for sure."""
    run = transformed(transformation, relu, short(on_failure=on_failure))
    wanted = slopes(relu, ONE_BAD)
    for guess in (0 * PHI, solution(relu, ONE_BAD)):
        found = run(PHI, ONE_BAD, guess)
        np.testing.assert_allclose(found[::2], wanted[::2], **tol_solve)
        assert jnp.isnan(found[1]).all()


@pytest.mark.parametrize("adjoint", [ReverseAdjoint(Neumann(max_steps=3)), Unrolled(3), JacobianFree()])
def test_nan_with_other_adjoints(adjoint):
    run = transformed("jit(grad)", relu, Method(Picard(max_steps=3), adjoint, "nan"))
    found = run(PHI, ONE_BAD, 0 * PHI)
    assert jnp.isfinite(found[::2]).all()
    assert jnp.isnan(found[1]).all()


@pytest.mark.parametrize("jit", [True, False])
def test_nan_and_report_in_the_state(jit, tol_solve):
    """`nan` spoils the state that failed; `report` hands it out, with its status, residual and steps."""
    found = {}
    for on_failure in ("nan", "report"):
        solve = lambda phi: fixed_point(relu, 0 * PHI, (ONE_BAD, phi), 1, short(on_failure=on_failure))  # noqa: E731
        found[on_failure] = (jax.jit(solve) if jit else solve)(PHI)
        np.testing.assert_array_equal(found[on_failure].status, [0, Status.MAX_STEPS, 0])
        np.testing.assert_allclose(found[on_failure].z[::2], solution(relu, ONE_BAD)[::2], **tol_solve)
    assert jnp.isnan(found["nan"].z[1]).all()
    np.testing.assert_allclose(found["report"].z[1], (1 + BAD) * PHI[1], rtol=1e-6)
    np.testing.assert_array_equal(found["report"].steps[1], 3)
    np.testing.assert_allclose(found["report"].residual[1], BAD**2 * np.linalg.norm(PHI[1]), rtol=1e-5)


def test_truncated_unrolling_is_a_failure():
    """A depth below what convergence needs: told as `MAX_STEPS`, with the residual of the state."""
    method = Method(Picard(), Unrolled(3), "report")
    eq = fixed_point(linear, 0 * PHI, (ONE_BAD, PHI), 1, method)
    np.testing.assert_array_equal(eq.status, [0, Status.MAX_STEPS, 0])
    recomputed = np.linalg.norm(linear(eq.z, (ONE_BAD, PHI)) - eq.z, axis=1)
    np.testing.assert_allclose(eq.residual, recomputed, rtol=1e-3, atol=1e-7)
