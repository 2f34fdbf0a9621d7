"""What holds of the package as a whole: imports, precision, compilation."""

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import implicit_ntk as ink

X = np.array([[1.0, -0.5, 0.3], [0.2, 0.4, -2.0]])
KINDS = ("outer", "autodiff", "dense")
PUBLIC = (
    *("AbstractNetwork", "Centred", "ReluImplicit", "init", "load", "save", "solve", "trainable"),
    *("Equilibrium", "Method", "Picard", "Neumann", "Status", "ConvergenceError", "fixed_point"),
    *("ImplicitAdjoint", "ReverseAdjoint", "Unrolled", "JacobianFree"),
    *("GMRES", "BiCGStab", "LU", "Iterated", "Anderson", "Broyden", "Newton", "Auto", "choose"),
    *("MixedPicard", "Chord", "ForwardBackward", "PeacemanRachford", "convergence"),
    *("jacobian", "ntk", "ntk_blocks", "ntk_trace", "ntk_diagonal", "kernel_tiles", "ntk_into"),
    *("kernel_operator", "spectrum", "block_spectra", "alignment", "kernel_drift", "infinite_width"),
    *("device_mesh", "spread_network", "spread_rows", "spread_local_rows"),
    *("ReluImplicitFull", "MonotoneImplicit", "ConvImplicit", "WeightTied", "from_functions"),
    *("jacobian_penalty", "spectral_radius", "norm_ablations"),
    *("gradient_flow", "Euler", "Exponential", "linearized_flow", "predict", "Trajectory"),
    *("KrylovExponential", "Heun", "RK4", "Adaptive", "path_kernel", "regime", "Scaled"),
    *("gradient_descent", "SquareLoss", "CrossEntropy", "largest_step", "linearized_descent"),
    *("taylor", "deviation"),
)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_brings_little_and_changes_nothing() -> None:
    """No plotting, no data, no command line, no flag of JAX's, no device."""
    code = """
import sys, jax
before = dict(jax.config.values)
import implicit_ntk
assert dict(jax.config.values) == before, "a flag of JAX's was changed"
jax.config.update("jax_num_cpu_devices", 2)  # which JAX refuses once a device is taken
unwanted = ("matplotlib", "sklearn", "tyro", "rich", "scipy.io", "diffrax", "optax",
            *(f"implicit_ntk.{name}" for name in ("data", "plotting", "cli", "experiments")))
print([name for name in unwanted if name in sys.modules])
"""
    assert run(code) == "[]\n"


def test_public_names() -> None:
    for name in PUBLIC:
        assert hasattr(ink, name), name
    assert callable(ink.jacobian), "the function, not the package of its name"
    assert ink.__version__.count(".") == 2


def network(centred: bool = False, **options: Any) -> ink.AbstractNetwork:
    options = {"trained": ("A", "W", "b"), "activation": "tanh", **options}
    net = ink.ReluImplicit.init(jax.random.key(0), 3, 12, **options)
    return ink.Centred(net) if centred else net


@pytest.mark.usefixtures("quick_compilation")
class TestPrecision:
    """Every product carries its precision: the highest, or what `Method(precision=...)` asks for."""

    @staticmethod
    def entries(net: Any, method: ink.Method | None) -> dict[str, Callable[[Any], Any]]:
        """Functions of the network."""
        J = {kind: ink.jacobian(net, X, method=method, kind=kind) for kind in KINDS}
        r, v = jnp.ones(2), eqx.filter(net, ink.trainable(net))
        loss = lambda net: jnp.sum(net(X, method) ** 2)  # noqa: E731
        found = {
            "solve": lambda net: ink.solve(net, X, method=method).z,
            "call": lambda net: net(X, method),
            "grad": jax.grad(loss),
            "jvp": lambda net: jax.jvp(loss, (net,), (net,)),
            "hessian": lambda net: jax.jvp(jax.grad(loss), (net,), (net,)),
            "kernel's grad": jax.grad(lambda net: ink.ntk(net, X, method=method).sum()),
            "adjoint": lambda net: ink.jacobian(net, X, method=method).linearization.adjoint.z,
        }
        for kind in KINDS:
            found[f"ntk {kind}"] = lambda net, kind=kind: ink.ntk(net, X, X[:1], method=method, kind=kind)
            found[f"mv {kind}"] = lambda _, kind=kind: J[kind].mv(v)
            found[f"rmv {kind}"] = lambda _, kind=kind: J[kind].rmv(r)
            found[f"gram {kind}"] = lambda _, kind=kind: J[kind].gram()
        return found

    @pytest.mark.parametrize(
        ("precision", "want", "centred"),
        [
            (None, lax.Precision.HIGHEST, False),
            (None, lax.Precision.HIGHEST, True),
            ("high", lax.Precision.HIGH, False),
            pytest.param("default", lax.Precision.DEFAULT, False, marks=pytest.mark.slow),
        ],
    )
    def test_every_product(
        self, products: Callable, precision: str | None, want: lax.Precision, centred: bool
    ) -> None:
        method = None if precision is None else ink.Method(precision=precision)
        net = network(centred)
        for name, entry in self.entries(net, method).items():
            found = products(jax.make_jaxpr(entry)(net))
            assert found, f"{name}: no product found"
            for eqn in found:
                assert eqn.params["precision"] == (want, want), f"{name}: {eqn}"


@pytest.mark.usefixtures("quick_compilation")
class TestCompilation:
    """The second call of a public entry neither traces nor compiles."""

    @staticmethod
    def entries(net: Any, J: Any) -> dict[str, Callable[[], Any]]:
        r, v, z = jnp.ones(2), eqx.filter(net, ink.trainable(net)), ink.solve(net, X).z
        return {
            "call": lambda: net(X),
            "solve": lambda: ink.solve(net, X),
            "solve with options": lambda: ink.solve(net, X, method=ink.Method(on_failure="nan")),
            "jacobian": lambda: ink.jacobian(net, X, method=net.default_method()),
            "ntk": lambda: ink.ntk(net, X),
            "cross": lambda: ink.ntk(net, X, X),
            "blocks": lambda: ink.ntk_blocks(net, X),
            "mv": lambda: J.mv(v),
            "rmv": lambda: J.rmv(r),
            "gram": lambda: J.gram(),
            "warm": lambda: z,
        }

    @pytest.mark.parametrize("centred", [False, True])
    def test_second_call(self, centred: bool, caplog: pytest.LogCaptureFixture) -> None:
        net = network(centred)
        for name, entry in self.entries(net, ink.jacobian(net, X)).items():
            jax.block_until_ready(entry())
            caplog.clear()
            with jax.log_compiles(), caplog.at_level(logging.WARNING):
                jax.block_until_ready(entry())
            noise = [r.getMessage() for r in caplog.records if "jax" in r.name]
            assert not noise, f"{name}: {noise[0]}"

    def test_other_weights_are_not_traced_again(self, caplog: pytest.LogCaptureFixture) -> None:
        ink.ntk(network(), X)
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            ink.ntk(eqx.tree_at(lambda net: net.A, network(), network().A * 0.9), 2 * X)
        assert not [r for r in caplog.records if "_ntk" in r.getMessage()]

    def test_the_log_tells(self, caplog: pytest.LogCaptureFixture) -> None:
        """So that the tests above are not green for want of a log."""
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
        assert any("Finished tracing" in r.getMessage() for r in caplog.records)
