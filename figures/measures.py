"""Representation measures by layer, a small panel each."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import pandas as pd
from matplotlib.figure import Figure

from figures.curves import layer_axis
from figures.style import COLUMN, line, paper, sheet
from probe.errors import AnalysisError


@paper()
def measures(layers: pd.DataFrame, headings: Mapping[str, str], percent: Collection[str] = ()) -> Figure:
    """Two panels a row, each with its own scale.

    Args:
        layers: a layer a row: `layer`, and one column a measure.
        headings: column -> title, of the measures that are drawn, in that order.
        percent: the columns of shares that are drawn in percent.

    Raises:
        AnalysisError: no measure has a finite value.
    """
    known = [name for name in headings if name != "layer" and name in layers and layers[name].notna().any()]
    if not known:
        raise AnalysisError("measures without a finite value", "at least one", "run `probe measure` again")
    rows = math.ceil(len(known) / 2)
    figure = sheet(COLUMN, 8.0 + 24 * rows)
    panels = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
    ordered = layers.sort_values("layer")
    for axes, name in zip(panels, known, strict=False):
        values = ordered[name] * (100 if name in percent else 1)
        axes.plot(ordered["layer"], values, markevery=max(1, len(ordered) // 8), **line(0).keywords())
        axes.set_title(headings[name])
    for axes in panels[len(known) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(known) - 2) : len(known)]:
        axes.tick_params(labelbottom=True)
        layer_axis(axes)
    return figure
