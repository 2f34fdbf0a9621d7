"""The stopping rule, what is reported of a solve, and that problems of a batch are independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.equilibrium import Method, Neumann, Picard, Status, default_rtol, fixed_point


def elementwise(z, args):
    """`z = rate z + phi`, a rate a row: each row converges at its own pace."""
    rate, phi = args
    return rate[:, None] * z + phi


def offset(z, args):
    """A rotation with a large number added and taken away: it is known to some eps of that number."""
    A, phi, large = args
    return ((z @ A + phi) + large) - large


def rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def norm(x) -> np.ndarray:
    return np.linalg.norm(np.asarray(x), axis=-1)


def by_hand(A, phi, rtol, atol, damping):
    """Row by row: where the documented rule stops Picard, after how many evaluations, at what residual."""
    rows = []
    for row in np.asarray(phi):
        z, steps, converged = np.zeros_like(row), 0, False
        while not converged:
            z = z if steps == 0 else z + np.asarray(damping, z.dtype) * (fz - z)
            fz, steps = np.tanh(z @ np.asarray(A) + row), steps + 1
            converged = norm(fz - z) <= atol + rtol * norm(fz)
        rows.append((z, steps, norm(fz - z)))
    return map(np.stack, zip(*rows, strict=True))


@pytest.mark.parametrize(("rtol", "atol", "damping"), [(None, 0.0, 1.0), (1e-4, 0.0, 0.5), (0.0, 1e-3, 0.5)])
def test_the_rule_is_the_documented_one(dtype, cells, arguments, tol, rtol, atol, damping):
    """Steps and residual are those of the rule on the undamped residual, for each row by itself."""
    A, phi = arguments()
    phi = phi * jnp.array([[1.0], [0.1], [0.01]])
    method = Method(Picard(rtol, atol, damping=damping))
    eq = fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1, method)
    effective = {
        None: {"float32": 1e-6, "float64": 1e-12}[str(dtype)],
        0.0: 4 * np.finfo(dtype).eps,
    }
    z, steps, residual = by_hand(A, phi, effective.get(rtol, rtol), atol, damping)
    np.testing.assert_array_equal(eq.steps, steps)
    np.testing.assert_allclose(eq.z, z, **tol)
    np.testing.assert_allclose(eq.residual, residual, rtol=0.3, atol=tol["atol"])
    assert (eq.status == Status.CONVERGED).all()


def test_the_residual_is_that_of_the_state_handed_out(cells, arguments):
    """In success and in failure, and with damping."""
    A, phi = arguments(norm=0.9)
    for max_steps in (5, 1000):
        method = Method(Picard(1e-3, damping=0.7, max_steps=max_steps), on_failure="report")
        eq = fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1, method)
        recomputed = norm(cells["tanh"](eq.z, (A, phi)) - eq.z)
        np.testing.assert_allclose(eq.residual, recomputed, rtol=1e-2)


def test_default_tolerance():
    assert default_rtol(jnp.float32) == 1e-6
    assert default_rtol(jnp.float64) == 1e-12
    assert default_rtol(jnp.bfloat16) == 8 * float(jnp.finfo(jnp.bfloat16).eps)


def test_max_steps(cells, arguments):
    A, phi = arguments()
    method = Method(Picard(max_steps=4), on_failure="report")
    eq = fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1, method)
    np.testing.assert_array_equal(eq.steps, [4, 4, 4])
    np.testing.assert_array_equal(eq.status, 3 * [Status.MAX_STEPS])
    assert not eq.succeeded.any()


def test_no_tolerance_below_rounding(dtype):
    """`rtol = 0` asks for 4 eps. For `z = z/2 + 1` all is exact, and the k-th residual is `2^(1 - k)`."""
    args = jnp.array([0.5]), jnp.ones((1, 1))
    eq = fixed_point(elementwise, jnp.zeros((1, 1)), args, 1, Method(Picard(rtol=0.0)))
    np.testing.assert_array_equal(eq.status, [Status.CONVERGED])
    np.testing.assert_array_equal(eq.residual, [2 * np.finfo(dtype).eps * 2])
    np.testing.assert_array_equal(eq.steps, [1 - np.log2(4 * np.finfo(dtype).eps)])


def test_the_scale_is_that_of_the_image():
    """`||f(z)||`, not `||z||`: a residual of 0.1 is not within 0.105 of 0.9, though it is of 1."""
    args = jnp.zeros(1), jnp.full((1, 1), 0.9)
    eq = fixed_point(elementwise, jnp.ones((1, 1)), args, 1, Method(Picard(rtol=0.105)))
    np.testing.assert_array_equal(eq.steps, [2])


def test_stalled_at_rounding_is_a_success(dtype):
    """A residual that rounding holds above 4 eps, going round in a cycle, is as good as it gets."""
    A = jnp.asarray(0.95 * rotation(1.0), dtype)
    phi = jnp.array([[1.0, 2.0], [-1.0, 0.5]])
    solver = Picard(rtol=0.0, max_steps=2000)
    eq = fixed_point(offset, jnp.zeros((2, 2)), (A, phi, jnp.float32(30)), 1, Method(solver))
    assert (eq.status == Status.STALLED).any()
    assert eq.succeeded.all()
    np.testing.assert_allclose(eq.z, phi @ np.linalg.inv(np.eye(2) - A), rtol=3000 * np.finfo(dtype).eps)


def spectral(eigenvalues: list[float], angle: float | None = None) -> np.ndarray:
    """A normal 6 x 6 matrix with these eigenvalues, a pair at `+-angle` in place of the first two."""
    D = np.diag([*eigenvalues, *np.linspace(-0.3, 0.3, 6 - len(eigenvalues))])
    if angle is not None:
        D[:2, :2] = eigenvalues[0] * rotation(angle)
    Q, _ = np.linalg.qr(np.sin(np.arange(36.0)).reshape(6, 6) + np.eye(6))
    return Q @ D @ Q.T


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("A", "damping", "factor"),
    [
        # The estimate knows the modulus of an eigenvalue but not its angle: |1 - lambda| / (1 - |lambda|).
        pytest.param(spectral([0.5]), 1.0, 1.0, id="real"),
        pytest.param(spectral([0.95]), 1.0, 1.0, id="real, near the edge"),
        pytest.param(spectral([-0.8]), 1.0, 1.8 / 0.2, id="negative"),
        pytest.param(spectral([0.7, 0.7], 1.0), 1.0, 0.865 / 0.3, id="complex"),
        pytest.param(spectral([0.95, 0.95], 0.2), 1.0, 0.203 / 0.05, id="complex, near the edge"),
        pytest.param(spectral([0.9]), 0.5, 1.0, id="damped"),
        pytest.param(spectral([-1.5]), 0.5, 1.25 / 0.4, id="damped, left of -1"),
    ],
)
def test_error_estimate(cells, arguments, A, damping, factor):
    _, phi = arguments(m=6)
    method = Method(Picard(jnp.asarray(1e-7), damping=damping))
    eq = fixed_point(cells["linear"], jnp.zeros((3, 6)), (jnp.asarray(A), phi), 1, method)
    true = norm(eq.z - phi @ np.linalg.inv(np.eye(6) - A))
    ratio = np.asarray(eq.error) / true
    assert (ratio > 0.8).all(), ratio
    assert (ratio < 1.25 * factor).all(), ratio


@pytest.mark.usefixtures("x64")
def test_error_estimate_of_an_oscillating_residual():
    """Eigenvectors far from orthogonal: the residual falls by fits and starts, the estimate is rougher."""
    S = np.diag([8.0, 1.0])
    A = jnp.asarray(S @ (0.95 * rotation(0.3)) @ np.linalg.inv(S))
    phi = jnp.stack([jnp.cos(jnp.arange(8.0)), jnp.sin(jnp.arange(8.0))], axis=1)
    eq = fixed_point(lambda z, args: z @ A + phi, jnp.zeros((8, 2)), None, 1)
    ratio = np.asarray(eq.error) / norm(eq.z - phi @ np.linalg.inv(np.eye(2) - A))
    assert (ratio > 1 / 20).all(), ratio
    assert (ratio < 20).all(), ratio


def test_warm_start_takes_one_step_and_knows_no_error(cells, arguments):
    """After one evaluation no rate was seen: the error is unknown, so infinite; zero if exact."""
    A, phi = arguments()
    cold = fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, phi), 1, Method(Picard(rtol=1e-4)))
    warm = fixed_point(cells["tanh"], cold.z, (A, phi), 1, Method(Picard(rtol=1e-4)))
    np.testing.assert_array_equal(warm.steps, [1, 1, 1])
    np.testing.assert_array_equal(warm.z, cold.z)
    np.testing.assert_allclose(warm.residual, cold.residual, rtol=1e-2)
    assert np.isinf(warm.error).all()
    exact = fixed_point(cells["tanh"], jnp.zeros_like(phi), (A, 0 * phi), 1, Method(Picard(rtol=1e-4)))
    np.testing.assert_array_equal(exact.steps, [1, 1, 1])
    assert not exact.error.any()


def test_batch_mates_do_not_matter(x64, key, tol):
    """A row alone takes the steps, and gets the status and state, that it gets among others."""
    rate = jnp.array([0.1, 0.95, 0.5, 1.5, 0.0])
    phi = jax.random.normal(key, (5, 4)).at[4].set(0)
    method = Method(Picard(max_steps=2000), on_failure="report")
    batch = fixed_point(elementwise, jnp.ones((5, 4)), (rate, phi), 1, method)
    assert len(set(batch.steps.tolist())) == 5
    for i in range(5):
        alone = fixed_point(elementwise, jnp.ones((1, 4)), (rate[i : i + 1], phi[i : i + 1]), 1, method)
        assert alone.steps[0] == batch.steps[i]
        assert alone.status[0] == batch.status[i]
        np.testing.assert_allclose(alone.z[0], batch.z[i], rtol=tol["rtol"])
        np.testing.assert_allclose(alone.residual[0], batch.residual[i], rtol=1e-2)


def test_vmap_and_batch_axes_agree(key, tol):
    rate, phi = jnp.array([0.1, 0.9, 0.5]), jax.random.normal(key, (3, 4))
    batch = fixed_point(elementwise, jnp.zeros((3, 4)), (rate, phi), 1)
    one = jax.vmap(lambda rate, phi: fixed_point(lambda z, _: rate * z + phi, jnp.zeros(4)))(rate, phi)
    np.testing.assert_array_equal(one.steps, batch.steps)
    np.testing.assert_array_equal(one.status, batch.status)
    np.testing.assert_allclose(one.z, batch.z, **tol)


def test_nan_and_divergence_are_told_from_slowness():
    """Row by row: solved, NaN in the input, infinity in the input, diverging, merely slow."""
    rate = jnp.array([0.5, 0.5, 0.5, 3.0, 0.999])
    phi = jnp.ones((5, 4)).at[1, 2].set(jnp.nan).at[2, 0].set(jnp.inf)
    method = Method(Picard(max_steps=1000), on_failure="report")
    eq = fixed_point(elementwise, jnp.zeros((5, 4)), (rate, phi), 1, method)
    wanted = [Status.CONVERGED, *3 * [Status.NONFINITE], Status.MAX_STEPS]
    np.testing.assert_array_equal(eq.status, wanted)
    np.testing.assert_array_equal(eq.steps[1:3], [1, 1])


def test_an_overflowing_scale_is_no_convergence():
    """`||f(z)||` overflows in float32 where the residual does not; an infinite threshold accepts all."""
    guess = jnp.full((1, 4), 3e38)
    method = Method(on_failure="report")
    eq = fixed_point(elementwise, guess, (jnp.ones(1), jnp.full((1, 4), 1e34)), 1, method)
    np.testing.assert_array_equal(eq.status, [Status.NONFINITE])


def test_damping_reaches_left_of_minus_one():
    args = jnp.array([-1.5]), jnp.ones((1, 4))
    plain = fixed_point(elementwise, jnp.zeros((1, 4)), args, 1, Method(on_failure="report"))
    damped = fixed_point(elementwise, jnp.zeros((1, 4)), args, 1, Method(Picard(damping=0.5)))
    np.testing.assert_array_equal(plain.status, [Status.NONFINITE])
    np.testing.assert_allclose(damped.z, 0.4 * np.ones((1, 4)), rtol=1e-5)


def test_traced_and_per_problem_tolerances(cells, arguments):
    A, phi = arguments()

    @jax.jit
    def steps(rtol):
        guess = jnp.zeros_like(phi)
        return fixed_point(cells["tanh"], guess, (A, phi), 1, Method(Picard(rtol))).steps

    loose, tight = steps(jnp.full(3, 1e-2)), steps(jnp.full(3, 1e-5))
    mixed = steps(jnp.array([1e-2, 1e-5, 1e-2]))
    assert (loose < tight).all()
    np.testing.assert_array_equal(mixed, [loose[0], tight[1], loose[2]])


def test_adjoint_solve_is_relative_to_its_right_hand_side(dtype, arguments, rows):
    """Rows scaled by powers of two, whose squares under- or overflow: the same digits, in each."""
    A, rhs = arguments()
    exponent = 100 if dtype == np.float32 else 900
    scale = jnp.ldexp(jnp.ones(3, dtype), jnp.array([0, -exponent, exponent]))
    rhs = jnp.broadcast_to(rhs[:1], rhs.shape)
    eq = rows(Neumann(), A, scale[:, None] * rhs)
    assert eq.succeeded.all()
    np.testing.assert_array_equal(eq.steps, 3 * [eq.steps[0]])
    for got in (eq.z / scale[:, None], eq.residual / scale, eq.error / scale):
        np.testing.assert_array_equal(got, np.broadcast_to(np.asarray(got)[:1], got.shape))


def test_adjoint_absolute_tolerance_is_in_the_units_of_the_right_hand_side(arguments, rows):
    A, rhs = arguments()
    eq = rows(Neumann(rtol=0.0, atol=1e-1), A, 1e3 * rhs)
    finer = rows(Neumann(rtol=0.0, atol=1e-2), A, 1e3 * rhs)
    assert (eq.residual <= 1e-1).all()
    assert (eq.residual > 1e-3).all()
    assert (finer.steps > eq.steps).all()


def test_adjoint_warm_start(arguments, rows):
    A, rhs = arguments()
    cold = rows(Neumann(), A, rhs)
    warm = rows(Neumann(), A, rhs, cold.z)
    np.testing.assert_array_equal(warm.steps, [1, 1, 1])
    np.testing.assert_array_equal(warm.z, cold.z)
