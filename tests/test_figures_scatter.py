"""The scatter of accuracy and score: points, lines and the printed r are those of the frames."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.accuracies import short_name
from data_manifests import language_sets
from figures.scatter import scatter
from probe.errors import AnalysisError

CODES = language_sets()["slots20"]


def made() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    generator = np.random.default_rng(3)
    points = pd.DataFrame(
        {
            "group": ["supervised"] * 5 + ["transfer"] * 15,
            "language": CODES,
            "accuracy": generator.uniform(0.3, 0.7, 20),
            "score": generator.uniform(40, 80, 20),
        }
    )
    band = pd.DataFrame(
        {"group": "transfer", "x": [0.3, 0.7], "fit": [50.0, 60.0], "low": [45.0, 52.0], "high": [55.0, 190.0]}
    )
    correlation = pd.DataFrame(
        {
            "group": ["supervised", "transfer"], "n": [5, 15], "pearson": [np.nan, -0.257], "fisher_low": [np.nan, -0.68],
            "fisher_high": [np.nan, 0.29], "permutation_p": [np.nan, 0.0004],
        }
    )  # fmt: skip
    return points, band, correlation


def test_the_panel_holds_points_lines_and_r() -> None:
    points, band, correlation = made()
    figure = scatter(points, band, correlation, "retrieval accuracy at layer 16", "slots F1")
    (axes,) = figure.axes
    for group, own in points.groupby("group"):
        (dots,) = (each for each in axes.lines if str(each.get_label()).startswith(str(group)))
        np.testing.assert_allclose(
            np.column_stack(dots.get_data()), np.column_stack([100 * own["accuracy"], own["score"]])
        )
    (fit,) = (each for each in axes.lines if list(each.get_ydata()) == [50, 60])
    assert list(fit.get_xdata()) == [30, 70]
    minus = "\N{MINUS SIGN}"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "supervised: r is not defined",
        f"transfer: r = {minus}0.26 [{minus}0.68, 0.29], perm. p < 0.001 (n = 15)",
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("retrieval accuracy at layer 16 (%)", "slots F1 (%)")


def test_a_group_of_few_languages_has_a_line_and_no_band() -> None:
    points, band, correlation = made()
    few = band.assign(group="supervised", high=[300.0, 300.0])
    (axes,) = scatter(points, pd.concat([band, few]), correlation, "accuracy", "score").axes
    (drawn,) = axes.collections
    assert drawn.get_paths()[0].vertices[:, 1].max() == 190
    assert sum(list(each.get_ydata()) == [50, 60] for each in axes.lines) == 2


def test_groups_differ_by_marker_and_dash() -> None:
    (axes,) = scatter(*made(), "accuracy", "score").axes
    one, two = (each for each in axes.lines if ":" in str(each.get_label()))
    assert one.get_marker() != two.get_marker()
    assert one.get_color() != two.get_color()


def test_a_marker_on_another_is_seen() -> None:
    """The smaller group, which comes first, lies above; edges part what overlaps."""
    few, many = (each for each in scatter(*made(), "accuracy", "score").axes[0].lines if ":" in str(each.get_label()))
    assert len(few.get_xdata()) < len(many.get_xdata())
    assert few.get_zorder() > many.get_zorder() > 2  # 2: the regression lines
    assert {each.get_markeredgecolor() for each in (few, many)} == {"white"}
    assert few.get_markeredgewidth() > 0


def test_every_language_has_its_name_clear_of_names_and_of_the_key() -> None:
    figure = scatter(*made(), "accuracy", "score")
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == sorted(short_name(code) for code in CODES)
    boxes.append(figure.legends[0].get_window_extent())
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_neither_points_nor_the_key_are_hidden_and_a_wide_band_does_not_flatten_them() -> None:
    points, *_ = made()
    figure = scatter(*made(), "accuracy", "score")
    (axes,) = figure.axes
    key = figure.legends[0].get_window_extent()
    assert axes.get_window_extent().y1 <= key.y0
    spots = axes.transData.transform(points[["accuracy", "score"]] * [100, 1])
    assert all(axes.get_window_extent().contains(*spot) for spot in spots)
    assert axes.get_ylim()[1] < 100
    assert figure.bbox.x0 <= key.x0 < key.x1 <= figure.bbox.x1
    assert key.y1 <= figure.bbox.y1


def test_no_band_and_languages_without_a_number() -> None:
    points, band, correlation = made()
    points.loc[0, "score"] = np.nan
    (axes,) = scatter(points, band[:0], correlation, "accuracy", "score").axes
    assert len(axes.texts) == 19
    with pytest.raises(AnalysisError, match="a scatter without a language"):
        scatter(points.assign(score=np.nan), band, correlation, "accuracy", "score")


def test_one_score_for_all_is_drawn() -> None:
    points, band, correlation = made()
    (axes,) = scatter(points.assign(score=0.0), band, correlation, "accuracy", "score").axes
    low, high = axes.get_ylim()
    assert low < 0 < high
