"""Shapes, dtypes and options are refused at the door, in one line that names the argument."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from implicit_ntk.equilibrium import (
    ImplicitAdjoint,
    Method,
    Neumann,
    Picard,
    ReverseAdjoint,
    Unrolled,
    fixed_point,
)


@pytest.fixture(autouse=True)
def annotations_unchecked() -> Iterator[None]:
    """As for a user, whose types nobody checks before the package does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def same(z, args):
    return z


def solve(f=same, z0=jnp.zeros((3, 5)), batch_ndim=1, **kwargs):
    return fixed_point(f, z0, None, batch_ndim, **kwargs)


def refuse_to_run(z, args):
    raise AssertionError("the function was called before the arguments were checked")


GUESSES = {
    "integers": (jnp.arange(3), TypeError, r"z0 .* floating-point .* int32; .*astype"),
    "Python integer": (3, TypeError, r"z0 .* got 3; "),
    "booleans": (np.ones(3, bool), TypeError, "z0 .* got bool"),
    "key": (jax.random.key(0), TypeError, "z0 .* got key"),
    "text": ("zero", TypeError, "z0 .* got 'zero'"),
    "mixed": ([jnp.zeros(3), jnp.arange(3)], TypeError, "z0 .* got int32"),
    "None": (None, ValueError, "z0 holds no arrays; pass a guess"),
    "empty dict": ({}, ValueError, "z0 holds no arrays; pass a guess"),
    "empty batch": (jnp.zeros((0, 5)), ValueError, r"z0 is an empty batch, .*\(0,\); pass"),
    "mates": (
        [jnp.zeros((3, 5)), jnp.zeros((4, 5))],
        ValueError,
        r"z0.*batch_ndim=1.*\(3,\), \(4,\)",
    ),
    "scalar leaf": (
        [jnp.zeros((3, 5)), jnp.zeros(())],
        ValueError,
        r"z0.*batch_ndim=1.*\(\), \(3,\)",
    ),
}
MAPS = {
    "not callable": (3, TypeError, r"f must be callable as f\(z, args\), got 3"),
    "structure": (lambda z, _: [z], ValueError, "f must return the structure of z0, .* got "),
    "nothing": (lambda z, _: None, ValueError, "f must return the structure of z0, .* got "),
    "shape": (lambda z, _: z[:, :4], ValueError, r"float32\[3, 5\] to float32\[3, 4\]; reshape"),
    "dtype": (lambda z, _: z.astype(jnp.float16), ValueError, r"float32\[3, 5\] to float16.*cast"),
    "number": (lambda z, _: 0.5, TypeError, "f must return arrays, got 0.5; wrap"),
}
OPTIONS = {
    "rtol negative": (
        lambda: Picard(rtol=-1e-3),
        ValueError,
        r"rtol must lie in \[0, 1\), got -0.001",
    ),
    "rtol one": (lambda: Picard(rtol=1.0), ValueError, "rtol"),
    "rtol nan": (lambda: Picard(rtol=float("nan")), ValueError, "rtol .* got nan; pass None"),
    "rtol text": (lambda: Picard(rtol="1e-3"), ValueError, "rtol .* got '1e-3'"),
    "rtol True": (lambda: Picard(rtol=True), ValueError, "rtol .* got True"),
    "rtol array": (lambda: Picard(rtol=jnp.array([0.1, 2.0])), ValueError, "rtol"),
    "rtol NumPy": (lambda: Picard(rtol=np.float32(2)), ValueError, "rtol"),
    "atol negative": (
        lambda: Picard(atol=-1.0),
        ValueError,
        "atol must be finite .* got -1.0; pass 0.0",
    ),
    "atol infinite": (lambda: Picard(atol=float("inf")), ValueError, "atol"),
    "atol None": (lambda: Picard(atol=None), ValueError, "atol .* got None; pass 0.0"),
    "max_steps zero": (
        lambda: Picard(max_steps=0),
        ValueError,
        "max_steps must be a positive integer, got 0",
    ),
    "max_steps float": (lambda: Picard(max_steps=10.0), ValueError, "max_steps .* got 10.0"),
    "max_steps True": (lambda: Picard(max_steps=True), ValueError, "max_steps .* got True"),
    "damping zero": (
        lambda: Picard(damping=0.0),
        ValueError,
        r"damping must lie in \(0, 1\], got 0.0; 1 is",
    ),
    "damping two": (lambda: Picard(damping=2), ValueError, "damping"),
    "damping text": (lambda: Picard(damping="half"), ValueError, "damping .* got 'half'"),
    "damping array": (lambda: Picard(damping=jnp.array(0.5)), ValueError, "damping"),
    "Neumann rtol": (lambda: Neumann(rtol=2.0), ValueError, "rtol"),
    "Neumann atol": (lambda: Neumann(atol=-2.0), ValueError, "atol"),
    "Neumann max_steps": (lambda: Neumann(max_steps=-1), ValueError, "max_steps"),
    "depth": (lambda: Unrolled(0), ValueError, "depth must be a positive integer, got 0"),
    "depth float": (lambda: Unrolled(2.5), ValueError, "depth .* got 2.5"),
    "linear solver": (
        lambda: ImplicitAdjoint(3),
        TypeError,
        r"linear_solver .* Neumann\(\), got 3",
    ),
    "its class": (
        lambda: ReverseAdjoint(Neumann),
        TypeError,
        r"linear_solver .* Neumann\(\), got <class",
    ),
    "solver": (lambda: Method(solver="picard"), TypeError, r"solver .* Picard\(\), got 'picard'"),
    "solver class": (lambda: Method(Picard), TypeError, r"solver .* Picard\(\), got <class"),
    "adjoint": (
        lambda: Method(adjoint=Picard()),
        TypeError,
        r"adjoint .* ImplicitAdjoint\(\), got Picard",
    ),
    "on_failure": (
        lambda: Method(on_failure="warn"),
        ValueError,
        r"on_failure .*\('raise', .* got 'warn'",
    ),
    "precision": (
        lambda: Method(precision="double"),
        ValueError,
        "precision must be None or one of .*'double'",
    ),
    "batch_ndim": (
        lambda: solve(batch_ndim=-1),
        ValueError,
        "batch_ndim must be an integer >= 0, got -1",
    ),
    "batch_ndim float": (lambda: solve(batch_ndim=1.0), ValueError, "batch_ndim"),
    "batch_ndim large": (lambda: solve(batch_ndim=3), ValueError, r"z0.*batch_ndim=3.*\(3, 5\)"),
    "method": (
        lambda: solve(method=Picard()),
        TypeError,
        r"method must be a Method .*Picard\(\)\), got Picard",
    ),
    "method text": (lambda: solve(method="raise"), TypeError, "method"),
}


def assert_refused(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("z0", "error", "message"), GUESSES.values(), ids=GUESSES)
def test_guess(z0, error, message):
    assert_refused(lambda: solve(refuse_to_run, z0), error, message)


@pytest.mark.parametrize(("f", "error", "message"), MAPS.values(), ids=MAPS)
def test_function(f, error, message):
    assert_refused(lambda: solve(f), error, message)


@pytest.mark.parametrize(("call", "error", "message"), OPTIONS.values(), ids=OPTIONS)
def test_option(call, error, message):
    assert_refused(call, error, message)


@pytest.mark.parametrize("kind", [Picard, Neumann, Method, ImplicitAdjoint, Unrolled, solve])
def test_misspelt_keyword(kind):
    with pytest.raises(TypeError, match="tolerance"):
        kind(tolerance=1e-3)


def test_a_checked_guess_works_under_jit():
    """The checks look at no values."""
    with pytest.raises(TypeError, match=r"z0 .* int32"):
        jax.jit(lambda z0: solve(z0=z0).z)(jnp.ones((3, 5), jnp.int32))
    jax.jit(lambda z0: solve(z0=z0).z)(jnp.ones((3, 5)))
