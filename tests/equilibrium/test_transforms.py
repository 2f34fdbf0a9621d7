"""The transform matrix: 21 operations on an equilibrium, plain, jitted and vmapped.

Each is compared with the same operation on a plain loop over `f`, which has nothing of the library
in it. All operations of a compiled mode stand in one program, for the sake of time.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, NamedTuple

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
    JacobianFree,
    Method,
    Neumann,
    Newton,
    Picard,
    ReverseAdjoint,
    Unrolled,
    fixed_point,
)

n, m = 3, 4


class Directions(NamedTuple):
    """Tangents of the parameters and a cotangent of the outputs."""

    one: Any
    two: Any
    three: Any
    bar: jax.Array


def along(g: Callable, direction: Any) -> Callable:
    """`theta -> g'(theta) direction`, by `jvp`."""
    return lambda theta: jax.jvp(g, (theta,), (direction,))[1]


def along_gradient(loss: Callable, direction: Any) -> Callable:
    """`theta -> <grad loss(theta), direction>`, by `grad`."""

    def inner(theta):
        products = jax.tree.map(jnp.vdot, jax.grad(loss)(theta), direction)
        return sum(jax.tree.leaves(products))

    return inner


def squared(u: Callable) -> Callable:
    return lambda theta: 0.5 * jnp.sum(u(theta) ** 2)


def trajectory(u: Callable) -> Callable:
    """A loss over three equilibria in a row, each rematerialised in the backward pass."""

    @jax.checkpoint
    def body(theta, s):
        return jax.tree.map(lambda leaf: leaf * (1 + 0.1 * s * jnp.mean(u(theta))), theta), u(theta)

    return lambda theta: jnp.sum(jax.lax.scan(body, theta, jnp.linspace(-1.0, 1.0, 3))[1] ** 2)


def transpose(u: Callable, theta: Any, bar: jax.Array) -> Any:
    return jax.vjp(u, theta)[1](bar)[0]


def kernel_by_jacobian(u: Callable, theta: Any) -> jax.Array:
    """`J J^T`, one reverse pass a sample: `vmap` over `phi`, nothing over the other leaves."""

    def one(phi):
        return jax.jacrev(lambda shared: u(shared | {"phi": phi[None]})[0])(shared)

    shared = {name: leaf for name, leaf in theta.items() if name != "phi"}
    rows = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(jax.vmap(one)(theta["phi"]))]
    return sum(row @ row.T for row in rows)


OPERATIONS: dict[str, Callable[[Callable, Any, Directions], Any]] = {
    "value": lambda u, t, d: u(t),
    "jvp": lambda u, t, d: along(u, d.one)(t),
    "vjp": lambda u, t, d: transpose(u, t, d.bar),
    "grad": lambda u, t, d: jax.grad(squared(u))(t),
    "linearize": lambda u, t, d: jax.linearize(u, t)[1](d.one),
    "jacfwd": lambda u, t, d: jax.jacfwd(u)(t),
    "jacrev": lambda u, t, d: jax.jacrev(u)(t),
    "forward over forward": lambda u, t, d: along(along(u, d.one), d.two)(t),
    "forward over reverse": lambda u, t, d: along(jax.grad(squared(u)), d.one)(t),
    "reverse over forward": lambda u, t, d: jax.grad(along(squared(u), d.one))(t),
    "reverse over reverse": lambda u, t, d: jax.grad(along_gradient(squared(u), d.one))(t),
    "hessian": lambda u, t, d: jax.hessian(squared(u))(t),
    "third, forward thrice": lambda u, t, d: along(along(along(u, d.one), d.two), d.three)(t),
    "third, forward twice over reverse": lambda u, t, d: along(along(jax.grad(squared(u)), d.one), d.two)(t),
    "third, reverse thrice": lambda u, t, d: jax.grad(
        along_gradient(along_gradient(squared(u), d.one), d.two)
    )(t),
    "checkpoint": lambda u, t, d: jax.grad(jax.checkpoint(squared(u)))(t),
    "checkpoint in scan": lambda u, t, d: jax.grad(trajectory(u))(t),
    "transpose of linearize": lambda u, t, d: jax.linear_transpose(jax.linearize(u, t)[1], t)(d.bar),
    "vjp of vjp": lambda u, t, d: jax.vjp(partial(transpose, u, t), d.bar)[1](d.one),
    "kernel by vmap(jacrev)": lambda u, t, d: kernel_by_jacobian(u, t),
    "kernel by jvp of vjp": lambda u, t, d: jax.vmap(lambda bar: along(u, transpose(u, t, bar))(t))(
        jnp.eye(n)
    ),
}
FIRST_ORDER = [
    *("value", "jvp", "vjp", "grad", "linearize", "jacfwd", "jacrev", "checkpoint"),
    *("checkpoint in scan", "transpose of linearize", "vjp of vjp"),
    *("kernel by vmap(jacrev)", "kernel by jvp of vjp"),
]
REVERSE = [
    "value",
    "vjp",
    "grad",
    "jacrev",
    "checkpoint",
    "checkpoint in scan",
    "kernel by vmap(jacrev)",
]


OUTSIDE_A_PROGRAM = {
    *("value", "jvp", "grad", "linearize", "hessian", "third, reverse thrice", "checkpoint in scan"),
    *("transpose of linearize", "kernel by vmap(jacrev)"),
}
"""Each kind of tracer at least once: for the others one program that holds them all is test enough."""


def array_cell(sigma: Callable, z, theta):
    return sigma(z @ theta["A"] + theta["phi"])


def dict_cell(sigma: Callable, z, theta):
    """Two leaves of different trailing shapes that drive each other."""
    c = z["c"].reshape(-1, m)
    return {
        "h": sigma(z["h"] @ theta["A"] + 0.3 * c + theta["phi"]),
        "c": (0.4 * jnp.sin(c) + 0.2 * sigma(z["h"] - theta["phi"])).reshape(-1, 2, 2),
    }


def linear_cell(z, theta):
    """Two leaves; the equation of the second knows no parameter, and all derivatives are constants."""
    return {"h": z["h"] @ theta["A"] + theta["phi"], "c": 0.3 * z["c"] + 0.2 * z["h"].reshape(-1, 2, 2)}


def array_output(z):
    return z @ jnp.arange(1.0, m + 1)


def dict_output(z):
    return array_output(z["h"]) + jnp.sum(z["c"] ** 3, axis=(1, 2))


def array_guess(size):
    return jnp.zeros((size, m))


def dict_guess(size):
    return {"h": jnp.zeros((size, m)), "c": jnp.ones((size, 2, 2))}


class Case(NamedTuple):
    """An implicit network: its cell, its outputs, its guess; and how the parameters reach the cell."""

    cell: Callable
    output: Callable
    guess: Callable
    by_closure: bool = False

    def outputs(self, theta, method: Method):
        guess = self.guess(theta["phi"].shape[0])
        if self.by_closure:
            z = fixed_point(lambda z, _: self.cell(z, theta), guess, None, 1, method).z
        else:
            z = fixed_point(self.cell, guess, theta, 1, method).z
        return self.output(z)

    def reference(self, theta):
        guess = self.guess(theta["phi"].shape[0])
        z, _ = jax.lax.scan(lambda z, _: (self.cell(z, theta), None), guess, length=150)
        return self.output(z)


CASES = {
    "tanh": Case(partial(array_cell, jnp.tanh), array_output, array_guess),
    "relu": Case(partial(array_cell, jax.nn.relu), array_output, array_guess),
    "tanh, dict": Case(partial(dict_cell, jnp.tanh), dict_output, dict_guess),
    "relu, dict": Case(partial(dict_cell, jax.nn.relu), dict_output, dict_guess),
    "linear, dict": Case(linear_cell, dict_output, dict_guess),
    "tanh, closure": Case(partial(array_cell, jnp.tanh), array_output, array_guess, by_closure=True),
}


def parameters(key):
    """Parameters under which every cell above contracts by less than 0.7."""
    key_A, key_phi = jax.random.split(key)
    A = jax.random.normal(key_A, (m, m))
    return {"A": 0.4 * A / jnp.linalg.norm(A, 2), "phi": jax.random.normal(key_phi, (n, m))}


@pytest.fixture
def theta(key):
    return parameters(jax.random.fold_in(key, 0))


@pytest.fixture
def directions(key):
    keys = jax.random.split(jax.random.fold_in(key, 1), 4)
    return Directions(*map(parameters, keys[:3]), jax.random.normal(keys[3], (n,)))


def precise(adjoint, on_failure="raise") -> Method:
    return Method(Picard(rtol=0.0), adjoint, on_failure)


IMPLICIT = precise(ImplicitAdjoint(Neumann(rtol=0.0)))


def table(u: Callable, names: Iterable[str], mode: str) -> Callable:
    """`(theta, directions) ->` the named operations on `u`, in one program where the mode compiles."""

    def evaluate(theta, directions):
        return {name: OPERATIONS[name](u, theta, directions) for name in names}

    if mode == "plain":
        return evaluate
    if mode == "jit":
        return jax.jit(evaluate)
    vmapped = jax.jit(jax.vmap(evaluate, in_axes=(0, None)))
    return lambda theta, directions: vmapped(
        jax.tree.map(lambda leaf: jnp.stack([leaf, 0.7 * leaf]), theta), directions
    )


@cache
def reference(case: str, names: tuple[str, ...], mode: str, dtype: str) -> Callable:
    """The compiled reference; `dtype` is there so that each precision gets its own."""
    return table(CASES[case].reference, names, mode)


def disagreements(found: dict[str, Any], wanted: dict[str, Any], tol: dict[str, float]) -> list[str]:
    """The operations that differ from their reference."""

    def agree(name):
        return jax.tree.map(partial(np.allclose, **tol), found[name], wanted[name])

    return [name for name in found if not jax.tree.all(agree(name))]


def compare(case: str, method: Method, names, mode: str, theta, directions, tol) -> None:
    """Assert that the operations on a network are those on its reference, in value."""
    u = partial(CASES[case].outputs, method=method)
    found = table(u, names, mode)(theta, directions)
    case = case.removesuffix(", closure")
    # Where the program of all operations is compiled anyway, it serves for single ones too.
    if case in ("tanh", "relu") and mode != "vmap" and directions.bar.dtype == "float64":
        mode, names = "jit", OPERATIONS
    wanted = reference(case, tuple(names), mode, str(directions.bar.dtype))(theta, directions)
    assert not disagreements(found, wanted, tol)


def test_there_are_21_operations():
    assert len(OPERATIONS) == 21


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "operation",
    [
        name if name in OUTSIDE_A_PROGRAM else pytest.param(name, marks=pytest.mark.slow)
        for name in OPERATIONS
    ],
)
def test_plain(operation, theta, directions, tol_solve):
    compare("tanh", IMPLICIT, [operation], "plain", theta, directions, tol_solve)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", list(CASES)[1:])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_plain_elsewhere(operation, case, theta, directions, tol_solve):
    compare(case, IMPLICIT, [operation], "plain", theta, directions, tol_solve)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("case", "on_failure"), [("tanh", "raise"), ("relu", "nan")])
def test_jit(case, on_failure, theta, directions, tol_solve):
    method = precise(ImplicitAdjoint(Neumann(rtol=0.0)), on_failure)
    compare(case, method, tuple(OPERATIONS), "jit", theta, directions, tol_solve)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mode", ["jit", "vmap"])
@pytest.mark.parametrize("case", CASES)
def test_jit_and_vmap_everywhere(case, mode, theta, directions, tol_solve):
    compare(case, IMPLICIT, tuple(OPERATIONS), mode, theta, directions, tol_solve)


LINEAR_SOLVERS = {
    "GMRES": GMRES(),
    "BiCGStab": BiCGStab(),
    "LU": LU(),
    "Anderson": Iterated(solver=Anderson()),
    "Broyden": Iterated(solver=Broyden()),
}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("linear_solver", LINEAR_SOLVERS)
@pytest.mark.parametrize("case", ["tanh", "relu"])
def test_every_linear_solver(case, linear_solver, theta, directions, tol_solve):
    method = precise(ImplicitAdjoint(LINEAR_SOLVERS[linear_solver]))
    compare(case, method, tuple(OPERATIONS), "jit", theta, directions, tol_solve)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", [Anderson(), Broyden(), Newton()], ids=["Anderson", "Broyden", "Newton"])
@pytest.mark.parametrize("case", ["tanh", "relu"])
def test_every_solver(case, solver, theta, directions, tol_solve):
    compare(case, Method.of(solver), tuple(OPERATIONS), "jit", theta, directions, tol_solve)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("case", "mode", "names"),
    [
        ("tanh, dict", "jit", ("jvp", "forward over reverse")),
        ("tanh, closure", "jit", ("reverse over forward",)),
        ("tanh, closure", "plain", ("grad",)),
    ],
)
def test_other_states_and_closures(case, mode, names, theta, directions, tol_solve):
    compare(case, IMPLICIT, names, mode, theta, directions, tol_solve)


@pytest.mark.usefixtures("x64")
def test_a_leaf_that_knows_no_parameter(theta, directions, tol_solve):
    """Some right-hand sides are then zero in one leaf only, or altogether, whatever the values."""
    case = CASES["linear, dict"]
    names = ("jacrev", "reverse over forward", "reverse over reverse", "kernel by vmap(jacrev)")
    found = table(partial(case.outputs, method=IMPLICIT), names, "jit")
    wanted = table(case.reference, names, "jit")
    for frozen in theta:
        some = directions._replace(one=directions.one | {frozen: jnp.zeros_like(theta[frozen])})
        assert not disagreements(found(theta, some), wanted(theta, some), tol_solve)


@pytest.mark.parametrize(
    "names",
    [
        ("value", "jvp", "jacrev", "kernel by jvp of vjp"),
        pytest.param(tuple(FIRST_ORDER), marks=pytest.mark.slow),
    ],
    ids=["few", "all"],
)
def test_first_order_in_float32(names, theta, directions, tol_solve):
    compare("tanh", Method(), names, "jit", theta, directions, tol_solve)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("case", "mode"),
    [
        ("relu", "jit"),
        *(pytest.param(case, "vmap", marks=pytest.mark.slow) for case in CASES),
        *(pytest.param(case, "jit", marks=pytest.mark.slow) for case in CASES if case != "relu"),
    ],
)
def test_reverse_adjoint(case, mode, theta, directions, tol_solve):
    """All that a literal `custom_vjp` supports."""
    method = precise(ReverseAdjoint(Neumann(rtol=0.0)))
    compare(case, method, tuple(REVERSE), mode, theta, directions, tol_solve)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("operation", ["grad", "checkpoint"])
def test_reverse_adjoint_plain(operation, theta, directions, tol_solve):
    method = precise(ReverseAdjoint(Neumann(rtol=0.0)))
    compare("tanh", method, [operation], "plain", theta, directions, tol_solve)


@pytest.mark.parametrize("operation", ["jvp", "linearize", "jacfwd"])
def test_reverse_adjoint_has_no_forward_mode(operation, theta, directions):
    u = partial(CASES["tanh"].outputs, method=Method(adjoint=ReverseAdjoint()))
    with pytest.raises(TypeError, match=r"forward-mode autodiff \(jvp\) to a custom_vjp"):
        OPERATIONS[operation](u, theta, directions)


def test_reverse_adjoint_has_no_second_order(theta, directions):
    """JAX says so, in either mode; without care the second derivative would be silently wrong."""
    u = partial(CASES["tanh"].outputs, method=Method(adjoint=ReverseAdjoint()))
    for operation, error in (("forward over reverse", TypeError), ("reverse over reverse", ValueError)):
        with pytest.raises(error, match=r"does not work for lax.while_loop|forward-mode autodiff"):
            OPERATIONS[operation](u, theta, directions)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mode", ["jit", "vmap"])
@pytest.mark.parametrize("case", CASES)
def test_unrolled(case, mode, theta, directions, tol_solve):
    compare(case, precise(Unrolled(150)), tuple(OPERATIONS), mode, theta, directions, tol_solve)


@pytest.mark.usefixtures("x64")
def test_unrolled_a_little(theta, directions, tol_solve):
    names = ("value", "jvp", "forward over reverse", "kernel by vmap(jacrev)")
    compare("tanh", precise(Unrolled(150)), names, "jit", theta, directions, tol_solve)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", ["tanh", pytest.param("relu, dict", marks=pytest.mark.slow)])
def test_jacobian_free_is_one_application_at_the_solution(case, theta, directions, tol_solve):
    """The value is the equilibrium's, the derivative that of `f(z*, theta)` at a constant `z*`."""
    case, names = CASES[case], ("value", "jvp", "vjp", "kernel by vmap(jacrev)")

    def surrogate(theta):
        guess = case.guess(theta["phi"].shape[0])
        z, _ = jax.lax.scan(lambda z, _: (case.cell(z, theta), None), guess, length=150)
        return case.output(case.cell(jax.lax.stop_gradient(z), theta))

    u = partial(case.outputs, method=precise(JacobianFree()))
    found = table(u, names, "vmap")(theta, directions)
    wanted = table(surrogate, names, "vmap")(theta, directions)
    assert not disagreements(found, wanted, tol_solve)


@pytest.mark.usefixtures("x64")
def test_vmap_over_guesses_and_arguments(key, theta, tol_solve):
    """Every guess leads to the same equilibrium, and no derivative flows through a guess."""
    case = CASES["tanh"]
    thetas = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), theta)
    guesses = jax.random.normal(key, (2, n, m))

    def loss(theta, guess):
        return jnp.sum(case.output(fixed_point(case.cell, guess, theta, 1, IMPLICIT).z))

    found = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(thetas, guesses)
    wanted = jax.jit(jax.vmap(jax.grad(lambda theta: jnp.sum(case.reference(theta)))))(thetas)
    assert not disagreements({"theta": found[0]}, {"theta": wanted}, tol_solve)
    assert not found[1].any()


@pytest.mark.usefixtures("x64")
def test_finite_difference(theta, directions, tol_difference):
    """A third route, which shares nothing with automatic differentiation."""
    u, h = jax.jit(partial(CASES["tanh"].outputs, method=IMPLICIT)), 1e-5

    def at(step):
        return u(jax.tree.map(lambda leaf, dot: leaf + step * dot, theta, directions.one))

    found = jax.jvp(u, (theta,), (directions.one,))[1]
    np.testing.assert_allclose(found, (at(h) - at(-h)) / (2 * h), **tol_difference)
