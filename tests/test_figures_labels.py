"""Names beside points neither cover each other, nor a point, nor leave the axes, and stand where they stood before."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from figures.labels import place
from figures.style import COLUMN, paper, sheet


def clouds(seed: int) -> tuple[pd.Series, pd.Series]:
    """35 points, in turn a blob, a steep line and a line along the lower edge."""
    generator = np.random.default_rng(seed)
    x = generator.normal(0.3, 0.1, 35)
    y = (generator.normal(60, 5, 35), 40 + 100 * x + generator.normal(0, 1, 35), generator.exponential(0.4, 35))[
        seed % 3
    ]
    return pd.Series(x), pd.Series(y)


def labelled(x: pd.Series, y: pd.Series, avoid: bool = False) -> tuple[Axes, list[Text], Bbox]:
    with paper():
        axes = sheet(COLUMN, 65.0).subplots()
        axes.plot(x, y, "o")
        axes.margins(0.1)
        box = Bbox.from_bounds(150, 450, 400, 120)
        names = ["khm" if number % 5 == 0 else "en" for number in range(len(x))]
        return axes, place(axes, x, y, names, [box] if avoid else []), box


@pytest.mark.parametrize("seed", range(6))
def test_no_label_covers_anything_or_leaves_the_axes(seed: int) -> None:
    x, y = clouds(seed)
    axes, texts, box = labelled(x, y, avoid=True)
    boxes = [text.get_window_extent() for text in texts]
    spots = axes.transData.transform(np.column_stack([x, y]))
    outer = axes.get_window_extent()
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(own.contains(*spot) for own in boxes for spot in spots)
    assert not any(own.overlaps(box) for own in boxes)
    assert all(outer.x0 <= own.x0 and own.x1 <= outer.x1 and outer.y0 <= own.y0 and own.y1 <= outer.y1 for own in boxes)


def test_without_placing_the_same_labels_would_overlap() -> None:
    """So that the test above can fail."""
    _, texts, _ = labelled(*clouds(0))
    for text, spot in zip(texts, np.column_stack(clouds(0)), strict=True):
        text.set_position(tuple(spot))
    assert any(
        one.get_window_extent().overlaps(other.get_window_extent()) for one, other in itertools.combinations(texts, 2)
    )


def test_labels_stay_where_they_were() -> None:
    one, two = (labelled(*clouds(4))[1] for _ in range(2))
    assert [text.get_position() for text in one] == [text.get_position() for text in two]


def test_points_without_room_still_get_every_label_inside() -> None:
    x = pd.Series(np.full(300, 0.5))
    axes, texts, _ = labelled(x, x)
    outer = axes.get_window_extent()
    assert all(outer.x0 <= each.x0 and each.x1 <= outer.x1 for each in (text.get_window_extent() for text in texts))


def test_a_label_far_from_its_point_is_tied_to_it() -> None:
    x = pd.Series(np.full(30, 0.5))
    axes, _, _ = labelled(x, x)
    leaders = [each for each in axes.lines if each.get_label() == "_leader"]
    assert len(leaders) >= 10
    assert all(each.get_xdata()[0] == pytest.approx(0.5) for each in leaders)
    assert not [each for each in labelled(x[:1], x[:1])[0].lines if each.get_label() == "_leader"]
