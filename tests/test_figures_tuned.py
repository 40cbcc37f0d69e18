"""Curves of a base and of what was trained from it, and gains by group, hold the comparison's numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from figures.gains import gains
from figures.tuned import tuned
from probe.errors import AnalysisError

LAYERS = np.arange(7)
CONTROLS = pd.DataFrame({"control": ["char", "length"], "group": "mean", "accuracy": [0.25, 0.01]})


def made(intervals: bool = False) -> pd.DataFrame:
    rows = []
    for model, lift in (("bottom", 0.05), ("top", -0.1)):
        for group, share in (("mean", 1.0), ("low", 0.5), ("aligned", 1.5)):
            base = share * (0.3 - 0.05 * np.abs(LAYERS - 3))
            gain = lift * share * np.ones(len(LAYERS))
            for layer, one, more in zip(LAYERS, base, gain, strict=True):
                rows.append((model, layer, group, one, one + more, more, more - 0.02, more + 0.03))
    frame = pd.DataFrame(rows, columns=["model", "layer", "group", "base", "other", "difference", "low", "high"])
    if intervals:
        for name in ("base", "other"):
            frame[f"{name}_low"], frame[f"{name}_high"] = frame[name] - 0.01, frame[name] + 0.01
    return frame


def lines(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(each.get_ydata()) for each in axes.lines if len(each.get_xdata()) == len(LAYERS)]


def test_above_are_accuracies_and_below_are_differences() -> None:
    frame = made()
    above, below = tuned(frame, CONTROLS, "base model").axes
    own = frame[frame["group"] == "mean"].set_index("model")
    for drawn, expected in zip(
        lines(above), (own.loc["top", "base"], own.loc["bottom", "other"], own.loc["top", "other"]), strict=True
    ):
        np.testing.assert_array_equal(drawn, expected)
    for drawn, model in zip(lines(below), ("bottom", "top"), strict=True):
        np.testing.assert_array_equal(drawn, own.loc[model, "difference"])
    band = below.collections[1].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((-0.12, -0.07))
    assert {0.25, 0.01} <= {each.get_ydata()[0] for each in above.lines}
    assert below.get_ylabel() == "difference from\nbase model (points)"


def test_intervals_of_accuracies_are_drawn_where_they_are_known() -> None:
    def height(frame: pd.DataFrame) -> float:
        bands = [
            path.vertices for band in tuned(frame, CONTROLS, "base").axes[0].collections for path in band.get_paths()
        ]
        return sum(np.ptp(band[np.isclose(band[:, 0], 3), 1]) for band in bands)

    assert height(made()) == 0
    assert height(made(intervals=True)) == pytest.approx(3 * 0.02)


def test_the_aligned_block_is_marked() -> None:
    figure = tuned(made(), CONTROLS[:0], "base", marks={"bottom": (1,), "top": (6,)})
    for axes in figure.axes:
        marks = {
            each.get_label(): each.get_xdata()[0]
            for each in axes.lines
            if each.get_marker() == "^" and len(each.get_xdata()) == 1
        }
        assert marks == {"_aligned bottom": 1, "_aligned top": 6}
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["base", "bottom", "top", "best layer", "aligned block"]


def test_another_group_has_its_own_numbers_and_name() -> None:
    above, _ = tuned(made(), CONTROLS, "base", group="low").axes
    assert above.get_title() == "low-resource languages"
    assert lines(above)[0].max() == pytest.approx(0.15)
    with pytest.raises(AnalysisError, match="a comparison without an accuracy of to_english"):
        tuned(made(), CONTROLS, "base", group="to_english")


def test_gains_stand_by_group_and_model_with_their_intervals() -> None:
    frame = made()
    (axes,) = gains(frame, 3).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "all directions",
        "low-resource languages",
        "aligned languages",
    ]
    dots = [each for each in axes.lines if len(each.get_xdata()) == 3]
    np.testing.assert_allclose([each.get_xdata() for each in dots], [[5, 2.5, 7.5], [-10, -5, -15]])
    assert len({each.get_marker() for each in dots}) == 2
    segments = [np.array(bars.get_segments())[:, :, 0] for bars in axes.collections]
    np.testing.assert_allclose(segments[0], [[3, 8], [0.5, 5.5], [5.5, 10.5]])
    heights = np.array([each.get_ydata() for each in dots])
    assert (np.diff(heights, axis=0) > 0).all()  # models of one group beside each other, in one order
    assert np.ptp(heights - np.arange(3), axis=1) == pytest.approx([0, 0])
    assert axes.get_xlabel() == "gain in retrieval accuracy at layer 3 (points)"


def test_a_group_that_one_model_lacks_leaves_a_gap() -> None:
    frame = made()
    frame = frame[~((frame["model"] == "top") & (frame["group"] == "low"))]
    (axes,) = gains(frame, 3).axes
    dots = [each for each in axes.lines if len(each.get_xdata()) == 3]
    assert np.isnan(dots[1].get_xdata()[1])


def test_a_layer_that_was_not_compared_is_told() -> None:
    with pytest.raises(AnalysisError, match=r"gains at layer 9; expected a layer of the comparison \(0 to 6\)"):
        gains(made(), 9)
    with pytest.raises(AnalysisError, match="it has none"):
        gains(made()[:0], 0)
