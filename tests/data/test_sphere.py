"""Points on the sphere and their labels."""

from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

from implicit_ntk.data import sphere

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", ["teacher", "random"])
def test_rows_and_signs(key: jax.Array, dtype: type, labels: str) -> None:
    X, y = sphere(key, 20, 4, labels, dtype)
    assert (X.shape, y.shape) == ((20, 4), (20,))
    assert X.dtype == y.dtype == dtype
    norms = np.linalg.norm(X.astype(float), axis=1)
    np.testing.assert_allclose(norms, 1.0, rtol=4 * np.finfo(dtype).eps)
    assert set(y.tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("d", [2, 10])
def test_uniform(key: jax.Array, d: int) -> None:
    # a coordinate of a uniform point: (1 + x)/2 is Beta((d-1)/2, (d-1)/2); no direction is special
    X, _ = sphere(key, 4000, d)
    beta = scipy.stats.beta((d - 1) / 2, (d - 1) / 2)
    direction = np.ones(d) / np.sqrt(d)
    for t in (X[:, 0], X[:, -1], X @ direction.astype(X.dtype)):
        assert scipy.stats.kstest((1 + np.clip(t, -1, 1)) / 2, beta.cdf).pvalue > 1e-4
    np.testing.assert_allclose(X.T @ X / 4000, np.eye(d) / d, atol=5 / np.sqrt(4000 * d))


@pytest.mark.parametrize("n", [7, 20])
def test_teacher_is_balanced(key: jax.Array, n: int) -> None:
    for k in jax.random.split(key, 5):
        _, y = sphere(k, n, 4)
        assert np.sum(y == -1) == n // 2


def test_teacher_can_be_learnt_and_random_labels_cannot(key: jax.Array) -> None:
    """Nearest neighbours predict a function of x; nothing predicts fair coins."""
    n, m = 3500, 500

    def accuracy(labels: str) -> float:
        X, y = sphere(key, n + m, 2, labels)
        nearest = np.argmax(X[n:] @ X[:n].T, axis=1)
        return float(np.mean(y[:n][nearest] == y[n:]))

    assert accuracy("teacher") > 0.95
    assert abs(accuracy("random") - 0.5) < 5 * 0.5 / np.sqrt(m)


def test_teacher_is_not_linear(key: jax.Array) -> None:
    # a half-plane fits the labels of a linear teacher to a few per cent; here it cannot always
    best = []
    for k in jax.random.split(key, 5):
        X, y = sphere(k, 4000, 2)
        w, *_ = np.linalg.lstsq(np.column_stack([X, np.ones(4000)]), y, rcond=None)
        best.append(np.mean(np.sign(np.column_stack([X, np.ones(4000)]) @ w) == y))
    assert min(best) < 0.97


def test_random_signs_are_fair(key: jax.Array) -> None:
    _, y = sphere(key, 4000, 2, "random")
    assert abs(y.mean()) < 5 / np.sqrt(4000)
    assert abs(np.mean(y[1:] * y[:-1])) < 5 / np.sqrt(4000)


def test_key_decides_and_labels_do_not_move_points(key: jax.Array) -> None:
    X, y = sphere(key, 20, 4)
    again_X, again_y = sphere(key, 20, 4)
    np.testing.assert_array_equal(X, again_X)
    np.testing.assert_array_equal(y, again_y)
    np.testing.assert_array_equal(X, sphere(key, 20, 4, "random")[0])
    assert np.abs(X - sphere(jax.random.fold_in(key, 1), 20, 4)[0]).max() > 0.1


def test_same_points_in_both_precisions(key: jax.Array) -> None:
    found = []
    for x64 in (True, False):
        with jax.enable_x64(x64):
            found += [sphere(key, 20, 4, dtype=dtype) for dtype in DTYPES]
    for X, y in found[1:]:
        np.testing.assert_allclose(X, found[0][0], rtol=0, atol=2e-7)
        np.testing.assert_array_equal(y, found[0][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, "n: 1 is too small; give at least 2, one for each class"),
        ({"d": 1}, "d: 1 is too small; give at least 2; on a line all samples are parallel"),
        ({"labels": "noise"}, "labels: 'noise' is unknown; choose one of teacher, random"),
    ],
)
def test_values(key: jax.Array, options: dict[str, Any], message: str) -> None:
    chosen: dict[str, Any] = {"n": 4, "d": 3} | options
    with pytest.raises(ValueError, match=message):
        sphere(key, **chosen)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"n": 4.0}, "n"),
        ({"dtype": np.float16}, "dtype"),
        ({"dtype": "wide"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"key": 0}, "key"),
    ],
)
def test_types(key: jax.Array, options: dict[str, Any], argument: str) -> None:
    with pytest.raises(TypeError, match=argument):
        sphere(**({"key": key, "n": 4, "d": 3} | options))
