"""The flow under `jit` and `vmap`, compiled once, every product in full precision; and any network flows."""

import dataclasses
from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.dynamics import assemble, linearized_flow, pose, segment, start

pytestmark = pytest.mark.usefixtures("quick_compilation")

UNITS = (0.0, 1.0, 2.5)


def test_vmap_over_seeds(x64: None, problem: Callable) -> None:
    """A stack of networks flows at once, each with its own step, as each alone."""
    problems = [problem(seed=seed) for seed in (1, 2, 3)]
    p = problems[0]
    times = p.times(*UNITS)
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(q.net for q in problems))
    steps = jnp.asarray([0.3 * q.unit for q in problems])

    def flow(net: ink.AbstractNetwork, dt: jax.Array) -> tuple:
        traj = ink.gradient_flow(net, p.X, p.y, times, ink.Euler(dt), p.X_test)
        return traj.u, traj.f, traj.metrics, traj.net.A

    together = jax.jit(jax.vmap(flow))(stack, steps)
    for k, q in enumerate(problems):
        alone = flow(q.net, steps[k])
        for found, want in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            if want.dtype == times.dtype:
                assert_allclose(found[k], want, atol=1e-9)
            else:
                assert jnp.array_equal(found[k], want)


def test_failure_of_one_seed_under_vmap(x64: None, problem: Callable) -> None:
    """The policy `nan` keeps the others; `raise` raises."""
    p = problem(seed=1)
    times, dt = p.times(*UNITS), 0.3 * p.unit
    stack = jax.tree.map(lambda a: jnp.stack([a, a]), p.net)
    stack = eqx.tree_at(lambda net: net.gamma, stack, stack.gamma * jnp.asarray([1.0, 4.0]))

    def flow(net: ink.AbstractNetwork, policy: str) -> jax.Array:
        return ink.gradient_flow(net, p.X, p.y, times, ink.Euler(dt), method=ink.Method(on_failure=policy)).u

    u = jax.vmap(lambda net: flow(net, "nan"))(stack)
    assert np.isfinite(u).all(axis=(1, 2)).tolist() == [True, False]
    with pytest.raises((RuntimeError, ValueError), match="the forward solve"):
        jax.block_until_ready(eqx.filter_jit(jax.vmap(lambda net: flow(net, "raise")))(stack))


def test_no_second_trace(x64: None, problem: Callable) -> None:
    """Other numbers of the same form cost no compilation: the cell is traced in the first run alone."""
    traces = []

    def counted(x: jax.Array) -> jax.Array:
        traces.append(1)
        return jnp.tanh(x)

    p = problem(seed=1, activation=counted)
    q = dataclasses.replace(p, net=dataclasses.replace(p.net, A=0.9 * p.net.A), y=-p.y)
    p.flow(p.times(*UNITS), ink.Euler(jnp.asarray(0.3 * p.unit)))
    first = len(traces)
    assert first > 0
    q.flow(p.times(0.0, 0.7, 2.0), ink.Euler(jnp.asarray(0.2 * p.unit)))
    p.flow(p.times(*UNITS), ink.Euler(jnp.asarray(0.3 * p.unit)))
    assert len(traces) == first


@pytest.mark.parametrize("precision", [None, "default"])
def test_every_product_carries_its_precision(problem: Callable, precision: str | None) -> None:
    """Highest, unless the method asks for less: in steps, dense output, records and by segments."""
    p = problem(seed=1, trained=("A", "W", "b"))
    method = ink.Method(precision=precision)
    times, integrator = jnp.asarray(p.times(*UNITS), jnp.float32), ink.Euler(0.3 * p.unit, ramp=0.5)

    def flow(net: ink.AbstractNetwork) -> list:
        return jax.tree.leaves(p.flow(np.asarray(times), integrator, method=method), is_leaf=eqx.is_array)

    def segments(net: ink.AbstractNetwork) -> list:
        posed = pose(net, p.X, p.y, p.X_test, p.y_test, method)
        state, rec = segment(posed, integrator, start(posed, integrator), times[1])
        records = jax.tree.map(lambda leaf: leaf[None], rec)
        return jax.tree.leaves(assemble(posed, integrator, times[1:2], state, records))

    want = lax.Precision.DEFAULT if precision else lax.Precision.HIGHEST
    for run in (flow, segments):
        found = list(_precisions(jax.make_jaxpr(run)(p.net).jaxpr))
        assert len(found) > 20
        assert set(found) == {(want, want)}


def test_every_product_of_the_twin_is_in_full_precision() -> None:
    def twin(H: jax.Array, y: jax.Array, k0: jax.Array, f0: jax.Array) -> tuple:
        lin = linearized_flow(H, 0 * y, y)
        return lin(1.0), lin(jnp.ones(2)), lin.at(1.0, k0, f0), lin.limit(k0, f0)

    jaxpr = jax.make_jaxpr(twin)(jnp.eye(3), jnp.ones(3), jnp.ones((2, 3)), jnp.ones(2))
    found = list(_precisions(jaxpr.jaxpr))
    assert len(found) >= 8
    assert set(found) == {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}


def _precisions(jaxpr: jax.extend.core.Jaxpr) -> Iterator:
    """The precision of each matrix product, those inside loops and calls too."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn.params["precision"]
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _precisions(getattr(inner, "jaxpr", inner))


def _is_jaxpr(value: object) -> bool:
    return isinstance(value, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr)


class TwoLayers(ink.AbstractNetwork):
    """A user's own network: a pair of states, no gradient factors, so that its Jacobian is autodiff."""

    A: jax.Array
    B: jax.Array
    c: jax.Array
    trained: tuple[str, ...] = eqx.field(static=True, default=("A", "c"))

    @property
    def in_size(self) -> int:
        return self.B.shape[0]

    @property
    def width(self) -> int:
        return self.B.shape[1]

    def inject(self, X: jax.Array) -> jax.Array:
        return X @ self.B

    def initial_state(self, phi: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.zeros_like(phi), jnp.zeros_like(phi)

    def cell(self, z: tuple, phi: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, y = z
        return jnp.tanh(y @ self.A + phi), jnp.tanh(x) / 2

    def readout(self, z: tuple, phi: jax.Array) -> jax.Array:
        return (z[0] + z[1]) @ self.c

    def contraction(self) -> jax.Array:
        return jnp.linalg.norm(self.A, 2)


def test_a_network_of_the_users(x64: None, problem: Callable, by_hand: Callable, euler: Callable) -> None:
    """A network that knows nothing of outer products flows like the loop by hand."""
    rng = np.random.default_rng(0)
    m = 6
    net = TwoLayers(
        A=jnp.asarray(rng.normal(size=(m, m)) / (3 * np.sqrt(m))),
        B=jnp.asarray(rng.normal(size=(3, m))),
        c=jnp.asarray(rng.normal(size=m) / np.sqrt(m)),
    )
    p = dataclasses.replace(problem(seed=1), net=net)
    dt = 0.02
    traj = p.flow(np.array([0.0, 2.5 * dt, 4 * dt]), euler(dt))
    nets = by_hand(p, 4 * [dt])
    half = jax.tree.map(lambda a, b: (a + b) / 2, nets[2], nets[3])
    assert_allclose(traj.u, [net(p.X) for net in (nets[0], half, nets[4])], atol=1e-10)
    assert_allclose(traj.f, [net(p.X_test) for net in (nets[0], half, nets[4])], atol=1e-10)
    for name in ("A", "B", "c"):
        assert_allclose(getattr(traj.net, name), getattr(nets[4], name), atol=1e-10)
    assert_allclose(traj.metrics["distance_c"][-1], np.linalg.norm(nets[4].c - net.c), atol=1e-10)
    loose = p.flow(np.array([0.0, 2.5 * dt, 4 * dt]), euler(dt, solver_share=0.05))
    assert 0 < np.abs(loose.u - traj.u).max() < 1e-3
