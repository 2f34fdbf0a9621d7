"""Figures, drawn from results; nothing is computed here but medians and extremes over seeds."""

from implicit_ntk.plotting._kernel import kernel_figure as kernel_figure
from implicit_ntk.plotting._matrix_free import matrix_free_figure as matrix_free_figure
from implicit_ntk.plotting._residuals import residuals_figure as residuals_figure
from implicit_ntk.plotting._style import save_figure as save_figure, style as style
from implicit_ntk.plotting._sweep import sweep_figure as sweep_figure
from implicit_ntk.plotting._twin import twin_figure as twin_figure
from implicit_ntk.plotting._widths import widths_figure as widths_figure
