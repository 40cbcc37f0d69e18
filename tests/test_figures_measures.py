"""Small panels of measures, and r by layer, hold the reports' numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from figures.correlation import by_layer
from figures.measures import measures
from probe.errors import AnalysisError

HEADINGS = {"layer": "layer", "cka": "CKA", "hubness": "hubness", "anti": "antihubs %", "empty": "empty"}


def made() -> pd.DataFrame:
    return pd.DataFrame(
        {"layer": [2, 0, 1], "cka": [0.3, 0.1, 0.2], "hubness": [3.0, 1.0, np.nan], "anti": 0.5, "empty": np.nan}
    )


def test_each_measure_with_numbers_has_a_panel_in_order_of_layers() -> None:
    shown = [axes for axes in measures(made(), HEADINGS, ("anti",)).axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["CKA", "hubness", "antihubs %"]
    assert list(shown[0].lines[0].get_xdata()) == [0, 1, 2]
    assert list(shown[0].lines[0].get_ydata()) == [0.1, 0.2, 0.3]
    assert list(shown[2].lines[0].get_ydata()) == [50, 50, 50]
    assert [axes.get_xlabel() for axes in shown] == ["", "layer", "layer"]


def test_a_single_layer_has_no_ticks_between_layers() -> None:
    figure = measures(made()[:1], HEADINGS)
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [2]


def test_measures_without_numbers_are_told() -> None:
    with pytest.raises(AnalysisError, match="measures without a finite value"):
        measures(made()[["layer", "empty"]], HEADINGS)


def correlations() -> pd.DataFrame:
    rows = [
        (str(layer), group, sign * 0.1 * layer, sign * 0.1 * layer - 0.2, sign * 0.1 * layer + 0.2)
        for group, sign in (("supervised", 1), ("transfer", -1))
        for layer in (10, 2, 1)
    ]
    rows += [("char", "supervised", 0.6, 0.1, 0.9), ("char", "transfer", np.nan, np.nan, np.nan)]
    return pd.DataFrame(rows, columns=["layer", "group", "pearson", "fisher_low", "fisher_high"])


def test_r_by_layer_is_drawn_in_order_of_numbers_with_the_controls_level() -> None:
    figure = by_layer(correlations())
    (axes,) = figure.axes
    one, two = (each for each in axes.lines if len(each.get_xdata()) == 3 and each.get_marker() != "None")
    assert list(one.get_xdata()) == [1, 2, 10]
    np.testing.assert_allclose(two.get_ydata(), [-0.1, -0.2, -1.0])
    assert [each.get_ydata()[0] for each in axes.lines if len(each.get_xdata()) == 2] == [0, 0.6]
    assert axes.get_ylim() == (-1, 1)
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["supervised", "transfer", "supervised, char control"]
    edges = [each for each in axes.lines if len(each.get_xdata()) == 3 and each.get_marker() == "None"]
    for line, low, high in ((one, edges[0], edges[1]), (two, edges[2], edges[3])):
        np.testing.assert_allclose(line.get_ydata() - low.get_ydata(), 0.2)
        np.testing.assert_allclose(high.get_ydata() - line.get_ydata(), 0.2)
        assert low.get_color() == high.get_color() == line.get_color()
    assert figure.legends[0].get_lines()[2].get_color() == one.get_color()


def test_no_defined_r_is_told() -> None:
    with pytest.raises(AnalysisError, match="none of them defined"):
        by_layer(correlations().assign(pearson=np.nan))
