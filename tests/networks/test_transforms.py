"""Every network by every solver, under the five operations that matter most, beside an unrolled loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_ntk as ink

DEPTH = 400
IN_SIZE = 4

SOLVERS = {
    "Picard": ink.Picard(),
    "Anderson": ink.Anderson(),
    "Broyden": ink.Broyden(),
    "Newton": ink.Newton(),
    "MixedPicard": ink.MixedPicard(),
    "Chord": ink.Chord(),
    "ForwardBackward": ink.ForwardBackward(0.8),
    "PeacemanRachford": ink.PeacemanRachford(),
}
AFFINE = ("MixedPicard", "Chord", "ForwardBackward", "PeacemanRachford")
PROJECTIVE = ("ForwardBackward", "PeacemanRachford")


def gated(key):
    """A cell that is none of ours, its state a dictionary."""
    U, V = jax.random.normal(key, (2, IN_SIZE, 3))
    return ink.from_functions(
        {"U": U, "V": V, "w": jnp.asarray([1.0, -2.0, 0.5])},
        inject=lambda p, X: (X @ p["U"], X @ p["V"]),
        cell=lambda p, z, phi: {
            "h": 0.4 * jax.nn.sigmoid(z["g"]) * jnp.tanh(z["h"] + phi[0]),
            "g": 0.4 * jnp.tanh(z["h"] + phi[1]),
        },
        readout=lambda p, z, phi: z["h"] @ p["w"],
        initial_state=lambda p, phi: {"h": jnp.zeros_like(phi[0]), "g": jnp.zeros_like(phi[1])},
        in_size=IN_SIZE,
    )


NETWORKS = {
    "ReluImplicit": lambda key, cell: ink.ReluImplicit.init(
        key, IN_SIZE, 5, activation=cell, trained=("A", "W")
    ),
    "ReluImplicitFull": lambda key, cell: ink.ReluImplicitFull.init(
        key, IN_SIZE, 5, gamma0=0.4, outputs=2, activation=cell
    ),
    "MonotoneImplicit": lambda key, cell: ink.MonotoneImplicit.init(
        key, IN_SIZE, 5, scale=0.4, activation=cell
    ),
    "ConvImplicit": lambda key, cell: ink.ConvImplicit.init(
        key, (2, 2, 1), channels=4, inner_channels=4, groups=1, activation=cell
    ),
    "own": lambda key, cell: gated(key),
    "WeightTied": lambda key, cell: ink.WeightTied(NETWORKS["ReluImplicit"](key, cell), DEPTH),
}
WITHOUT_FORM = ("ConvImplicit", "own", "WeightTied")


def suits(network, solver):
    # From zero, where its norms are steep, these do not always find the convolutional cell's equilibrium.
    lost = network == "ConvImplicit" and solver in ("Broyden", "Newton")
    return not lost and not (network in WITHOUT_FORM and solver in AFFINE)


PAIRS = [(network, solver) for network in NETWORKS for solver in SOLVERS if suits(network, solver)]
# Left for the slow suite: solvers whose linear equations are those of Anderson, and of Chord.
QUICK = {("ReluImplicit", solver) for solver in SOLVERS if solver not in ("Broyden", "ForwardBackward")} | {
    ("ReluImplicitFull", "Chord"), ("MonotoneImplicit", "PeacemanRachford"), ("ConvImplicit", "Anderson"),
    ("own", "Newton"), ("WeightTied", "Picard"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_compilation(quick_compilation):
    """The programs here are many and small and run once."""


def outputs(net, X, method):
    return net(X, method)


def unrolled(net, X, _):
    phi = net.inject(X)
    z = jax.lax.scan(lambda z, _: (net.cell(z, phi), None), net.initial_state(phi), length=DEPTH)[0]
    return net.readout(z, phi)


@eqx.filter_jit
def operations(apply, net, X, method, direction):
    """grad, jvp, vmap of jacrev, Hessian times vector, vmap, by the leaves; one program holds them all."""
    params, static = eqx.partition(net, eqx.is_inexact_array)

    def loss(params, X):
        return jnp.sum(jnp.sin(apply(eqx.combine(params, static), X, method)))

    def row(params, x):
        return apply(eqx.combine(params, static), x[None, :], method)[0]

    gradient = jax.grad(loss)
    return {
        "grad": gradient(params, X),
        "jvp": jax.jvp(lambda p: loss(p, X), (params,), (direction,))[1],
        "vmap of jacrev": jax.vmap(jax.jacrev(row), in_axes=(None, 0))(params, X),
        "hvp": jax.jvp(lambda p: gradient(p, X), (params,), (direction,))[1],
        "vmap": jax.vmap(row, in_axes=(None, 0))(params, X),
    }


@pytest.mark.parametrize(
    ("network", "solver"),
    [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS],
)
def test_the_five_operations(x64, network, solver):
    """The same weights for all solvers of a network, so that the loop beside them is compiled once."""
    rng = np.random.default_rng(0)
    key = jax.random.key(4 if network == "ConvImplicit" else 0)  # that cell may have several equilibria
    net = NETWORKS[network](key, "relu" if solver in PROJECTIVE else "tanh")
    X = jnp.asarray(rng.normal(size=(2, IN_SIZE)))
    direction = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), eqx.filter(net, eqx.is_inexact_array)
    )
    found = operations(outputs, net, X, ink.Method.of(SOLVERS[solver]), direction)
    want = operations(unrolled, net, X, None, direction)
    for name, tree in want.items():
        for got, reference in zip(jax.tree.leaves(found[name]), jax.tree.leaves(tree), strict=True):
            np.testing.assert_allclose(got, reference, rtol=1e-8, atol=1e-9, err_msg=name)
        assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(tree)), name
