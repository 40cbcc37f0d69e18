"""Language by language at one layer, two results beside their difference, and language by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from analysis.accuracies import short_name
from figures.style import COLUMN, DIVERGING, GREY, MINUS, PAGE, SEQUENTIAL, SMALL, paper, percent, sheet
from probe.errors import AnalysisError

_DENSE = 5.0
"""Points: the size of labels where 6 do not fit, and the least distance between two of them."""
_VISIBLE = 0.05
"""Share of the scale below which a difference looks like none, and carries no minus."""
_MANY = 60
"""Languages from which on the cells are too small for a minus."""


_BAR: dict[str, Any] = {"location": "bottom", "aspect": 35, "pad": 0.02, "format": percent}


@paper()
def heatmap(frame: pd.DataFrame, order: Sequence[str], title: str, families: Mapping[str, str] | None = None) -> Figure:
    """Accuracy of every direction: sources are rows, targets are columns.

    Args:
        frame: rows of (src, tgt, accuracy), shares; a direction without a row, or NaN, stays grey.
        order: of the languages, first row and first column first.
        title: which result and layer.
        families: language -> family, to part neighbours of different families by a line and name them; needs an order in
            which families stand together.

    Raises:
        AnalysisError: no finite accuracy among those languages.
    """
    table = _square(frame, "accuracy", order)
    figure = sheet(COLUMN, 80.0 if families else 91.0)  # the names of families take width
    axes = figure.subplots()
    image = _cells(axes, table, SEQUENTIAL, 0.0, _top([table]))
    axes.set(title=title, xlabel="target", ylabel="source")
    figure.colorbar(image, ax=axes, shrink=0.7, label="retrieval accuracy (%)", **_BAR)
    _label(axes.xaxis, order, upright=True)
    _label(axes.yaxis, order)
    if families:
        _part(axes, order, families)
    _settle(figure)
    return figure


@paper()
def difference(
    frame: pd.DataFrame,
    order: Sequence[str],
    base: str,
    other: str,
    title: str,
    families: Mapping[str, str] | None = None,
) -> Figure:
    """Two results and the other's gain over the base, on one scale of accuracy and one of difference, centred at 0.

    Cells below zero by more than a twentieth of the scale carry a minus: in greyscale both ends of a diverging scale are dark.

    Args:
        frame: rows of (src, tgt, base, other, difference), shares.
        order, families: as of `heatmap`.
        base, other: names of the results.
        title: which layer.

    Raises:
        AnalysisError: no finite accuracy among those languages.
    """
    tables = [_square(frame, column, order) for column in ("base", "other", "difference")]
    figure = sheet(PAGE, 74.0)
    panels = figure.subplots(1, 3)
    top, limit = _top(tables[:2]), max(float(np.nanmax(np.abs(tables[2]))), 1e-4)
    images = [
        _cells(panels[0], tables[0], SEQUENTIAL, 0.0, top),
        _cells(panels[1], tables[1], SEQUENTIAL, 0.0, top),
        _cells(panels[2], tables[2], DIVERGING, -limit, limit),
    ]
    told = "difference (points)"
    if len(order) < _MANY:
        told = f"difference (points; {MINUS} marks a loss)"
        for colour, far, near in (("black", -0.5, -_VISIBLE), ("white", -np.inf, -0.5)):
            rows, columns = np.nonzero((tables[2] >= far * limit) & (tables[2] < near * limit))
            panels[2].plot(columns, rows, "_", color=colour, markersize=2.2, markeredgewidth=0.5, label="_below zero")
    figure.colorbar(images[1], ax=panels[:2], shrink=0.5, label="retrieval accuracy (%)", **_BAR)
    figure.colorbar(images[2], ax=panels[2], shrink=1.0, label=told, **_BAR)
    for axes, name in zip(panels, (base, other, f"{other} minus {base}"), strict=True):
        axes.set(title=name, xlabel="target")
        _label(axes.xaxis, order, upright=True)
        _label(axes.yaxis, order)
        if families:
            _part(axes, order, families, named=False, colour="#bbbbbb" if axes is panels[2] else "white")
    panels[0].set_ylabel("source")
    figure.suptitle(title)
    _settle(figure)
    return figure


@paper()
def layers(frame: pd.DataFrame, order: Sequence[str], title: str, families: Mapping[str, str] | None = None) -> Figure:
    """Accuracy of every language at every layer, the controls as columns of their own.

    Args:
        frame: rows of (language, layer, series, accuracy); layer is NaN where series is a control, `char` or `length`.
        order, title, families: as of `heatmap`.

    Raises:
        AnalysisError: no finite accuracy among those languages.
    """
    layered, controls = frame[frame["series"] == "layers"], frame[frame["series"] != "layers"]
    table = layered.pivot(index="language", columns="layer", values="accuracy").reindex(list(order))
    beside = controls.pivot(index="language", columns="series", values="accuracy").reindex(list(order))
    top = _top([table.to_numpy(), beside.to_numpy()])
    figure = sheet(COLUMN, 90.0)
    panels = figure.subplots(
        1, 2 if len(beside.columns) else 1, sharey=True, squeeze=False,
        width_ratios=[len(table.columns), 1.1 * len(beside.columns)] if len(beside.columns) else [1],
    )[0]  # fmt: skip
    image = _cells(panels[0], table.to_numpy(), SEQUENTIAL, 0.0, top, aspect="auto")
    names = [str(int(layer)) for layer in table.columns]
    every = math.ceil(len(names) / 12)
    panels[0].set_xticks(range(0, len(names), every), names[::every])
    panels[0].set(title=title, xlabel="layer")
    if len(beside.columns):
        _cells(panels[1], beside.to_numpy(), SEQUENTIAL, 0.0, top, aspect="auto")
        panels[1].set_xticks(range(len(beside.columns)), list(beside.columns), rotation=90)
        panels[1].set_title("control")
    figure.colorbar(image, ax=panels, shrink=0.7, label="mean retrieval accuracy (%)", **_BAR)
    _label(panels[0].yaxis, order)
    if families:
        for axes in panels:
            _part(axes, order, families, across=False, named=axes is panels[-1])
    _settle(figure)
    return figure


def _square(frame: pd.DataFrame, column: str, order: Sequence[str]) -> np.ndarray:
    """(source, target) shares in that order; NaN where there is none."""
    listed = list(order)
    return frame.pivot(index="src", columns="tgt", values=column).reindex(index=listed, columns=listed).to_numpy(float)


def _top(tables: Sequence[np.ndarray]) -> float:
    """The upper end of the scale of shares: what the best cell has."""
    finite = np.concatenate([table[np.isfinite(table)] for table in tables])
    if not finite.size:
        raise AnalysisError("a heatmap without a finite accuracy", "at least one", "choose other languages")
    return max(float(finite.max()), 1e-4)


def _cells(axes: Axes, table: np.ndarray, colours: str, low: float, high: float, aspect: Any = "equal") -> Any:
    axes.set_facecolor("#dddddd")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return axes.imshow(table, cmap=colours, vmin=low, vmax=high, aspect=aspect, interpolation="nearest")


def _label(axis: Axis, order: Sequence[str], upright: bool = False) -> None:
    """A tick a language; how they are written is settled when the size of a cell is known."""
    axis.set_ticks(range(len(order)), [short_name(code) for code in order], rotation=90 if upright else 0)
    axis.set_tick_params(labelsize=_DENSE)
    axis.axes.set_gid("languages")


def _settle(figure: Figure) -> None:
    """Write every language's label where they fit one under another, else in two staggered rows, else every n-th."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        _thin(axes)
        for axis, span in ((axes.xaxis, axes.bbox.width), (axes.yaxis, axes.bbox.height)):
            ticks = axis.get_ticklocs()
            labels = [label.get_text() for label in axis.get_ticklabels()]
            upright = bool(labels) and axis.get_ticklabels()[0].get_rotation() == 90
            if axes.get_gid() != "languages" or (axis is axes.xaxis and not upright):
                continue
            lowest, highest = sorted(axis.get_view_interval())
            pitch = span / figure.dpi * 72 / (highest - lowest)
            size = min(SMALL, max(_DENSE, pitch))
            if pitch >= _DENSE * 0.95 or 2 * pitch < _DENSE:
                every = 1 if pitch >= _DENSE * 0.95 else math.ceil(_DENSE / pitch)
                axis.set_ticks(ticks[::every], labels[::every])
                axis.set_tick_params(labelsize=size)
                continue
            axis.set_ticks(ticks[::2], labels[::2])
            axis.set_ticks(ticks[1::2], labels[1::2], minor=True, rotation=90 if upright else 0)
            axis.set_tick_params(labelsize=_DENSE)
            axis.set_tick_params(which="minor", labelsize=_DENSE, length=0, pad=2 + 1.9 * _DENSE)


def _thin(axes: Axes) -> None:
    """Leave the name of a family out where it would stand on that of the one above, which is larger."""
    last = np.inf
    for text in axes.texts:
        box = text.get_window_extent().padded(-0.1 * text.get_window_extent().height)
        text.set_visible(bool(box.y1 <= last))
        last = box.y0 if text.get_visible() else last


def _part(
    axes: Axes,
    order: Sequence[str],
    families: Mapping[str, str],
    across: bool = True,
    named: bool = True,
    colour: str = "white",
) -> None:
    """Thin lines between families, and their names at the right."""
    own = [families[code] for code in order]
    breaks = [place + 0.5 for place, (one, next_one) in enumerate(pairwise(own)) if one != next_one]
    axes.hlines(breaks, *axes.get_xlim(), color=colour, linewidth=0.35)
    if across:
        axes.vlines(breaks, -0.5, len(own) - 0.5, color=colour, linewidth=0.35)
    if named:
        edges = [-0.5, *breaks, len(own) - 0.5]
        for start, stop in pairwise(edges):
            axes.annotate(
                own[int(start + 0.5)], (1, (start + stop) / 2), (3, 0), xycoords=axes.get_yaxis_transform(),
                textcoords="offset points", va="center", fontsize=_DENSE, color=GREY, annotation_clip=False,
            )  # fmt: skip
