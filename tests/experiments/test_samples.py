"""The samples of a kernel and their targets: from data sets and from files of one's own."""

import hashlib

import numpy as np
import pytest

from implicit_ntk.data import load, two_class
from implicit_ntk.experiments import SamplesConfig
from implicit_ntk.experiments.kernel._samples import read_samples
from implicit_ntk.experiments.kernel._targets import targets_of

FLOAT32 = np.dtype("float32")


@pytest.fixture
def own(tmp_path, rng):
    """Writes arrays to a file and reads samples back from it."""

    def read(n=None, **arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return read_samples(SamplesConfig(data=tmp_path / "own.npz", n=n), FLOAT32)

    return read


def with_classes(labels):
    labels = np.array(labels)
    return labels, () if labels.dtype.kind == "f" else tuple(np.unique(labels).tolist())


def test_two_classes_are_the_rows_and_signs_of_two_class():
    found = read_samples(SamplesConfig(classes=(0, 1), n=20), FLOAT32)
    wanted = two_class("mnist", (0, 1), 20, 0)
    np.testing.assert_array_equal(found.X, wanted.X)
    np.testing.assert_array_equal(found.targets(()), wanted.y)


def test_classes_take_turns_and_fewer_samples_are_the_first_of_more():
    config = SamplesConfig(dataset="digits", classes=(3, 1, 7), n=10)
    many = read_samples(config, FLOAT32)
    assert many.labels.tolist() == [3, 1, 7, 3, 1, 7, 3, 1, 7, 3]
    few = read_samples(SamplesConfig(dataset="digits", classes=(3, 1, 7), n=4), FLOAT32)
    np.testing.assert_array_equal(few.X, many.X[:4])
    np.testing.assert_array_equal(load("digits").labels[many.indices], many.labels)
    assert many.image_shape == (8, 8, 1) and many.X.shape == (10, 64)


def test_all_classes_if_none_are_named():
    found = read_samples(SamplesConfig(dataset="digits", n=20), FLOAT32)
    assert found.classes == tuple(range(10))
    assert sorted(found.labels.tolist()) == sorted([*range(10), *range(10)])


def test_own_rows_are_taken_as_they_are(own, rng):
    X, y = rng.normal(size=(7, 3)), rng.normal(size=7)
    found = own(X=X, y=y, n=5)
    np.testing.assert_array_equal(found.X, X[:5].astype("float32"))
    np.testing.assert_array_equal(found.targets(()), y[:5])
    assert found.digest == hashlib.sha256(X[:5].astype("float32").tobytes()).hexdigest()
    assert own(X=X + 1, n=5).digest != found.digest


@pytest.mark.parametrize(("shape", "image"), [((2, 4, 3), (4, 3, 1)), ((2, 4, 3, 2), (4, 3, 2))])
def test_own_images_keep_their_shape_and_are_flat(own, rng, shape, image):
    X = rng.integers(0, 255, shape, dtype=np.uint8)
    found = own(X=X)
    assert found.image_shape == image and found.targets(()) is None
    np.testing.assert_array_equal(found.X, X.reshape(2, -1))


@pytest.mark.parametrize(
    ("labels", "out", "wanted"),
    [
        ([5, 2, 5], (), [1, -1, 1]),
        ([5, 2, 5], (1,), [[1], [-1], [1]]),
        ([5, 2, 5], (2,), [[-1 / 2, 1 / 2], [1 / 2, -1 / 2], [-1 / 2, 1 / 2]]),
        ([0, 1, 2], (), np.eye(3) - 1 / 3),
        ([0, 1, 2], (3,), np.eye(3) - 1 / 3),
        ([0.5, 2.0, 1.0], (), [0.5, 2, 1]),
        ([0.5, 2.0, 1.0], (1,), [[0.5], [2], [1]]),
    ],
)
def test_targets(labels, out, wanted):
    np.testing.assert_allclose(targets_of(*with_classes(labels), out), wanted)


@pytest.mark.parametrize(
    ("labels", "out", "message"),
    [
        ([0, 1, 2], (2,), "outputs must be as many as the columns of the targets, 3, got 2"),
        ([1.0, 2.0], (2,), "of the targets, 1, got 2"),
        ([4, 4], (), "classes must be two or more"),
        ([0.0, 0.0], (), "y must hold finite numbers, not all zero"),
        ([0.0, np.nan], (), "y must hold finite numbers"),
    ],
)
def test_targets_that_do_not_fit(labels, out, message):
    with pytest.raises(ValueError, match=message):
        targets_of(*with_classes(labels), out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be a positive integer"),
        ({"classes": (1,)}, "classes must be two or more"),
        ({"classes": (1, 1)}, "each named once"),
        ({"dataset": "letters"}, "dataset must be one of"),
        ({"data": "x.npz", "dataset": "mnist"}, "dataset does not apply"),
        ({"data": "x.npz", "classes": (0, 1)}, "classes does not apply"),
        ({"data": "x.npz", "data_dir": "x"}, "data_dir does not apply"),
    ],
)
def test_settings_that_do_not_go_together(settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        SamplesConfig(**settings).check()


@pytest.mark.parametrize(
    ("arrays", "n", "message"),
    [
        ({"x": np.ones(3)}, None, "with an array X"),
        ({"X": np.ones(3)}, None, "X of .* must hold numbers"),
        ({"X": np.array([["a"]])}, None, "X of .* must hold numbers"),
        ({"X": np.ones((0, 3))}, None, "X of .* must hold numbers"),
        ({"X": np.ones((3, 2)), "y": np.ones(2)}, None, "y of .* must hold 3 labels"),
        ({"X": np.ones((3, 2)), "y": np.ones((3, 2, 2))}, None, "y of .* must hold 3 labels"),
        ({"X": np.ones((3, 2))}, 4, "4 samples asked for, but .* has 3"),
        ({"X": np.array([[{}]])}, None, "with an array X"),
    ],
)
def test_files_that_hold_something_else(own, arrays, n, message):
    with pytest.raises(ValueError, match=message):
        own(n=n, **arrays)


def test_missing_file_and_missing_images(tmp_path, monkeypatch):
    monkeypatch.delenv("IMPLICIT_NTK_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="name an .npz file with an array X"):
        read_samples(SamplesConfig(data=tmp_path / "none.npz"), FLOAT32)
    with pytest.raises(ValueError, match="need 501 of class 0, but there are 500"):
        read_samples(SamplesConfig(n=1001), FLOAT32)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="is no .npz file"):
        read_samples(SamplesConfig(data=tmp_path / "text.npz"), FLOAT32)


def test_rows_of_integers_are_targets_and_a_column_is_labels(own):
    """As `numpy.eye(3, dtype=int)[labels]` writes them, and `labels[:, None]`."""
    X, rows = np.ones((4, 2)), np.eye(3, dtype=int)[[0, 1, 2, 0]]
    for out in ((), (3,)):
        np.testing.assert_array_equal(own(X=X, y=rows).targets(out), rows)
    np.testing.assert_array_equal(own(X=X, y=np.array([[5], [2], [5], [5]])).targets(()), [1, -1, 1, 1])


def test_files_that_were_cut_short(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, X=np.ones((4, 2)))
    for content in (path.read_bytes()[:100], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no .npz file"):
            read_samples(SamplesConfig(data=path), FLOAT32)
