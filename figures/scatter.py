"""Retrieval accuracy of languages against a downstream score, with the regression line (the paper's Figure 1b)."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.accuracies import short_name
from figures.labels import place
from figures.style import COLUMN, MINUS, line, paper, sheet
from probe.errors import AnalysisError

_LINE = 0.075
"""Share of the panel's height that one line of its key takes."""


@paper()
def scatter(points: pd.DataFrame, band: pd.DataFrame, correlation: pd.DataFrame, accuracy: str, score: str) -> Figure:
    """One marker a language, apart by group, with each group's line, its confidence band, r and p.

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
    keys = []
    for number, group in enumerate(groups):
        look = line(number)
        own, fitted = points[points["group"] == group], band[band["group"] == group].sort_values("x")
        across = 100 * fitted["x"]
        axes.fill_between(across, fitted["low"], fitted["high"], color=look.colour, alpha=0.15, linewidth=0)
        axes.plot(across, fitted["fit"], color=look.colour, linestyle=look.dash, linewidth=0.9)
        (dots,) = axes.plot(
            100 * own["accuracy"], own["score"], linestyle="", marker=look.marker, color=look.colour, markeredgewidth=0,
            label=f"{group}: {_told(correlation[correlation['group'] == group])}",
        )  # fmt: skip
        keys.append(dots)
    low, high = _around(points["score"])
    strip = _LINE * len(keys)
    axes.set_ylim(low, high + (high - low) * strip / (1 - strip))
    axes.set_xlim(*_around(100 * points["accuracy"]))
    key = axes.legend(handles=keys, loc="upper left", borderaxespad=0, handlelength=1, handletextpad=0.4)
    figure.draw_without_rendering()
    languages = [short_name(code) for code in points["language"]]
    place(axes, 100 * points["accuracy"], points["score"], languages, [key.get_window_extent()])
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
