"""The figure of a kernel shows its eigenvalues, their limit, the noise, and the targets' shares."""

import dataclasses

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.experiments import Eigen, KernelConfig, KernelResult, Limit, Subject
from implicit_ntk.experiments.kernel._assemble import Solves
from implicit_ntk.experiments.kernel._eigen import Aligned
from implicit_ntk.experiments.kernel._samples import Samples
from implicit_ntk.kernel import Spectrum
from implicit_ntk.networks import Choice
from implicit_ntk.plotting import kernel_figure

N = 6


def eigen(eigenvalues, shares=None, resolution=1e-3) -> Eigen:
    found = Spectrum(jnp.asarray(eigenvalues[::-1]), jnp.asarray(resolution))
    return Eigen(found, None if shares is None else Aligned(np.asarray(shares), 0.5))


@pytest.fixture
def result() -> KernelResult:
    """One eigenvalue is noise, and one below zero."""
    values = [9.0, 3.0, 1.0, 0.1, 1e-4, -1e-5]
    shares = [0.1, 0.6, 0.1, 0.1, 0.05, 0.05]
    arrays = {"A": np.ones((4, 4)), "W": np.ones((2, 4)), "b": np.ones(4), "gamma": np.ones(())}
    net = ink.ReluImplicit(**{name: jnp.asarray(array) for name, array in arrays.items()})
    subject = Subject(
        KernelConfig(),
        Samples(np.ones((N, 2)), None, (), None, np.arange(N), "made up"),
        y=np.ones(N),
        net=net,
        choice=Choice(ink.Picard(), ink.Neumann(), "made up"),
        pairs=np.empty((0, 2), np.int64),
    )
    return KernelResult(
        subject,
        solves=Solves(np.zeros(N), np.ones(N, int), np.ones(N, int)),
        H=np.diag(values),
        block_traces={"A": 13.1},
        eigen=eigen(values, shares),
        limit=Limit(eigen([8.0, 2.0, 1.0, 0.5, 0.2, 0.1], shares), 0.1),
        seconds={},
    )


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_lines_are_the_eigenvalues_of_network_and_limit(result):
    left, _ = kernel_figure(result).axes
    network, limit = left.get_lines()
    np.testing.assert_allclose(network.get_ydata(), result.eigen.descending[:5])
    np.testing.assert_array_equal(network.get_xdata(), np.arange(1, 6))
    np.testing.assert_allclose(limit.get_ydata(), result.limit.eigen.descending)
    assert (network.get_linestyle(), limit.get_linestyle()) == ("-", "--")
    assert (left.get_xscale(), left.get_yscale()) == ("log", "log")


def test_noise_is_shaded_up_to_the_resolution(result):
    left, right = kernel_figure(result).axes
    (band,) = left.patches
    assert band.get_y() + band.get_height() == pytest.approx(1e-3)
    assert band.get_y() == pytest.approx(left.get_ylim()[0]) and left.get_ylim()[0] <= 1e-4
    (band,) = right.patches
    assert band.get_x() == 5
    resolved = dataclasses.replace(result, eigen=eigen([3.0] * N, [1 / N] * N))
    assert not kernel_figure(resolved).axes[1].patches


def test_shares_add_up_beside_those_of_no_alignment(result):
    right = kernel_figure(result).axes[1]
    network, limit, nothing = right.get_lines()
    np.testing.assert_allclose(network.get_ydata(), [0.1, 0.7, 0.8, 0.9, 0.95, 1])
    np.testing.assert_allclose(limit.get_ydata(), network.get_ydata())
    np.testing.assert_allclose(nothing.get_ydata(), np.arange(1, 7) / 6)


@pytest.mark.parametrize(("limit", "labels"), [("none", ["network"]), (..., ["network", "infinite width"])])
def test_without_targets_there_is_one_panel(result, limit, labels):
    limit = result.limit if limit is ... else limit
    figure = kernel_figure(
        dataclasses.replace(result, eigen=eigen([3.0, 2.0, 1.0, 1.0, 1.0, 1.0]), limit=limit)
    )
    assert len(figure.axes) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels


def test_what_was_not_decomposed_cannot_be_drawn(result):
    with pytest.raises(ValueError, match="no eigenvalues to draw"):
        kernel_figure(dataclasses.replace(result, eigen=None))


def test_single_sample_can_be_drawn(result):
    kernel_figure(dataclasses.replace(result, eigen=eigen([3.0], [1.0]), limit="none"))
