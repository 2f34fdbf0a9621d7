"""Figures, drawn from results; nothing is computed here but medians and extremes over seeds."""

from implicit_ntk.plotting._residuals import residuals_figure as residuals_figure
from implicit_ntk.plotting._style import save_figure as save_figure, style as style
from implicit_ntk.plotting._twin import twin_figure as twin_figure
