"""Solvers of `x = x A + rhs`, each row by itself, against dense solves."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from implicit_ntk.equilibrium import (
    ADJOINT,
    FORWARD,
    GMRES,
    LU,
    AffineMap,
    Anderson,
    BiCGStab,
    Broyden,
    Chord,
    ImplicitAdjoint,
    Iterated,
    LinearizedAffine,
    Method,
    Neumann,
    Newton,
    Status,
    failure_messages,
    fixed_point,
)

DIRECT = {"GMRES": GMRES(), "BiCGStab": BiCGStab(), "LU": LU()}
ALL = DIRECT | {"Neumann": Neumann(), "Anderson": Iterated(Anderson()), "Broyden": Iterated(Broyden())}
each = pytest.mark.parametrize("linear_solver", ALL.values(), ids=ALL)
direct = pytest.mark.parametrize("linear_solver", DIRECT.values(), ids=DIRECT)


def dense(A, rhs) -> np.ndarray:
    """The solution of `x = x A + rhs` for rows along the last axis."""
    A, rhs = np.asarray(A, float), np.asarray(rhs, float)
    return np.linalg.solve(np.eye(len(A)) - A.T, rhs[..., None])[..., 0]


def norm(x) -> np.ndarray:
    return np.linalg.norm(np.asarray(x), axis=-1)


@each
def test_solution_and_books(dtype, rows, arguments, tol_solve, linear_solver):
    A, rhs = arguments(n=4, m=6, norm=0.7)
    rhs = rhs.at[1].set(0.0)
    eq = rows(linear_solver, A, rhs)
    np.testing.assert_allclose(eq.z, dense(A, rhs), **tol_solve)
    assert eq.z.dtype == eq.residual.dtype == eq.error.dtype == dtype
    np.testing.assert_array_equal(eq.status, 0)
    np.testing.assert_array_equal(eq.steps == 0, [False, True, False, False])
    assert (eq.z[1] == 0).all()
    assert eq.residual[1] == eq.error[1] == 0
    threshold = {"float32": 1e-6, "float64": 1e-12}[str(dtype)] * norm(rhs)
    assert (np.asarray(eq.residual) <= threshold).all()
    np.testing.assert_allclose(
        eq.residual, norm(eq.z @ A + rhs - eq.z), rtol=0.5, atol=tol_solve["atol"] / 100
    )


@pytest.mark.usefixtures("x64")
@direct
def test_no_contraction_is_needed(rows, arguments, linear_solver):
    """Spectral norm 3: the Neumann series diverges, and is stopped early."""
    A, rhs = arguments(n=3, m=6, norm=3.0)
    eq = rows(linear_solver, A, rhs)
    np.testing.assert_allclose(eq.z, dense(A, rhs), rtol=1e-9, atol=1e-9)
    series = rows(Neumann(), 3 * jnp.eye(6), rhs)
    np.testing.assert_array_equal(series.status, Status.DIVERGED)
    assert (series.steps < 20).all()


@pytest.mark.usefixtures("x64")
@each
def test_any_number_of_batch_axes(arguments, linear_solver):
    """None, one, and two, a state of two leaves: always a solution of the same equations."""
    A, rhs = arguments(n=6, m=5)
    wanted = dense(A, rhs)

    def apply(x):
        whole = jnp.concatenate([x["a"], x["b"][..., 0]], axis=-1) @ A
        return {"a": whole[..., :2], "b": whole[..., 2:, None]}

    for shape in ((6,), (2, 3), ()):
        some = rhs[0] if shape == () else rhs.reshape(*shape, 5)
        eq = linear_solver.solve(apply, {"a": some[..., :2], "b": some[..., 2:, None]}, len(shape))
        found = jnp.concatenate([eq.z["a"], eq.z["b"][..., 0]], axis=-1)
        np.testing.assert_allclose(found, wanted[0] if shape == () else wanted.reshape(*shape, 5), atol=1e-10)
        assert eq.status.shape == eq.residual.shape == eq.error.shape == eq.steps.shape == shape


@each
def test_the_scale_of_a_right_hand_side_does_not_matter(rows, arguments, linear_solver):
    """Powers of two far beyond where squares under- and overflow: the same numbers, times the power."""
    A, rhs = arguments(n=3, m=5)
    eq = rows(linear_solver, A, rhs)
    scale = jnp.array([2.0**90, 2.0**-90, 1.0])[:, None]
    scaled = rows(linear_solver, A, scale * rhs)
    np.testing.assert_array_equal(scaled.z, scale * eq.z)
    np.testing.assert_array_equal(scaled.steps, eq.steps)


@each
def test_batch_mates_do_not_matter(rows, arguments, linear_solver):
    """Not even one that is not finite, which gets a status of its own."""
    A, rhs = arguments(n=4, m=5)
    beside = rows(linear_solver, A, rhs.at[2].set(jnp.nan))
    eq = rows(linear_solver, A, rhs)
    np.testing.assert_array_equal(beside.status, [0, 0, Status.NONFINITE, 0])
    others = np.array([0, 1, 3])
    for name in ("z", "residual", "error", "steps"):
        np.testing.assert_array_equal(getattr(beside, name)[others], getattr(eq, name)[others])


@each
def test_a_singular_equation_is_a_failure(rows, linear_solver):
    """`I - J = 0` has no solution: a status says so, and no NaN passes for a success."""
    eq = rows(linear_solver, jnp.eye(3), jnp.ones((2, 3)))
    iterative = isinstance(linear_solver, Neumann | Iterated)
    np.testing.assert_array_equal(eq.status, Status.DIVERGED if iterative else Status.BREAKDOWN)


@pytest.mark.usefixtures("x64")
def test_gmres_on_a_cyclic_shift():
    """The residual does not fall at all before the last of `dim` products, where GCR would break down."""
    m = 6
    shift = jnp.roll(jnp.eye(m), 1, axis=1)
    rhs = jnp.eye(m)[:1]
    eq = GMRES().solve(lambda x: x - x @ shift, rhs, 1)
    np.testing.assert_allclose(eq.z, rhs @ shift.T, atol=1e-14)
    np.testing.assert_array_equal(eq.steps, m + 1)
    short = GMRES(restart=m - 1).solve(lambda x: x - x @ shift, rhs, 1)
    np.testing.assert_array_equal(short.status, Status.BREAKDOWN)


@pytest.mark.usefixtures("x64")
def test_gmres_restarts(rows, arguments):
    A, rhs = arguments(n=3, m=12, norm=0.9)
    eq = rows(GMRES(restart=3), A, rhs)
    np.testing.assert_allclose(eq.z, dense(A, rhs), rtol=1e-9, atol=1e-9)
    assert (eq.steps > 12).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["GMRES", "BiCGStab"])
def test_the_same_solutions_as_lineax(rows, arguments, name):
    A, rhs = arguments(n=3, m=6, norm=1.5)
    peer = {"GMRES": lx.GMRES(1e-12, 1e-12), "BiCGStab": lx.BiCGStab(1e-12, 1e-12)}[name]
    eq = rows(DIRECT[name], A, rhs)
    for x, b in zip(eq.z, rhs, strict=True):
        wanted = lx.linear_solve(lx.MatrixLinearOperator(jnp.eye(6) - A.T), b, peer).value
        np.testing.assert_allclose(x, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["GMRES", "BiCGStab", "Neumann", "Anderson"])
def test_a_guess(rows, arguments, name):
    """The solution costs one product, and zero where the right-hand side is."""
    A, rhs = arguments()
    rhs = rhs.at[1].set(0.0)
    eq = rows(ALL[name], A, rhs, jnp.asarray(dense(A, rhs)).at[1].set(1.0))
    np.testing.assert_array_equal(eq.steps, [1, 0, 1])
    np.testing.assert_array_equal(eq.z[1], 0)


@pytest.mark.parametrize("name", ["GMRES", "BiCGStab", "Anderson"])
def test_max_steps(rows, arguments, name):
    A, rhs = arguments(m=12, norm=0.9)
    limited = {"GMRES": GMRES(max_steps=4), "BiCGStab": BiCGStab(max_steps=4)}
    eq = rows(limited.get(name, Iterated(Anderson(max_steps=4))), A, rhs)
    np.testing.assert_array_equal(eq.status, Status.MAX_STEPS)
    np.testing.assert_allclose(eq.residual, norm(eq.z @ A + rhs - eq.z), rtol=1e-4)
    assert (eq.residual < norm(rhs)).all()


@pytest.mark.usefixtures("x64")
def test_lu_in_tiles(monkeypatch, arguments):
    """Memory for two of five matrices at a time, unit vectors two at a time; then not for one."""
    A, rhs = arguments(n=5, m=6)
    each = 4 * 6 * 6 * 8
    for memory in (2 * each, each):
        monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(memory))
        eq = LU().solve(lambda x: jnp.arange(1.0, 6)[:, None] / 5 * (x @ A), rhs, 1)
        wanted = np.stack([dense(A * (i + 1) / 5, row) for i, row in enumerate(np.asarray(rhs))])
        np.testing.assert_allclose(eq.z, wanted, rtol=1e-12, atol=1e-12)
    monkeypatch.setenv("IMPLICIT_NTK_MEMORY", str(each - 1))
    with pytest.raises(
        MemoryError, match=r"factoring one 6 x 6 matrix needs .* use GMRES\(\) or Neumann\(\)"
    ):
        LU().solve(lambda x: x @ A, rhs, 1)


def test_remedies():
    """Where the map does not contract, each kind of solve is sent to the solvers that do without."""
    position = list(Status).index(Status.DIVERGED) - Status.MAX_STEPS
    assert "use Newton() or Anderson()" in failure_messages(FORWARD)[position]
    assert "use GMRES() or LU()" in failure_messages(ADJOINT)[position]


@pytest.mark.usefixtures("x64")
def test_an_adjoint_that_does_not_contract(cells, arguments):
    """Newton finds an equilibrium that repels; Neumann is refused there, and GMRES right."""
    A, phi = arguments(norm=3.0)

    def loss(phi, linear_solver):
        method = Method(Newton(), ImplicitAdjoint(linear_solver))
        return fixed_point(cells["linear"], 0 * phi, (A, phi), 1, method).z.sum()

    with pytest.raises((RuntimeError, ValueError), match=r"adjoint \(linear\) solve diverged.*use GMRES\(\)"):
        jax.block_until_ready(jax.jit(jax.grad(loss), static_argnums=1)(phi, Neumann()))
    wanted = np.linalg.solve(np.eye(5) - np.asarray(A), np.ones(5))
    found = jax.grad(loss)(phi, GMRES())
    np.testing.assert_allclose(found, np.broadcast_to(wanted, phi.shape), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("unchecked")
def test_options():
    with pytest.raises(ValueError, match="restart must be a positive integer"):
        GMRES(restart=0)
    with pytest.raises(TypeError, match="solver must be a fixed-point solver"):
        Iterated(Neumann())
    with pytest.raises(TypeError, match="must be real for this solver"):
        LU().solve(lambda x: 0.5 * x, jnp.ones((2, 3), complex), 1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("transposed", [False, True])
def test_a_solver_that_needs_the_affine_form(arguments, transposed):
    """Tangents `x = D o (x W) + rhs` and cotangents `p = (D o p) W^T + rhs`, on the linearised cell."""
    A, rhs = arguments(n=3, m=6, norm=0.8)
    slopes = (rhs > 0).astype(rhs.dtype)
    affine = AffineMap(A, jnp.asarray(0.9), rhs, jax.nn.relu, True)
    at = LinearizedAffine(A, jnp.asarray(0.9), slopes, True)
    solver = Iterated(Chord()).prepare(affine, Chord().prepare(affine))
    rhs = rhs.at[1].set(0.0)
    if transposed:
        apply, at = (lambda p: 0.9 * (slopes * p) @ A.T), at.transpose()
    else:
        apply = lambda x: 0.9 * slopes * (x @ A)  # noqa: E731
    assert solver.needs_affine
    eq = solver.solve(apply, rhs, 1, None, at)
    np.testing.assert_allclose(eq.z, LU().solve(apply, rhs, 1).z, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(eq.residual, norm(apply(eq.z) + rhs - eq.z), rtol=0.5, atol=1e-14)
    np.testing.assert_array_equal(eq.status, 0)
    with pytest.raises(ValueError, match="Chord needs a cell of the form"):
        solver.solve(apply, rhs, 1)
