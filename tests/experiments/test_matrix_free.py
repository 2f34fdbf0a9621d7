"""A kernel that is never formed: the table, the files and the figure say what was found, and how well."""

import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import implicit_ntk as ink
from implicit_ntk.experiments import (
    KernelConfig,
    MatrixFreeResult,
    NetworkConfig,
    SamplesConfig,
    Subject,
    matrix_free_rows,
    run_kernel,
    run_matrix_free,
    write_matrix_free,
)
from implicit_ntk.experiments.kernel._samples import Samples
from implicit_ntk.kernel import Eigenpairs, Estimate, SpectralDensity
from implicit_ntk.networks import Choice
from implicit_ntk.plotting import matrix_free_figure

N = 6


def pairs(values, errors, vectors) -> Eigenpairs:
    values, errors = jnp.asarray(values), jnp.asarray(errors)
    vectors = jnp.asarray(np.eye(N)[vectors])
    return Eigenpairs(values, vectors, errors / 2, errors, errors > 0, jnp.asarray(7))


@pytest.fixture
def result() -> MatrixFreeResult:
    """Known at the top; at the bottom one of two eigenvalues is smaller than its error."""
    arrays = {"A": np.ones((4, 4)), "W": np.ones((2, 4)), "b": np.ones(4), "gamma": np.ones(())}
    subject = Subject(
        KernelConfig(),
        Samples(np.ones((N, 2)), None, (), None, np.arange(N), "made up"),
        y=np.array([1.0, 1, 0, 0, 0, 2]),
        net=ink.ReluImplicit(**{name: jnp.asarray(array) for name, array in arrays.items()}),
        choice=Choice(ink.Picard(), ink.Neumann(), "made up"),
        pairs=np.empty((0, 2), np.int64),
    )
    points = jnp.asarray([0.1, 1.0, 10.0])
    return MatrixFreeResult(
        subject,
        size=N,
        trace=15.0,
        largest=pairs([10.0, 2.0], [1e-3, 1e-3], [0, 1]),
        smallest=pairs([1e-4, 0.5], [1e-3, 1e-3], [4, 5]),
        logdet=Estimate(*map(jnp.asarray, (-3.5, 0.01, 0.002, True, 9))),
        density=SpectralDensity(
            points, points / 10, points / 100, points / 1000, *map(jnp.asarray, (0.2, 1e-3, 11))
        ),
        seconds={"solving": 1.0},
    )


def test_share_of_targets_along_the_largest_eigenvectors(result):
    assert result.share == pytest.approx(2 / 6)
    subject = dataclasses.replace(result.subject, y=np.eye(N)[:, [1, 3]])
    assert dataclasses.replace(result, subject=subject).share == pytest.approx(1 / 2)
    subject = dataclasses.replace(result.subject, y=None)
    assert "share of y" not in dict(matrix_free_rows(dataclasses.replace(result, subject=subject)))


def test_counts_are_the_integral_of_the_density(result):
    """Of the density `lambda / 10` over `log lambda`, by trapezoids."""
    ten = np.log(10)
    np.testing.assert_allclose(result.counts, [N * ten * (0.055 + 0.55), N * ten * 0.55, 0], rtol=1e-6)


def test_table_has_every_number_with_its_error(result):
    rows = dict(matrix_free_rows(result))
    assert rows["lambda_min"] == "1.0000e-04 +- 1e-03, not resolved"
    assert rows["lambda_max"] == "10 +- 1e-03" and rows["condition"] == "not resolved"
    assert rows["stable rank"] == "1.50" and rows["share of y"] == "33.3% along the top 2"
    assert rows["log-determinant"] == "-3.5 +- 1e-02 (probes) +- 2e-03 (quadrature)"
    assert rows["products with H"] == "largest 7, smallest 7, determinant 9, density 11"
    better = dataclasses.replace(result, smallest=pairs([0.1, 0.5], [1e-3, 1e-3], [4, 5]))
    assert dict(matrix_free_rows(better))["condition"] == "100"


def test_files_hold_both_ends_from_the_largest_down(result, tmp_path):
    write_matrix_free(result, tmp_path)
    table = np.genfromtxt(tmp_path / "spectrum.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert table["index"].tolist() == [1, 2, 5, 6]
    np.testing.assert_allclose(table["eigenvalues"], [10, 2, 0.5, 1e-4])
    assert table["resolved"].tolist() == [True, True, True, False]
    with np.load(tmp_path / "kernel.npz") as file:
        assert "H" not in file
        np.testing.assert_allclose(file["density_density"], [0.01, 0.1, 1])
        np.testing.assert_array_equal(file["smallest_eigenvectors"], np.eye(N)[[4, 5]])


def test_figure_has_both_ends_with_errors_and_the_density(result):
    left, right = matrix_free_figure(result).axes
    drawn = np.concatenate([container.lines[0].get_xydata() for container in left.containers])
    np.testing.assert_allclose(drawn, [[1, 10], [2, 2], [6, 1e-4], [5, 0.5]], rtol=1e-6)
    (white,) = [
        line for line in left.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    np.testing.assert_allclose(white.get_xydata(), [[6, 1e-4]], rtol=1e-6)
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.01, 0.1, 1])
    plt.close("all")


@pytest.mark.slow
def test_agrees_with_the_kernel_that_was_formed(x64):
    config = KernelConfig(SamplesConfig(n=60), NetworkConfig(width=64), "float64")
    told = []
    found = run_matrix_free(config, lambda share, what: told.append(what))
    formed = run_kernel(config)
    descending = formed.eigen.descending
    for ends, wanted in ((found.largest, descending), (found.smallest, descending[::-1])):
        difference = np.abs(np.asarray(ends.values) - wanted[: len(ends.values)])
        assert (difference <= np.asarray(ends.errors)).all()
    assert found.trace == pytest.approx(formed.trace)
    assert found.share == pytest.approx(formed.eigen.aligned.cumulative[len(found.largest.values) - 1], 1e-6)
    error = float(found.logdet.stderr + found.logdet.quadrature_error)
    assert abs(float(found.logdet.value) - np.log(descending).sum()) <= 4 * error + 1e-6
    assert list(dict.fromkeys(told)) == ["solving", "largest", "smallest", "determinant", "density"]
    assert jnp.trapezoid(found.density.density, jnp.log(found.density.points)) == pytest.approx(1, abs=0.02)


def test_float64_needs_x64():
    with pytest.raises(ValueError, match="jax_enable_x64"), jax.enable_x64(False):
        run_matrix_free(KernelConfig(precision="float64"))
