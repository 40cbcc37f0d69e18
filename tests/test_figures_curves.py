"""Curves by layer hold the frame's numbers, mark the best layer, and stay apart without colour."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from figures.curves import curves
from probe.errors import AnalysisError

LAYERS = np.arange(9)


def made(
    peaks: Mapping[str, int], char: Mapping[str, float] | float = 0.2, groups: tuple[str, ...] = ("mean", "low")
) -> pd.DataFrame:
    """Triangular curves with their peak at a layer of each result."""
    rows = []
    for name, peak in peaks.items():
        level = char if isinstance(char, float) else char[name]
        for number, group in enumerate(groups):
            height = (0.5 - 0.04 * np.abs(LAYERS - peak)) / (number + 1)
            rows += [
                (name, layer, "layers", group, y, y - 0.02, y + 0.02) for layer, y in zip(LAYERS, height, strict=True)
            ]
            rows.append((name, np.nan, "char", group, level / (number + 1), 0.0, 0.0))
    return pd.DataFrame(rows, columns=["result", "layer", "series", "group", "accuracy", "low", "high"])


def drawn(axes: Axes) -> list[Line2D]:
    return [each for each in axes.lines if len(each.get_xdata()) == len(LAYERS)]


def test_each_panel_draws_the_numbers_of_its_group() -> None:
    frame = made({"one": 4, "two": 6})
    for axes, group in zip(curves(frame).axes, ("mean", "low"), strict=True):
        for own, name in zip(drawn(axes), ("one", "two"), strict=True):
            rows = frame[(frame["result"] == name) & (frame["group"] == group) & (frame["series"] == "layers")]
            np.testing.assert_array_equal(own.get_xdata(), rows["layer"])
            np.testing.assert_array_equal(own.get_ydata(), rows["accuracy"])
        bands = [band.get_paths()[0].vertices for band in axes.collections]
        assert [vertices[:, 1].max() for vertices in bands] == pytest.approx([rows["high"].max()] * 2)


def test_the_best_layer_is_ringed_and_numbered_once_at_a_place() -> None:
    axes = curves(made({"one": 4, "two": 6, "three": 4}), ("mean",)).axes[0]
    rings = sorted((ring.get_xdata()[0], ring.get_ydata()[0]) for ring in axes.lines if ring.get_label() == "_best")
    assert rings == [(4, 0.5), (4, 0.5), (6, 0.5)]
    assert sorted(text.get_text() for text in axes.texts) == ["4", "6"]


def test_numbers_of_best_layers_are_inside_and_cover_neither_rings_nor_one_another() -> None:
    """Best at the last layer, at the first, close together, and near the lower axis."""
    frame = made({"a": 8, "b": 8, "c": 0, "d": 7})
    low = (frame["result"] == "b") & (frame["series"] == "layers")
    frame.loc[low, ["accuracy", "low", "high"]] *= 0.75
    frame.loc[frame["result"] == "c", ["accuracy", "low", "high"]] *= 0.05
    axes = curves(frame, ("mean",)).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["0", "7", "8", "8"]
    panel = axes.get_window_extent()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    rings = [axes.transData.transform(ring.get_xydata()[0]) for ring in axes.lines if ring.get_label() == "_best"]
    assert len(rings) == 4
    assert not any(box.contains(*ring) for box in boxes for ring in rings)


def test_a_control_is_one_grey_line_where_results_agree_and_one_each_where_they_do_not() -> None:
    def levels(frame: pd.DataFrame) -> dict[float, object]:
        axes = curves(frame, ("mean",)).axes[0]
        flat = [each for each in axes.lines if each.get_linestyle() != "None" and len(set(each.get_ydata())) == 1]
        return {each.get_ydata()[0]: each.get_color() for each in flat}

    agreed = levels(made({"one": 4, "two": 6}))
    apart = levels(made({"one": 4, "two": 6}, {"one": 0.2, "two": 0.3}))
    assert list(agreed) == [0.2]
    assert sorted(apart) == [0.2, 0.3]
    assert len({*agreed.values(), *apart.values()}) == 3


def test_models_of_different_depth_share_relative_depth() -> None:
    axes = curves(made({"one": 4, "two": 6}), ("mean",), {"one": 8, "two": 16}).axes[0]
    assert [own.get_xdata()[-1] for own in drawn(axes)] == [100, 50]
    assert axes.get_xlabel() == "depth (% of the blocks)"
    assert {text.get_text() for text in axes.texts} == {"4", "6"}  # layers keep their numbers


def test_results_stay_apart_in_greyscale() -> None:
    first, second = drawn(curves(made({"one": 4, "two": 6}), ("mean",)).axes[0])
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()


def test_names_are_taken_literally() -> None:
    frame = made({"_hidden $x_1$": 4, "b": 6})
    figure = curves(frame, ("mean",))
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["_hidden $x_1$", "b", "char control", "best layer"]
    assert not figure.legends[0].get_texts()[0].get_parse_math()


def test_what_is_missing_is_left_out() -> None:
    frame = made({"one": 4})
    frame.loc[frame["group"] == "low", "accuracy"] = np.nan
    frame.loc[frame["layer"] == 2, ["accuracy", "low", "high"]] = np.nan
    frame[["low", "high"]] = np.nan
    (axes,) = curves(frame).axes
    (own,) = (each for each in axes.lines if len(each.get_xdata()) == len(LAYERS) - 1)
    assert 2 not in own.get_xdata()
    assert axes.get_title() == "all directions"


@pytest.mark.parametrize("missing", ["rows", "numbers"])
def test_nothing_to_draw_is_told(missing: str) -> None:
    frame = made({"one": 4})
    frame = frame[:0] if missing == "rows" else frame.assign(accuracy=np.nan)
    with pytest.raises(AnalysisError, match="curves without an accuracy of mean, low; expected"):
        curves(frame)
