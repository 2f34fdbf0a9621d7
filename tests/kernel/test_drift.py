"""Kernel drift in two norms, of arrays and of operators."""

import equinox as eqx
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import implicit_ntk as ink
from implicit_ntk.kernel import _drift

N, D, M = 6, 3, 8
MANY, PROBES = 24, 16


def moved(net: ink.ReluImplicit, rng: np.random.Generator, by: float) -> ink.ReluImplicit:
    return eqx.tree_at(lambda net: net.A, net, net.A + by * rng.normal(size=(M, M)))


def test_of_arrays(x64: None, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one form traced once, whatever the residual."""
    J = rng.normal(size=(2, N, 2 * N))
    H0, H = J @ J.swapaxes(1, 2)
    found = ink.kernel_drift(H, H0)
    assert_allclose(found.operator, np.linalg.norm(H - H0, 2))
    assert_allclose(found.frobenius, np.linalg.norm(H - H0))
    assert_allclose(found.relative_operator, np.linalg.norm(H - H0, 2) / np.linalg.norm(H0, 2))
    assert_allclose(found.relative_frobenius, np.linalg.norm(H - H0) / np.linalg.norm(H0))
    assert (found.operator_error, found.frobenius_error) == (0, 0)
    assert found.resolved
    flat = ink.kernel_drift(H.reshape(3, 2, 3, 2), H0.reshape(3, 2, 3, 2))
    assert_allclose(flat.operator, found.operator)
    monkeypatch.setattr(_drift, "KernelDrift", None)  # what is traced again wants it
    assert_allclose(ink.kernel_drift(H0, H, relative_residual=1e-3).operator, found.operator)


@pytest.mark.parametrize(("by", "resolved"), [(0.0, False), (0.5e-4, False), (4e-4, True)])
def test_what_is_resolved(x64: None, by: float, resolved: bool) -> None:
    """`2 lambda_max 4 relative_residual`, for both kernels have their errors: 8e-5 here."""
    H0 = np.diag([1.0, 0.5])
    found = ink.kernel_drift(H0 + by * np.eye(2), H0, relative_residual=1e-5)
    assert_allclose(found.noise, 8e-5)
    assert bool(found.resolved) == resolved


def test_of_operators(key: jax.Array, rng: np.random.Generator, x64: None) -> None:
    """The same without the kernels: the operator norm to its residual, the other to its standard error."""
    net, X = ink.ReluImplicit.init(key, D, M), rng.normal(size=(MANY, D))
    nets = (moved(net, rng, 0.1), net)
    want = ink.kernel_drift(*(ink.ntk(each, X) for each in nets))
    H, H0 = (ink.kernel_operator(each, X, tile=16) for each in nets)
    found = ink.kernel_drift(H, H0, probes=PROBES)
    assert_allclose(found.operator, want.operator, rtol=1e-10)
    assert_allclose(found.operator_scale, want.operator_scale, rtol=1e-10)
    assert found.operator_error < 1e-8
    assert found.resolved
    # One eigenvalue far above the others, of which a few random signs see too much or too little.
    assert found.frobenius_scale < 1.1 * found.operator_scale
    assert_allclose(found.frobenius_scale, want.frobenius_scale, rtol=0.02)
    scores = []
    for seed in range(12):
        some = ink.kernel_drift(H, H0, probes=PROBES, key=jax.random.key(seed))
        scores.append(float((some.frobenius - want.frobenius) / some.frobenius_error))
    assert max(np.abs(scores)) < 4.5
    assert 0.3 < np.sqrt(np.mean(np.square(scores))) < 2.2
    nothing = ink.kernel_drift(H0, H0, probes=PROBES)
    assert nothing.operator == 0
    assert not nothing.resolved
    with pytest.raises(TypeError, match="both arrays or both operators; use H.to_dense"):
        ink.kernel_drift(H, np.eye(MANY))
    with pytest.raises(ValueError, match="relative_residual must be None for operators"):
        ink.kernel_drift(H, H0, 1e-3)
    with pytest.raises(ValueError, match="probes must be at least 3"):
        ink.kernel_drift(H, H0, probes=2)


@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    eye = np.eye(N, dtype=np.float32)
    with pytest.raises(ValueError, match=r"H and H0 must be of the same samples and outputs, got \(6, 6\)"):
        ink.kernel_drift(eye, eye[:2, :2])
    with pytest.raises(ValueError, match="H0 must be a square matrix"):
        ink.kernel_drift(eye, eye[:2])
    with pytest.raises(TypeError, match="H is float32 but H0 is float16"):
        ink.kernel_drift(eye, eye.astype(np.float16))
