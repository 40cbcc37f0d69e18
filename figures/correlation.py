"""How strongly accuracy goes with a downstream score, layer by layer."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from figures.curves import control_handles, draw_line, layer_axis, series_handles
from figures.style import COLUMN, CONTROL_DASHES, GREY, legend_above, line, paper, sheet
from probe.errors import AnalysisError


@paper()
def by_layer(correlation: pd.DataFrame) -> Figure:
    """One line a group with the band of its Fisher interval; the `char` control's r level across, in the group's colour.

    Args:
        correlation: rows of (layer, group, pearson, fisher_low, fisher_high); layers' numbers as text, or `char`.

    Raises:
        AnalysisError: no layer has a defined correlation.
    """
    layered = correlation[correlation["layer"].astype(str).str.isdigit()].dropna(subset="pearson")
    if layered.empty:
        raise AnalysisError(
            "correlations by layer, none of them defined", "one at least", "run correlate with --layer all"
        )
    looks = {name: line(number) for number, name in enumerate(dict.fromkeys(layered["group"]))}
    figure = sheet(COLUMN, 54.0)
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=0.8)
    for name, look in looks.items():
        own = layered[layered["group"] == name].astype({"layer": int}).sort_values("layer")
        draw_line(axes, own["layer"], own["pearson"], own["fisher_low"], own["fisher_high"], look)
        surface = correlation[(correlation["group"] == name) & (correlation["layer"] == "char")]["pearson"]
        for r in surface.dropna():
            axes.axhline(r, color=look.colour, linestyle=CONTROL_DASHES["char"], linewidth=0.9)
    axes.set_ylim(-1, 1)
    axes.set_ylabel("Pearson r of accuracy and score")
    layer_axis(axes)
    controls = control_handles(pd.DataFrame({"series": correlation["layer"]}))
    legend_above(figure, [*series_handles(looks), *controls])
    return figure
