"""How strongly accuracy goes with a downstream score, layer by layer."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.curves import layer_axis, series_handles
from figures.style import COLUMN, CONTROL_DASHES, GREY, legend_above, line, paper, sheet
from probe.errors import AnalysisError


@paper()
def by_layer(correlation: pd.DataFrame) -> Figure:
    """One line a group between the edges of its Fisher interval; the `char` control's r level across, in the group's colour.

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
    controls = []
    for name, look in looks.items():
        own = layered[layered["group"] == name].astype({"layer": int}).sort_values("layer")
        low, high = own["fisher_low"].astype(float), own["fisher_high"].astype(float)
        axes.fill_between(own["layer"], low, high, color=look.colour, alpha=0.06, linewidth=0)
        for edge in (low, high):  # wide bands overlap: their colours would mix to one that stands for none
            axes.plot(own["layer"], edge, color=look.colour, linewidth=0.5, alpha=0.8)
        axes.plot(own["layer"], own["pearson"], markevery=max(1, len(own) // 8), **look.keywords())
        surface = correlation[(correlation["group"] == name) & (correlation["layer"] == "char")]["pearson"]
        for r in surface.dropna():
            drawn: dict[str, Any] = {"color": look.colour, "linestyle": CONTROL_DASHES["char"], "linewidth": 0.9}
            axes.axhline(r, **drawn)
            controls.append(Line2D([], [], label=f"{name}, char control", **drawn))
    axes.set_ylim(-1, 1)
    axes.set_ylabel("Pearson r of accuracy and score")
    layer_axis(axes)
    legend_above(figure, [*series_handles(looks), *controls])
    return figure
