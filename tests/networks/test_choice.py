"""`choose`, and `Auto()`, which asks for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_ntk as ink


def relu(key, gamma0):
    return ink.ReluImplicit.init(key, 4, 64, gamma0=gamma0)


def kinds(choice):
    return type(choice.solver).__name__, type(choice.linear_solver).__name__


@pytest.mark.parametrize(
    ("gamma0", "solver", "word"),
    [(0.3, "Picard", "certified: it contracts"), (0.8, "Picard", "not certified"), (1.2, "Chord", "edge")],
)
def test_relu_by_the_certificate(key, gamma0, solver, word):
    choice = ink.choose(relu(key, gamma0))
    assert kinds(choice)[0] == solver and word in choice.reason
    assert f"{float(relu(key, gamma0).contraction()):.3g}" in choice.reason
    assert str(choice).startswith(solver) and choice.reason in str(choice)


def test_monotone_by_its_norms(key):
    wide = ink.MonotoneImplicit.init(key, 4, 64)
    choice = ink.choose(wide)
    assert kinds(choice) == ("PeacemanRachford", "Iterated") and "monotone" in choice.reason
    best = float(wide.lipschitz()) ** -0.5
    assert best / 2**0.25 <= choice.solver.alpha <= best * 2**0.25
    assert choice.solver == ink.choose(ink.MonotoneImplicit.init(key, 4, 64, scale=0.58)).solver
    assert kinds(ink.choose(ink.MonotoneImplicit.init(key, 4, 64, scale=0.1)))[0] == "Picard"
    assert kinds(ink.choose(ink.MonotoneImplicit.init(key, 4, 64, activation="tanh")))[0] == "Anderson"


def test_a_cell_that_nothing_is_known_of(key):
    net = ink.ConvImplicit.init(key, (4, 4, 1), channels=8, inner_channels=8, groups=2)
    assert kinds(ink.choose(net)) == ("Anderson", "GMRES")


def test_wrappers(key):
    monotone = ink.MonotoneImplicit.init(key, 4, 64)
    assert ink.choose(ink.Centred(monotone)) == ink.choose(monotone)
    assert kinds(ink.choose(ink.Centred(relu(key, 1.2))))[0] == "Chord"
    assert "nothing is solved" in ink.choose(ink.WeightTied(monotone, 3)).reason


def test_auto_is_the_choice(key, rng):
    """Seen from the step counts: those of the chord, not of Picard; and in the adjoint alike."""
    net, X = relu(key, 1.0), rng.normal(size=(3, 4)).astype(np.float32)
    auto, chosen = ink.Method(solver=ink.Auto()), ink.choose(net).method
    np.testing.assert_array_equal(ink.solve(net, X, auto).steps, ink.solve(net, X, chosen).steps)
    assert int(ink.solve(net, X).steps.max()) > int(ink.solve(net, X, auto).steps.max())
    J, K = (ink.jacobian(net, X, method).linearization for method in (auto, chosen))
    np.testing.assert_array_equal(J.adjoint.steps, K.adjoint.steps)
    assert auto.on_failure == net.resolve(auto).on_failure


def test_auto_lends_what_was_asked_for(key, rng):
    """Its tolerances to the solver; and a linear solver that was named stays."""
    auto = ink.Auto(rtol=1e-2, max_steps=7)
    method = relu(key, 1.0).resolve(ink.Method(auto, ink.ImplicitAdjoint(ink.LU())))
    assert isinstance(method.solver, ink.Chord) and isinstance(method.adjoint.linear_solver, ink.LU)
    assert (method.solver.rtol, method.solver.max_steps) == (1e-2, 7)
    unrolled = ink.MonotoneImplicit.init(key, 4, 64).resolve(ink.Method(auto, ink.Unrolled(3)))
    assert isinstance(unrolled.solver, ink.Anderson)


def test_auto_keeps_an_adjoint_that_solves_nothing(key):
    method = ink.Method(solver=ink.Auto(), adjoint=ink.JacobianFree())
    assert isinstance(relu(key, 0.3).resolve(method).adjoint, ink.JacobianFree)


def test_auto_inside_a_transformation(key, rng):
    """The certificate cannot be read there; the solve goes on all the same."""
    net, X = relu(key, 0.4), jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
    found = jax.jit(lambda net: net(X, ink.Method(solver=ink.Auto())))(net)
    np.testing.assert_allclose(found, net(X), rtol=1e-5, atol=1e-6)


def test_auto_without_a_network(x64):
    f = lambda z, a: jnp.cos(a * z)  # noqa: E731
    eq = ink.fixed_point(f, jnp.ones(2), jnp.asarray([1.0, 0.5]), 1, ink.Method(solver=ink.Auto()))
    np.testing.assert_allclose(eq.z, jnp.cos(jnp.asarray([1.0, 0.5]) * eq.z), rtol=1e-11)
