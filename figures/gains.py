"""What training gained, by resource level, script and alignment, with paired intervals, several models side by side."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.resample import GROUPS
from figures.curves import series_handles
from figures.style import COLUMN, GREY, legend_above, line, paper, sheet
from probe.errors import AnalysisError


@paper()
def gains(layers: pd.DataFrame, layer: int) -> Figure:
    """One row a group of directions or languages, in it one dot and interval a model.

    Args:
        layers: rows of (model, layer, group, difference, low, high), shares.
        layer: of which the gains are shown.

    Raises:
        AnalysisError: no finite difference at that layer.
    """
    rows = layers[layers["layer"] == layer].dropna(subset="difference")
    if rows.empty:
        raise AnalysisError(
            f"gains at layer {layer}", f"a layer of the comparison ({_told(layers['layer'])})", "give another --layer"
        )
    groups = [group for group in GROUPS if group in set(rows["group"])]
    models = list(dict.fromkeys(rows["model"]))
    looks = {name: line(number + 1) for number, name in enumerate(models)}  # the first look is the base's elsewhere
    figure = sheet(COLUMN, 12.0 + 3.2 * len(groups) * max(1.6, len(models)))
    axes = figure.subplots()
    for place in range(0, len(groups), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", linewidth=0, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8)
    for number, name in enumerate(models):
        own = rows[rows["model"] == name].set_index("group").reindex(groups)
        height = [place + 0.62 * ((number + 0.5) / len(models) - 0.5) for place in range(len(groups))]
        look = looks[name]
        axes.hlines(height, 100 * own["low"], 100 * own["high"], color=look.colour, linewidth=1.2)
        axes.plot(100 * own["difference"], height, color=look.colour, marker=look.marker, linestyle="", markersize=3.6)
    axes.set_yticks(range(len(groups)), [GROUPS[group] for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"gain in retrieval accuracy at layer {layer} (points)")
    legend_above(figure, series_handles({name: look._replace(dash="") for name, look in looks.items()}))
    return figure


def _told(layers: pd.Series) -> str:
    return f"{layers.min()} to {layers.max()}" if len(layers) else "it has none"
