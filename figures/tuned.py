"""Accuracy by layer of a base model and of what was trained from it: by task (the paper's Figure 3) or by alignment (Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.resample import GROUPS
from figures.curves import (
    Peak,
    best_handle,
    control_handles,
    draw_controls,
    draw_line,
    from_zero,
    layer_axis,
    rings,
    series_handles,
)
from figures.style import COLUMN, GREY, legend_above, line, paper, percent_axis, sheet
from probe.errors import AnalysisError


@paper()
def tuned(
    layers: pd.DataFrame,
    controls: pd.DataFrame,
    base: str,
    group: str = "mean",
    marks: Mapping[str, Sequence[int]] | None = None,
) -> Figure:
    """Above, accuracy of the base and of each other model; below, each one's difference from the base with its paired interval.

    Args:
        layers: rows of (model, layer, group, base, other, difference, low, high), shares; the interval is the difference's.
            Those of base and other, (base_low, base_high, other_low, other_high), are drawn where the frame has them.
        controls: rows of (control, group, accuracy); may be empty.
        base: the base's name.
        group: of directions or languages.
        marks: model -> the blocks that its training aligned, marked by triangles on the layer axis.

    Raises:
        AnalysisError: no finite accuracy of that group.
    """
    own = layers[layers["group"] == group].dropna(subset=["base", "other"])
    if own.empty:
        raise AnalysisError(f"a comparison without an accuracy of {group}", "one of its groups", "choose another group")
    models = list(dict.fromkeys(own["model"]))
    looks = {name: line(number) for number, name in enumerate([base, *models])}
    level = controls[controls["group"] == group].rename(columns={"control": "series"}).assign(result=base)
    figure = sheet(COLUMN, 78.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    draw_controls(above, level, looks)
    below.axhline(0, color=GREY, linewidth=0.6, zorder=1.5)
    own = own.reindex(columns=own.columns.union(["base_low", "base_high", "other_low", "other_high"]))
    first = own[own["model"] == models[0]].drop(columns=["other", "other_low", "other_high"])
    first = first.rename(columns={"base": "other", "base_low": "other_low", "base_high": "other_high"})
    peaks = []
    for name, look in looks.items():
        rows = (first if name == base else own[own["model"] == name]).sort_values("layer")
        best = rows["other"].argmax()
        peaks.append(Peak(rows["layer"].iloc[best], rows["other"].iloc[best], int(rows["layer"].iloc[best]), look))
        draw_line(above, rows["layer"], rows["other"], rows["other_low"], rows["other_high"], look)
        if name != base:
            draw_line(below, rows["layer"], rows["difference"], rows["low"], rows["high"], look)
    from_zero(above)
    for name, blocks in (marks or {}).items():
        for axes in (above, below):
            axes.plot(
                blocks, [0] * len(blocks), "^", transform=axes.get_xaxis_transform(), color=looks[name].colour, markersize=5,
                clip_on=False, zorder=5, label=f"_aligned {name}",
            )  # fmt: skip
    above.set_title(GROUPS[group])
    percent_axis(above)
    percent_axis(below, f"difference from\n{base} (points)")
    layer_axis(below)
    trained = (
        [Line2D([], [], linestyle="", marker="^", markersize=5, color=GREY, label="aligned block")] if marks else []
    )
    legend_above(figure, [*series_handles(looks), *control_handles(level), best_handle(), *trained])
    rings(above, peaks)
    return figure
