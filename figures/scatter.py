"""Retrieval accuracy of languages against a downstream score, with the regression line (the paper's Figure 1b)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.accuracies import short_name
from figures.labels import place
from figures.style import COLUMN, MINUS, legend_above, line, paper, sheet
from probe.errors import AnalysisError

_BANDED = 8
"""Languages from which on a group has its band. That of fewer fills the panel and says no more than the interval of r above it."""


@paper()
def scatter(points: pd.DataFrame, band: pd.DataFrame, correlation: pd.DataFrame, accuracy: str, score: str) -> Figure:
    """One marker a language, apart by group, with each group's line and, from 8 languages on, its confidence band; r and p above the panel.

    Markers of a smaller group lie on those of a larger one.

    Args:
        points: rows of (group, language, accuracy, score) of one layer; accuracy a share, score in percent points.
        band: rows of (group, x, fit, low, high) of that layer, x an accuracy: the regression line and its 95 % band; may be empty.
        correlation: rows of (group, n, pearson, fisher_low, fisher_high, permutation_p) of that layer.
        accuracy, score: what the axes measure, without the unit.

    Raises:
        AnalysisError: no language has both numbers.
    """
    points = points.dropna(subset=["accuracy", "score"])
    if points.empty:
        raise AnalysisError(
            "a scatter without a language that has accuracy and score", "at least one", "choose other languages"
        )
    groups = list(dict.fromkeys(points["group"]))
    figure = sheet(COLUMN, 68.0)
    axes = figure.subplots()
    axes.set_xlabel(f"{accuracy} (%)")
    axes.set_ylabel(f"{score} (%)")
    sizes = points["group"].value_counts()
    keys = []
    for number, group in enumerate(groups):
        look = line(number)
        own, fitted = points[points["group"] == group], band[band["group"] == group].sort_values("x")
        across = 100 * fitted["x"]
        if sizes[group] >= _BANDED:
            axes.fill_between(across, fitted["low"], fitted["high"], color=look.colour, alpha=0.15, linewidth=0)
        axes.plot(across, fitted["fit"], color=look.colour, linestyle=look.dash, linewidth=0.9)
        (dots,) = axes.plot(
            100 * own["accuracy"], own["score"], linestyle="", marker=look.marker, color=look.colour, markersize=3.8,
            markeredgecolor="white", markeredgewidth=0.5, zorder=3 - sizes[group] / len(points), label=f"{group}: {_told(correlation[correlation['group'] == group])}",
        )  # fmt: skip
        keys.append(dots)
    axes.set_ylim(*_around(points["score"]))
    axes.set_xlim(*_around(100 * points["accuracy"]))
    legend_above(figure, keys)
    place(axes, 100 * points["accuracy"], points["score"], [short_name(code) for code in points["language"]])
    return figure


def _told(rows: pd.DataFrame) -> str:
    """`r = 0.62 [0.16, 0.86], perm. p = 0.013 (n = 15)`."""
    if rows.empty or pd.isna(rows["pearson"].iloc[0]):
        return "r is not defined"
    row = rows.iloc[0]
    interval = "" if pd.isna(row["fisher_low"]) else f" [{row['fisher_low']:.2f}, {row['fisher_high']:.2f}]"
    chance = "perm. p < 0.001" if row["permutation_p"] < 0.001 else f"perm. p = {row['permutation_p']:.3f}"
    return f"r = {row['pearson']:.2f}{interval}, {chance} (n = {int(row['n'])})".replace("-", MINUS)


def _around(values: pd.Series) -> tuple[float, float]:
    """The range of the values with room for names about the outermost; never empty."""
    low, high = float(values.min()), float(values.max())
    room = 0.1 * (high - low) if high > low else max(0.1 * abs(low), 1e-3)
    return low - room, high + room
