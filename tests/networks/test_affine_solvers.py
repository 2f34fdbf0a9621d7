"""Solvers that live on the form `sigma(z W + offset)`: Chord, MixedPicard and the splittings."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.equilibrium import LinearizedAffine, Map, Method
from implicit_ntk.equilibrium._driver import Iteration, iterate

WIDTH, SAMPLES, IN_SIZE = 12, 4, 3


@pytest.fixture
def batch(rng):
    return rng.normal(size=(SAMPLES, IN_SIZE))


def network(rng, W, activation="relu"):
    """`z = sigma(z W + X V)` as GG22's network, `gamma = 1`."""
    m = W.shape[0]
    return ink.ReluImplicit(
        A=jnp.asarray(W),
        W=jnp.asarray(rng.normal(size=(IN_SIZE, m))),
        b=jnp.asarray(rng.normal(size=m)),
        gamma=jnp.asarray(1.0),
        injection_activation="identity",
        activation=activation,
    )


def contractive(rng):
    W = rng.normal(size=(WIDTH, WIDTH))
    return 0.6 * W / np.linalg.norm(W, 2)


def monotone(rng, mu=1.0):
    """Of norm 4 or so, with `I - sym(W) >= mu I`: Picard diverges."""
    A, B = rng.normal(size=(2, WIDTH, WIDTH)) / WIDTH**0.5
    return (1 - mu) * np.eye(WIDTH) - A.T @ A + 1.5 * (B - B.T)


def exact(net, X):
    """The equilibria by a dense semismooth Newton method, a row at a time, in NumPy."""
    W, m = np.asarray(net.A), net.A.shape[0]
    sigma = {"relu": lambda a: np.maximum(a, 0), "tanh": np.tanh}[net.activation]
    slope = {"relu": lambda a: (a > 0) * 1.0, "tanh": lambda a: 1 - np.tanh(a) ** 2}[net.activation]
    rows = []
    for offset in np.asarray(X) @ np.asarray(net.W):
        z = np.zeros(m)
        for _ in range(60):
            a = z @ W + offset
            z = z + (sigma(a) - z) @ np.linalg.inv(np.eye(m) - W * slope(a)[None, :])
        assert np.linalg.norm(sigma(z @ W + offset) - z) < 1e-12
        rows.append(z)
    return np.array(rows)


def loss(net, X, method):
    return jnp.sum(jnp.sin(net(X, method)))


SOLVERS = {
    "mixed": ink.MixedPicard(),
    "chord": ink.Chord(),
    "chord, low precision": ink.Chord(low_precision=True),
    "peaceman-rachford": ink.PeacemanRachford(),
    "peaceman-rachford, low precision": ink.PeacemanRachford(alpha=1, low_precision=True),
    "forward-backward": ink.ForwardBackward(0.7),
}
SPLITTINGS = {name: s for name, s in SOLVERS.items() if s.needs_projection}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_same_equilibrium_and_gradient(x64, rng, batch, name):
    net, method = network(rng, contractive(rng)), Method.of(SOLVERS[name])
    eq = ink.solve(net, batch, method)
    np.testing.assert_allclose(eq.z, exact(net, batch), atol=1e-11, rtol=0)
    got, want = (eqx.filter_grad(loss)(net, batch, m) for m in (method, None))
    for leaf, reference in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(leaf, reference, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("solver", [ink.MixedPicard(), ink.Chord(activity=0.8)], ids=["mixed", "chord"])
def test_smooth_cells(x64, rng, batch, solver):
    net = network(rng, contractive(rng), "tanh")
    np.testing.assert_allclose(ink.solve(net, batch, Method.of(solver)).z, exact(net, batch), atol=1e-11)
    H = ink.ntk(net, batch, method=Method.of(solver))
    np.testing.assert_allclose(H, ink.ntk(net, batch), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SPLITTINGS)
def test_monotone_weights_where_picard_diverges(x64, rng, batch, name):
    W = monotone(rng)
    assert np.linalg.norm(W, 2) > 2 and np.linalg.eigvalsh(np.eye(WIDTH) - (W + W.T) / 2)[0] > 0.99
    net, solver = network(rng, W), SPLITTINGS[name]
    picard = ink.solve(net, batch, Method(on_failure="report"))
    assert not picard.succeeded.any()
    if isinstance(solver, ink.ForwardBackward):
        solver = ink.ForwardBackward(1 / np.linalg.norm(np.eye(WIDTH) - W, 2) ** 2)
    method = Method.of(solver)
    z = exact(net, batch)
    np.testing.assert_allclose(ink.solve(net, batch, method).z, z, atol=1e-10)
    slopes = (z @ W + batch @ np.asarray(net.W) > 0) * 1.0
    lam = [d * np.linalg.solve(np.eye(WIDTH) - W * d[None, :], net.b / WIDTH**0.5) for d in slopes]
    H = (np.array(lam) @ np.array(lam).T) * (z @ z.T)
    np.testing.assert_allclose(ink.ntk(net, batch, method=method), H, rtol=1e-9)


def test_forward_backward_contracts_at_the_rate_of_the_theorem(x64, rng, batch):
    """`sqrt(1 - 2 alpha mu + alpha^2 L^2)` bounds the fall of the distance to the solution (N22, 2.6)."""
    W = monotone(rng)
    net, L = network(rng, W), np.linalg.norm(np.eye(WIDTH) - W, 2)
    alpha = 1 / L**2
    rate = np.sqrt(1 - 2 * alpha + alpha**2 * L**2)
    z = exact(net, batch)
    steps = 6
    method = Method(solver=ink.ForwardBackward(alpha, max_steps=steps + 1), on_failure="report")
    away = ink.solve(net, batch, method, z0=z + 1.0).z - z
    assert np.all(np.linalg.norm(away, axis=1) <= rate**steps * WIDTH**0.5 * (1 + 1e-12))
    assert np.all(np.linalg.norm(away, axis=1) > 0)


def test_the_residual_is_true_in_float32(rng, key):
    """As NumPy finds it in float64 for the very state, though most products were increments in bfloat16."""
    net = ink.ReluImplicit.init(key, 16, 200, gamma0=0.8)
    X = rng.normal(size=(20, 16)).astype(np.float32)
    offset = np.maximum(X.astype(float) @ np.asarray(net.W, float), 0)
    for solver in (ink.MixedPicard(), ink.Chord(), ink.Chord(low_precision=True)):
        eq = ink.solve(net, X, Method(solver=solver))
        z = np.asarray(eq.z, float)
        image = np.maximum(float(net.gamma) * z @ np.asarray(net.A, float) + offset, 0)
        true = np.linalg.norm(image - z, axis=1)
        rounding = 2e-7 * np.linalg.norm(z, axis=1)
        assert np.all(np.abs(true - np.asarray(eq.residual)) <= rounding), type(solver)
        assert np.all(true <= 1e-6 * np.linalg.norm(image, axis=1) + rounding), type(solver)


def test_low_precision_saves_full_products(x64, rng, batch):
    """Increments in float32, and a full product a few times only: counted as they run."""
    net = network(rng, 1.5 * contractive(rng))
    plain, mixed = (ink.solve(net, batch, Method(solver=s)) for s in (ink.Picard(), ink.MixedPicard()))
    assert int(mixed.steps.max()) <= int(plain.steps.max()) + 2
    full = []
    affine = net.affine(net.inject(jnp.asarray(batch)))

    class Counted(type(affine)):
        def product(self, z):
            jax.debug.callback(lambda: full.append(1))
            return super().product(z)

    counted = Counted(affine.weight, affine.scale, affine.offset, affine.activation, affine.projection)
    solver = ink.MixedPicard()
    run = jax.jit(lambda z: iterate(Iteration(Map(affine, 1, counted), solver, solver.tolerance), z))
    jax.block_until_ready(run(affine.offset))
    jax.effects_barrier()
    assert 2 <= len(full) < int(plain.steps.max()) / 3


@pytest.mark.parametrize("name", ["chord", "peaceman-rachford", "forward-backward", "mixed"])
def test_products_carry_their_precision(rng, batch, products, name):
    """In the rule of a derivative too, which JAX runs outside the context of the solve."""
    net = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), network(rng, contractive(rng)))
    X, method = batch.astype(np.float32), Method.of(SOLVERS[name])
    found = products(jax.make_jaxpr(jax.grad(lambda net: loss(net, X, method)))(net))
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert len(found) > 5 and all(eqn.params["precision"] == highest for eqn in found)


def test_one_factorisation_for_both_solves(x64, rng, batch):
    net = network(rng, contractive(rng))
    for solver in (ink.Chord(), ink.PeacemanRachford()):
        program = jax.make_jaxpr(lambda net, X, m: ink.ntk(net, X, method=m), static_argnums=2)(
            net, jnp.asarray(batch), Method.of(solver)
        )
        assert str(program).count("= lu ") == 1


def test_an_inverse_that_lags_behind(x64, rng, batch):
    """Prepared for other weights, kept along a trajectory: slower, and never wrong."""
    W = contractive(rng)
    net = network(rng, W)
    solver = ink.Chord().prepare(net.affine(net.inject(jnp.asarray(batch))))
    moved = dataclasses.replace(net, A=net.A + 0.05 * rng.normal(size=W.shape))
    method = Method.of(solver)
    np.testing.assert_allclose(ink.solve(moved, batch, method).z, exact(moved, batch), atol=1e-11)
    np.testing.assert_allclose(ink.ntk(moved, batch, method=method), ink.ntk(moved, batch), rtol=1e-10)


def test_the_chord_needs_fewer_steps_near_the_edge(x64, rng):
    net = ink.ReluImplicit.init(jax.random.key(1), 8, 300, gamma0=1.1)
    X = rng.normal(size=(5, 8))
    chord, picard = (ink.solve(net, X, Method(solver=s)).steps for s in (ink.Chord(), ink.Picard()))
    assert np.all(np.asarray(chord) < 0.7 * np.asarray(picard))


def test_linearised_equations(x64, rng):
    """Tangents and cotangents, as dense algebra has them, through the affine form."""
    W, D = rng.normal(size=(5, 5)) / 6, rng.uniform(size=(3, 5))
    rhs = jnp.asarray(rng.normal(size=(3, 5)))
    tangents = LinearizedAffine(jnp.asarray(W), jnp.asarray(2.0), jnp.asarray(D))
    for at in (tangents, tangents.transpose()):
        y = jnp.zeros_like(rhs)
        for _ in range(200):
            y = at.equation(rhs)(y)
        x = np.asarray(at.solution(y, rhs))
        for i in range(3):
            J = 2 * W * D[i][None, :]
            K = np.eye(5) - (J.T if at.transposed else J)
            np.testing.assert_allclose(x[i] @ K, rhs[i], atol=1e-13)
        np.testing.assert_allclose(at.unknown(jnp.asarray(x), rhs), y, atol=1e-13)


def test_forms_that_are_missing(rng, batch, unchecked):
    net = network(rng, contractive(rng), "tanh")
    X = batch.astype(np.float32)
    net = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), net)
    with pytest.raises(ValueError, match=r"^solver: PeacemanRachford needs a cell that is a projection"):
        ink.solve(net, X, Method(solver=ink.PeacemanRachford()))
    with pytest.raises(ValueError, match=r"^solver: Chord needs a cell of the form"):
        ink.fixed_point(lambda z, _: 0.5 * z, jnp.ones(3), method=Method(solver=ink.Chord()))
    with pytest.raises(ValueError, match=r"^adjoint: Unrolled"):
        ink.solve(net, X, Method(solver=ink.Chord(), adjoint=ink.Unrolled(5)))
    for make, value in ((ink.Chord, {"activity": 0}), (ink.PeacemanRachford, {"alpha": -1})):
        with pytest.raises(ValueError, match=r"^(activity|alpha) must"):
            make(**value)


def test_the_step_interval_of_forward_backward_is_open(x64):
    """At `alpha = 2 mu / L^2` itself the map turns errors and does not shrink them (N22, section 2.6)."""
    W = np.eye(2) - np.array([[1.0, 1.0], [-1.0, 1.0]])  # mu = 1, L^2 = 2
    net = dataclasses.replace(
        ink.ReluImplicit.init(jax.random.key(0), 2, 2, activation="identity"),
        **{"A": jnp.asarray(W), "W": jnp.eye(2), "gamma": jnp.asarray(1.0)},
    )
    X = np.array([[1.0, 2.0]])
    at_the_end, inside = (
        ink.solve(net, X, Method(solver=ink.ForwardBackward(alpha), on_failure="report"))
        for alpha in (1.0, 0.9)
    )
    assert not at_the_end.succeeded.any() and inside.succeeded.all()


def test_a_lemma_of_n22_needs_the_slopes(x64):
    """Lemma 3.3.2 bounds `||Q^{-T} u||` by `||u||/mu`: false, and true of `||D Q^{-T} u||`."""
    W, D, u = np.array([[0.0, 10.0], [-10.0, 0.0]]), np.diag([1.0, 0.0]), np.array([1.0, 0.0])
    p = np.linalg.solve(np.eye(2) - D @ W, np.eye(2)).T @ u
    assert np.linalg.norm(p) == pytest.approx(10.05, abs=5e-3)
    assert np.linalg.norm(D @ p) <= 1.0 + 1e-12
