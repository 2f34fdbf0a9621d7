"""Gradient descent against loops by hand, its losses against formulas, and its discrete twin."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from numpy.testing import assert_allclose, assert_array_equal

import implicit_ntk as ink
from implicit_ntk.dynamics.descent._descent import _reported
from implicit_ntk.dynamics.descent._step import Batches

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
SGD = optax.sgd(optax.piecewise_constant_schedule(0.03, {3: 0.5}))
REPORT = ink.Method(on_failure="report")
TRACES = []


def counted(x: jax.Array) -> jax.Array:
    """A relu that counts how often it is traced."""
    TRACES.append(1)
    return jnp.maximum(x, 0)


def descend(p, y: jax.Array, steps: int = 6, records: tuple[int, ...] = (0, 2, 6)) -> ink.Trajectory:
    """One program serves all."""
    return ink.gradient_descent(
        p.net, p.X, y, SGD, steps, X_test=p.X_test, y_test=p.y_test, records=records, method=REPORT
    )


def test_equals_a_loop_by_hand(problem: Callable, by_hand: Callable) -> None:
    """Plain steps with a schedule, all numbers of the trajectory; and no second compilation."""
    p = problem(seed=1, activation=counted)
    traj = descend(p, p.y)
    first = len(TRACES)
    again = descend(dataclasses.replace(p, net=dataclasses.replace(p.net, A=0.9 * p.net.A)), -p.y, 9, (0, 1))
    assert len(TRACES) == first and again.steps == 9
    nets = by_hand(p, 3 * [0.03] + 3 * [0.015])
    at, y, y_test = [nets[k] for k in (0, 2, 6)], np.asarray(p.y), np.asarray(p.y_test)
    u, f = (np.stack([net(X) for net in at]) for X in (p.X, p.X_test))
    assert_array_equal(traj.times, [0, 2, 6])
    assert_allclose(traj.u, u, **CLOSE)
    assert_allclose(traj.f, f, **CLOSE)
    assert_allclose(traj.net.A, at[-1].A, **CLOSE)
    assert_allclose(traj.loss, np.sum((u - y) ** 2, axis=1) / 2, **CLOSE)
    want = {
        "train_error": np.mean(u * y < 0, axis=1),
        "test_error": np.mean(f * y_test < 0, axis=1),
        "test_loss": np.sum((f - y_test) ** 2, axis=1) / 2,
        "distance_A": [np.linalg.norm(net.A - p.net.A) for net in at],
    }
    for name, values in want.items():
        assert_allclose(traj.metrics[name], values, **CLOSE)
    assert traj.metrics["steps"].tolist() == [0, 2, 6] and traj.status <= ink.Status.STALLED
    assert 0 < traj.forward_evaluations < 6 * 40 and 0 < traj.adjoint_evaluations < 6 * 40


def test_solves_start_from_the_last_states(problem: Callable) -> None:
    """With nothing to learn a step finds what the one before it found: an evaluation or two each."""
    p = problem(seed=1, activation=counted)
    traj = descend(p, p.net(p.X), records=(0, 1, 6))
    for name in ("forward_evaluations", "adjoint_evaluations"):
        none, first, all_ = traj.metrics[name].tolist()
        assert none == 0 and first > 20
        assert all_ - first <= 10


def test_steps_that_are_too_long(problem: Callable) -> None:
    """The run fails where it cannot go on, with the number of the step and what helps."""
    p = problem(seed=1, activation=counted)
    traj = descend(p, 200 * p.y)
    assert traj.status > ink.Status.STALLED and traj.steps < 6
    assert np.isfinite(traj.loss[0]) and np.isnan(traj.loss[-1])
    assert np.isfinite(traj.net.A).all()
    with pytest.raises(
        ink.ConvergenceError, match=rf"^after step {traj.steps}: the solve along the descent .*"
    ) as no:
        _reported(traj, ink.Method())
    assert "take shorter steps (largest_step); on_failure='report' returns" in str(no.value)
    assert _reported(traj, ink.Method(on_failure="nan")) is traj


def test_minibatches_of_classes(problem: Callable) -> None:
    """Momentum on the softmax of three outputs, by hand: the rows that the key says, `ReverseAdjoint`."""
    p = problem(seed=1, n=5, m=12, outputs=(3,), trained=("A", "b"))
    labels, key, momentum = (
        np.array([0, 1, 2, 0, 1], np.uint8),
        jax.random.key(3),
        optax.sgd(0.05, momentum=0.9),
    )
    method = ink.Method(adjoint=ink.ReverseAdjoint())
    traj = ink.gradient_descent(
        p.net, p.X, labels, momentum, 4, 2, key, ink.CrossEntropy(), p.X_test, np.array([0, 1, 2]), [0, 4]
    )
    params, frozen = eqx.partition(p.net, ink.trainable(p.net))

    @jax.jit
    def update(params, memory, X, y):
        def loss(params):
            u = eqx.combine(params, frozen)(X, method)
            return 5 / 2 * jnp.sum(optax.losses.softmax_cross_entropy_with_integer_labels(u, y))

        updates, memory = momentum.update(jax.grad(loss)(params), memory)
        return optax.apply_updates(params, updates), memory

    memory, batches = momentum.init(params), Batches(key, 2)
    for k in range(4):
        rows = batches.rows(jnp.int32(k), 5)
        params, memory = update(params, memory, p.X[rows], labels[rows])
    net = eqx.combine(params, frozen)
    assert_allclose(traj.net.A, net.A, **CLOSE)
    assert_allclose(traj.net.b, net.b, **CLOSE)
    u, f = traj.u[-1], traj.f[-1]
    assert_allclose(u, net(p.X), **CLOSE)
    for value, error, out, y in (
        (traj.loss[-1], traj.metrics["train_error"][-1], u, labels),
        (traj.metrics["test_loss"][-1], traj.metrics["test_error"][-1], f, np.array([0, 1, 2])),
    ):
        logs = scipy.special.log_softmax(np.asarray(out), axis=1)
        assert_allclose(value, -logs[np.arange(len(y)), y].sum(), **CLOSE)
        assert_allclose(error, np.mean(np.argmax(out, axis=1) != y))


def test_line_search(problem: Callable) -> None:
    """A step that would be far too long is cut until the loss falls, which the optimiser asks for."""
    p = problem(seed=1, activation=counted)
    search = optax.chain(
        optax.sgd(1e3 * p.unit), optax.scale_by_backtracking_linesearch(20, decrease_factor=0.5)
    )
    traj = ink.gradient_descent(p.net, p.X, p.y, search, 6, records=[0, 1, 2, 3, 6])
    assert (np.diff(traj.loss) < 0).all() and traj.loss[1] < 0.8 * traj.loss[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_quasi_newton(problem: Callable, dtype: np.dtype) -> None:
    """L-BFGS with its line search equals optax's own loop; in float32, too, where x64 is on."""
    p = problem(seed=1, activation="tanh")
    net, X, y = jax.tree.map(lambda x: x.astype(dtype), (p.net, p.X, p.y))
    optimizer = optax.lbfgs()
    traj = ink.gradient_descent(net, X, y, optimizer, 5)
    A = p.net.A
    memory = optimizer.init(A)

    def loss(A: jax.Array) -> jax.Array:
        return jnp.sum((dataclasses.replace(p.net, A=A)(p.X) - p.y) ** 2) / 2

    for _ in range(5):
        value, slope = jax.value_and_grad(loss)(A)
        updates, memory = optimizer.update(slope, memory, A, value=value, grad=slope, value_fn=loss)
        A = A + updates
    assert traj.net.A.dtype == dtype
    assert_allclose(traj.net.A, A, atol=1e-7 if dtype == jnp.float64 else 1e-2)
    assert loss(A) < 0.3 * traj.loss[0]


@pytest.mark.slow
def test_a_linear_network_is_its_twin(problem: Callable) -> None:
    """One that trains its read-out alone: `(I - eta H)^k`, on the data and on unseen data."""
    p = problem(seed=1, trained=("b",))
    records, eta = np.array([0, 1, 7, 40]), 1.5 * p.unit
    traj = ink.gradient_descent(p.net, p.X, p.y, optax.sgd(eta), 40, X_test=p.X_test, records=records)
    lin = ink.linearized_descent(ink.ntk(p.net, p.X), p.net(p.X), p.y, eta)
    assert_allclose(traj.u, lin(records), **CLOSE)
    assert_allclose(traj.f, lin.at(records, ink.ntk(p.net, p.X_test, p.X), p.net(p.X_test)), **CLOSE)


def test_an_epoch_sees_every_sample_once() -> None:
    """In an order of its own; what is left over is another sample every time."""
    batches = Batches(jax.random.key(0), 3)
    rows = np.array([batches.rows(jnp.int32(k), 9) for k in range(6)]).reshape(2, 9)
    assert (np.sort(rows, axis=1) == np.arange(9)).all()
    assert (rows[0] != rows[1]).any()
    seen = np.array([batches.rows(jnp.int32(k), 7) for k in range(20)]).reshape(10, 6)
    assert all(len(set(epoch)) == 6 for epoch in seen)
    assert {*np.ravel(seen)} == set(range(7))


LOSSES = {
    "square": (ink.SquareLoss(), (3,), np.array([1.0, -2.0, 0.3])),
    "logistic": (ink.CrossEntropy(), (), np.array([1.0, -1.0, 1.0, -1.0])),
    "softmax": (ink.CrossEntropy(), (3,), np.array([0, 2, 1, 2])),
}


@pytest.mark.parametrize("case", LOSSES)
def test_losses(case: str, rng: np.random.Generator) -> None:
    """Value, derivative and curvature, by SciPy and NumPy."""
    loss, out, y = LOSSES[case]
    if case == "square":
        y = rng.normal(size=(4, 3))
    u = 2 * rng.normal(size=(4, *out))
    targets = loss.targets(y, 4, out, jnp.float64)
    want = {
        "square": lambda: (0.5 * np.sum((u - y) ** 2), u - y),
        "logistic": lambda: (np.sum(np.log1p(np.exp(-y * u))), -y * scipy.special.expit(-y * u)),
        "softmax": lambda: (
            -scipy.special.log_softmax(u, axis=1)[np.arange(4), y].sum(),
            scipy.special.softmax(u, axis=1) - np.eye(3)[y],
        ),
    }[case]()
    assert_allclose(loss.value(jnp.asarray(u), targets), want[0], rtol=1e-12)
    assert_allclose(loss.slope(jnp.asarray(u), targets), want[1], atol=1e-12)
    hessian = jax.jit(jax.hessian(lambda v: loss.value(v, targets[:1])))
    shape = (1, *out)
    worst = max(
        np.linalg.norm(hessian(jnp.asarray(v)).reshape(np.size(v), np.size(v)), 2)
        for v in [
            np.zeros(shape),
            *(rng.normal(size=(5, *shape)) * 2),
            -40.0 * np.eye(1, 3, 2) if out else u[:1],
        ]
    )
    assert loss.curvature(out) * 0.6 < worst <= loss.curvature(out) + 1e-12
    assert np.isfinite(loss.value(jnp.full((4, *out), 1e4), targets))


def test_largest_step(problem: Callable) -> None:
    """The reciprocal of the largest eigenvalue, and the bound, by the loss's curvature."""
    p = problem(seed=1)
    found = ink.largest_step(p.net, p.X)
    assert_allclose([found.suggested, found.bound], [p.unit, 2 * p.unit], rtol=1e-7)
    logistic = ink.largest_step(p.net, p.X, ink.CrossEntropy())
    assert_allclose(logistic.bound, 8 * p.unit, rtol=1e-7)


@eqx.filter_jit
def everything_of(lin, k: jax.Array, k0: jax.Array, f0: jax.Array) -> tuple:
    """What the twin says of many steps, compiled once."""
    return lin(k), lin.at(k, k0, f0), lin.weights(k)


class TestTwin:
    """`uhat_k = y - (I - eta H)^k (y - u0)`, by matrix powers and by the sum of the steps."""

    N, Q = 6, 2

    @pytest.fixture
    def data(self) -> tuple[np.ndarray, ...]:
        """`H, u0, y, k0, f0`."""
        rng = np.random.default_rng(1)
        basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
        H = (basis * np.geomspace(1e-3, 2.0, 6)) @ basis.T
        return H, *rng.normal(size=(2, 6)), rng.normal(size=(2, 6)), rng.normal(size=2)

    @pytest.mark.parametrize("step", [0.02, 0.45, 0.9, 1.1])
    def test_loop(self, data: tuple, step: float) -> None:
        """Every mode, those that change their sign and those that grow among them."""
        H, u0, y, k0, f0 = data
        lin = ink.linearized_descent(H, u0, y, step)
        assert lin.stable == (step < 1)
        u, f, us, fs = u0, f0, [u0], [f0]
        for _ in range(9):
            u, f = u - step * H @ (u - y), f - step * k0 @ (u - y)
            us, fs = [*us, u], [*fs, f]
        found_u, found_f, weights = everything_of(lin, np.arange(10.0), k0, f0)
        assert_allclose(found_u, us, atol=1e-12)
        assert_allclose(found_f, fs, atol=1e-12)
        assert_allclose(weights @ H, us - u0, atol=1e-12)

    def test_limit_and_small_steps(self, data: tuple) -> None:
        H, u0, y, k0, f0 = data
        lin, flow = ink.linearized_descent(H, u0, y, 0.9), ink.linearized_flow(H, u0, y)
        assert_allclose(lin.limit(k0, f0), flow.limit(k0, f0), rtol=1e-9)
        assert_allclose(lin.limit(), y, rtol=1e-12)
        many = ink.linearized_descent(H, u0, y, 1e-5)
        assert_allclose(many.at(200_000, k0, f0), flow.at(2.0, k0, f0), atol=1e-4)

    def test_a_mode_without_kernel(self) -> None:
        """`(1 - (1 - eta lam)^k)/lam -> eta k`, also where `eta lam k` is small."""
        lam = np.array([0.0, 1e-9, 1.0, 1.0, 1.0, 1.0])
        lin = ink.linearized_descent(np.diag(lam), np.zeros(6), np.ones(6), 0.5)
        found = lin.at(4, np.eye(6)[:2], np.zeros(2))
        assert found[0] == 2.0
        assert_allclose((2.0 - found[1]) / 2.0, 1.5 * 0.5e-9, rtol=1e-6)

    def test_slow_modes_in_float32(self) -> None:
        """`1 - eta lam` has lost the digits of `eta lam` that so many steps make count."""
        lam = np.array([1e-4, 1.0], np.float32)
        lin = ink.linearized_descent(np.diag(lam), np.zeros(2), np.ones(2), 0.1)
        assert lin.resolved
        assert_allclose(lin(100_000)[0], -np.expm1(1e5 * np.log1p(-0.1 * float(lam[0]))), rtol=1e-5)
        assert_allclose(lin(100_000), lin.at(100_000, np.diag(lam), np.zeros(2, np.float32)), rtol=1e-5)

    @pytest.mark.usefixtures("unchecked")
    def test_refusals(self, data: tuple) -> None:
        H, u0, y, k0, f0 = data
        lin = ink.linearized_descent(H, u0, y, 1.0)
        for k in (-1, 0.5, [1.0, np.nan]):
            with pytest.raises(ValueError, match="^k must be whole numbers of steps, not negative"):
                lin(np.asarray(k))
        with pytest.raises(ValueError, match="^k must be a scalar or a vector of times"):
            lin(np.ones((2, 2)))
        for call in (lin.limit, lambda: lin.limit(k0, f0)):
            with pytest.raises(ValueError, match="step >= 2/lambda_max diverges; lower it"):
                call()
        singular = ink.linearized_descent(np.diag([0.0, 1, 1, 1, 1, 1]), u0, y, 1.0)
        with pytest.raises(ValueError, match="lambda_min is not resolved.*finite k"):
            singular.limit()
        with pytest.raises(ValueError, match="step must be positive"):
            ink.linearized_descent(H, u0, y, 0.0)


CLASSES = np.zeros(8, int)
BAD = {
    "no optimiser": (dict(optimizer=0.1), TypeError, r"optimizer must be one of optax such as optax.sgd"),
    "steps": (dict(steps=0), ValueError, "steps must be a positive integer"),
    "key alone": (dict(key=jax.random.key(0)), ValueError, "key is for the order of minibatches; pass"),
    "no key": (dict(batch_size=2), ValueError, "batch_size needs a key"),
    "large batch": (dict(batch_size=9, key=0), ValueError, "batch_size=9 is more than the 8 samples"),
    "no loss": (dict(loss="square"), TypeError, "loss must be a loss such as SquareLoss"),
    "records beyond": (dict(records=[0, 11], steps=10), ValueError, "records must be increasing.*steps=10"),
    "records in between": (dict(records=[0.5]), ValueError, "records must be increasing whole"),
    "records repeated": (dict(records=[1, 1]), ValueError, "records must be increasing"),
    "no records": (dict(records=[]), ValueError, "records must be increasing"),
    "classes for the square loss": (dict(y=CLASSES), TypeError, "y must be floating point"),
    "short y": (dict(y=np.ones(7)), ValueError, r"y must have shape \(8,\)"),
    "y_test alone": (dict(y_test=np.ones(3)), ValueError, "y_test needs X_test; pass both"),
    "no signs": (dict(y=np.full(8, 0.5), loss=ink.CrossEntropy()), ValueError, "y must hold -1 and 1"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", BAD)
def test_bad_input(problem: Callable, case: str) -> None:
    """One line, before any work."""
    change, error, message = BAD[case]
    p = problem(seed=1)
    with pytest.raises(error, match=f"^{message}") as caught:
        ink.gradient_descent(p.net, p.X, **(dict(y=p.y, optimizer=SGD) | change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "out", "message"),
    [
        (np.array([0, 3]), (3,), "y must hold classes from 0 to 2"),
        (np.array([0, -1]), (3,), "y must hold classes from 0 to 2"),
        (np.array([0, 1, 2]), (3,), r"y must have shape \(2,\), one class a row"),
        (np.full((2, 3), 0.5), (3,), "y must have rows of shares that sum to one"),
        (np.zeros((2, 1)), (1,), r"CrossEntropy\(\) of one output"),
    ],
)
def test_bad_classes(y: np.ndarray, out: tuple, message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ink.CrossEntropy().targets(y, 2, out, jnp.float64)
