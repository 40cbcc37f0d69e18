"""Accuracy by layer, of several results, beside what surface form alone retrieves (the paper's Figure 1a)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from analysis.resample import GROUPS
from figures.labels import place
from figures.style import COLUMN, CONTROL_DASHES, GREY, Line, legend_above, line, paper, percent_axis, sheet
from probe.errors import AnalysisError

_MEET = 0.1
"""Share of the panel's height below which two rings of one layer share a number."""
RING: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 6,
    "markerfacecolor": "none",
    "markeredgecolor": GREY,
    "markeredgewidth": 0.9,
}


class Peak(NamedTuple):
    """The best layer of one line, where it is drawn."""

    x: float
    y: float
    layer: int
    look: Line


@paper()
def curves(
    frame: pd.DataFrame, groups: Sequence[str] = ("mean", "low"), depths: Mapping[str, int] | None = None
) -> Figure:
    """One panel a group, one line a result with the band of its interval, its best layer ringed; controls level across.

    Args:
        frame: rows of (result, layer, series, group, accuracy, low, high), shares in 0..1; layer is NaN where series is a
            control, `char` or `length`; low and high are NaN where no interval is known.
        groups: the panels, from left to right; one of which the frame has no accuracy is left out.
        depths: result -> number of blocks, to draw models of different depth over relative depth; None: the layer's number.

    Raises:
        AnalysisError: the frame has no accuracy of any of the groups.
    """
    known = frame.dropna(subset="accuracy")
    layered = known[known["series"] == "layers"]
    shown = [group for group in groups if group in set(layered["group"])]
    if not shown:
        raise AnalysisError(
            f"curves without an accuracy of {', '.join(groups)}",
            "a finite accuracy at a layer",
            "choose other languages",
        )
    looks = {name: line(number) for number, name in enumerate(dict.fromkeys(frame["result"]))}
    figure = sheet(COLUMN, 54.0)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    best_layers = []
    for axes, group in zip(panels, shown, strict=True):
        axes.set_title(GROUPS[group])
        draw_controls(axes, known[(known["group"] == group) & (known["series"] != "layers")], looks)
        peaks: list[Peak] = []
        for name, own in layered[layered["group"] == group].groupby("result", sort=False):
            look = looks[str(name)]
            across = own["layer"] / depths[str(name)] * 100 if depths else own["layer"]
            draw_line(axes, across, own["accuracy"], own["low"], own["high"], look)
            best = own["accuracy"].argmax()
            peaks.append(Peak(across.iloc[best], own["accuracy"].iloc[best], int(own["layer"].iloc[best]), look))
        best_layers.append(peaks)
        layer_axis(axes, "depth (% of the blocks)" if depths else "layer")
        axes.margins(y=0.12)
    panels[0].autoscale_view()
    from_zero(panels[0])
    percent_axis(panels[0])
    for axes in panels[1:]:
        axes.tick_params(labelleft=True)
    legend_above(figure, [*series_handles(looks), *control_handles(known), best_handle()])
    for axes, peaks in zip(panels, best_layers, strict=True):
        rings(axes, peaks)
    return figure


def draw_line(axes: Axes, x: pd.Series, y: pd.Series, low: pd.Series, high: pd.Series, look: Line) -> None:
    """A curve with its markers, thinned to what the eye can tell apart, over the band of its intervals."""
    axes.fill_between(x, low.astype(float), high.astype(float), color=look.colour, alpha=0.22, linewidth=0)
    axes.plot(x, y, markevery=max(1, len(x) // 8), **look.keywords())


def draw_controls(axes: Axes, controls: pd.DataFrame, looks: Mapping[str, Line]) -> None:
    """Level lines: grey where all results agree (they share a corpus), else each in its result's colour."""
    for series, own in controls.groupby("series"):
        agreed = own["accuracy"].nunique() == 1
        for name, accuracy in zip(own["result"], own["accuracy"], strict=True):
            colour = GREY if agreed else looks[name].colour
            axes.axhline(accuracy, color=colour, linestyle=CONTROL_DASHES[str(series)], linewidth=0.9, zorder=1.5)
            if agreed:
                break


def rings(axes: Axes, peaks: Sequence[Peak]) -> None:
    """Mark best layers and write their numbers where they cover no curve, once where rings of one layer meet.

    To be called last: as `place`, it fixes the figure's layout.
    """
    low, high = axes.get_ylim()
    numbered: list[Peak] = []
    for peak in sorted(peaks, key=lambda each: -each.y):
        (mark,) = axes.plot([peak.x], [peak.y], label="_best", **RING)
        mark.set_markeredgecolor(peak.look.colour)
        near = (each for each in numbered if (each.x, each.layer) == (peak.x, peak.layer))
        if all(each.y - peak.y > _MEET * (high - low) for each in near):
            numbered.append(peak)
    root = axes.figure.get_figure(root=True)
    assert root is not None
    root.draw_without_rendering()
    place(
        axes, pd.Series([each.x for each in numbered]), pd.Series([each.y for each in numbered]),
        [str(each.layer) for each in numbered], _covered(axes, root.dpi / 72),
    )  # fmt: skip


def _covered(axes: Axes, point: float) -> list[Bbox]:
    """Boxes, in pixels, along the lines and about the rings."""
    boxes = []
    for drawn in axes.lines:
        path = drawn.get_transform().transform_path(drawn.get_path())
        half = point * (3.5 if drawn.get_label() == "_best" else 1)
        spots = np.asarray((path.interpolated(8) if drawn.get_linestyle() != "None" else path).vertices)
        boxes += [Bbox([spot - half, spot + half]) for spot in spots if np.isfinite(spot).all()]
    return boxes


def from_zero(axes: Axes) -> None:
    """The y axis from 0, with room at its top for a ring and its number."""
    axes.margins(y=0.12)
    axes.autoscale_view()
    axes.set_ylim(0, max(axes.get_ylim()[1], 1e-4))


def layer_axis(axes: Axes, label: str = "layer") -> None:
    """Whole numbers only."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1, steps=[1, 2, 2.5, 4, 5, 8, 10]))


def series_handles(looks: Mapping[str, Line]) -> list[Line2D]:
    """For a legend: the lines by name."""
    return [Line2D([], [], label=name, **look.keywords()) for name, look in looks.items()]


def control_handles(frame: pd.DataFrame) -> list[Line2D]:
    """For a legend: the controls that the frame has."""
    present = set(frame["series"])
    return [
        Line2D([], [], color=GREY, linestyle=dash, linewidth=0.9, label=f"{name} control")
        for name, dash in CONTROL_DASHES.items()
        if name in present
    ]


def best_handle() -> Line2D:
    """For a legend: the ring."""
    return Line2D([], [], label="best layer", **RING)
