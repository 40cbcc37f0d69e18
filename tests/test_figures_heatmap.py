"""Heatmaps: every cell is the frame's number at its place, differences are centred at 0, labels neither collide nor vanish."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from analysis.accuracies import short_name
from analysis.orders import by_family, families
from data_manifests import language_sets, languages
from figures.heatmap import difference, heatmap, layers
from probe.errors import AnalysisError

CODES = language_sets()["paper35"]
SMALL = ("eng_Latn", "rus_Cyrl", "zho_Hans", "jav_Latn")


def square(codes: tuple[str, ...], seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    pairs = [(a, b) for a in codes for b in codes if a != b]
    base, other = generator.uniform(0, 0.6, (2, len(pairs)))
    frame = pd.DataFrame(pairs, columns=["src", "tgt"])
    return frame.assign(accuracy=base, base=base, other=other, difference=other - base)


def by_layer(codes: tuple[str, ...], count: int, controls: tuple[str, ...] = ("char", "length")) -> pd.DataFrame:
    generator = np.random.default_rng(1)
    columns = [*((layer, "layers") for layer in range(count)), *((np.nan, name) for name in controls)]
    rows = [(code, *column, generator.uniform(0, 0.6)) for code in codes for column in columns]
    return pd.DataFrame(rows, columns=["language", "layer", "series", "accuracy"])


def written(axis: Axis) -> list[tuple[float, str]]:
    """(place, label) of all ticks that show one, in order."""
    both = [
        (axis.get_ticklocs(), axis.get_ticklabels()),
        (axis.get_ticklocs(minor=True), axis.get_ticklabels(minor=True)),
    ]
    ticks = [(place, label.get_text()) for places, labels in both for place, label in zip(places, labels, strict=True)]
    return sorted(tick for tick in ticks if tick[1])


def colliding(figure: Figure) -> list[tuple[str, str]]:
    """Tick labels of one axis that overlap."""
    figure.draw_without_rendering()
    found = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            texts = [text for minor in (False, True) for text in axis.get_ticklabels(minor=minor) if text.get_text()]
            boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_visible()]
            found += [
                (a, b)
                for (a, one), (b, two) in itertools.combinations(boxes, 2)
                if one.padded(-1.5).overlaps(two.padded(-1.5))
            ]
    return found


def test_rows_are_sources_and_columns_are_targets_in_the_given_order() -> None:
    frame = square(SMALL)
    order = ("zho_Hans", "eng_Latn", "jav_Latn", "rus_Cyrl")
    axes, bar = heatmap(frame, order, "model, layer 3").axes
    shown = axes.images[0].get_array().filled(np.nan)
    for row in frame.itertuples():
        assert shown[order.index(row.src), order.index(row.tgt)] == row.accuracy
    assert np.isnan(shown.diagonal()).all()
    assert [name for _, name in written(axes.yaxis)] == ["zh", "en", "jv", "ru"]
    assert [name for _, name in written(axes.xaxis)] == ["zh", "en", "jv", "ru"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("target", "source", "model, layer 3")
    assert bar.get_xlabel() == "retrieval accuracy (%)"
    assert axes.images[0].get_clim() == (0, frame["accuracy"].max())


def test_a_missing_direction_stays_empty_and_none_at_all_is_told() -> None:
    frame = square(SMALL)
    frame.loc[0, "accuracy"] = np.nan
    shown = heatmap(frame[1:], SMALL, "").axes[0].images[0].get_array()
    assert shown.mask[0, 1]
    with pytest.raises(AnalysisError, match="a heatmap without a finite accuracy"):
        heatmap(frame.assign(accuracy=np.nan), SMALL, "")
    with pytest.raises(AnalysisError, match="a heatmap without a finite accuracy"):
        layers(by_layer(SMALL, 3)[:0], SMALL, "")


def test_the_difference_is_centred_at_zero_beside_one_scale_of_accuracy() -> None:
    frame = square(SMALL)
    base, other, gained = (axes.images[0] for axes in difference(frame, SMALL, "base", "aligned", "layer 3").axes[:3])
    low, high = gained.get_clim()
    assert low == -high
    assert high == frame["difference"].abs().max()
    assert base.get_clim() == other.get_clim() == (0, frame[["base", "other"]].max(axis=None))
    assert gained.get_array()[0, 1] == frame["difference"][0]


def test_no_difference_at_all_is_drawn() -> None:
    frame = square(SMALL).assign(difference=0.0)
    low, high = difference(frame, SMALL, "base", "aligned", "layer 3").axes[2].images[0].get_clim()
    assert low == -high < 0


def test_visible_losses_carry_a_minus_that_stands_out_from_its_cell() -> None:
    frame = square(CODES)
    figure = difference(frame, CODES, "base", "aligned", "layer 3")
    axes = figure.axes[2]
    assert figure.axes[-1].get_xlabel() == "difference (points; \N{MINUS SIGN} marks a loss)"
    limit = frame["difference"].abs().max()
    marked = {(CODES[int(y)], CODES[int(x)]) for each in axes.lines for x, y in zip(*each.get_data(), strict=True)}
    losses = frame[frame["difference"] < -0.05 * limit]
    assert marked == set(zip(losses["src"], losses["tgt"], strict=True))
    assert 0 < len(marked) < len(frame)
    for signs in axes.lines:
        white = signs.get_color() == "white"
        values = axes.images[0].get_array()[signs.get_ydata().astype(int), signs.get_xdata().astype(int)]
        assert (values < -0.5 * limit).all() == white


def test_languages_by_layer_stand_beside_their_controls_on_one_scale() -> None:
    frame = by_layer(SMALL, 5)
    own, controls = layers(frame, SMALL, "model").axes[:2]
    zho = frame[(frame["language"] == "zho_Hans") & (frame["layer"] == 4)]["accuracy"]
    jav = frame[(frame["language"] == "jav_Latn") & (frame["series"] == "char")]["accuracy"]
    assert own.images[0].get_array()[2, 4] == zho.item()
    assert controls.images[0].get_array()[3, 0] == jav.item()
    assert own.images[0].get_clim() == controls.images[0].get_clim()
    assert [label.get_text() for label in controls.get_xticklabels()] == ["char", "length"]
    assert len(layers(by_layer(SMALL, 5, ()), SMALL, "model").axes) == 2  # the panel and its colour bar


@pytest.mark.parametrize("grouped", [True, False])
def test_35_languages_are_all_named_without_collision(grouped: bool) -> None:
    order = by_family(CODES)
    parts = families(order) if grouped else None
    expected = [(place, short_name(code)) for place, code in enumerate(order)]
    column, page, deep = (
        heatmap(square(CODES), order, "model", parts),
        difference(square(CODES), order, "base", "other", "layer 3", parts),
        layers(by_layer(CODES, 33), order, "model", parts),
    )
    for figure in (column, page, deep):
        assert colliding(figure) == []
        assert figure.get_figwidth() * 25.4 == pytest.approx(174 if figure is page else 85)
    assert all(written(axes.xaxis) == written(axes.yaxis) == expected for axes in (column.axes[0], *page.axes[:3]))
    assert written(deep.axes[0].yaxis) == expected
    sizes = {label.get_fontsize() for figure in (column, page, deep) for label in figure.axes[0].get_yticklabels()}
    assert min(sizes) >= 5


def test_families_are_named_and_parted_without_collision() -> None:
    order = by_family(CODES)
    figure = heatmap(square(CODES), order, "model", families(order))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == list(dict.fromkeys(families(order).values()))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.padded(-1).overlaps(two.padded(-1)) for one, two in itertools.combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    assert len(axes.collections[0].get_segments()) == len(boxes) - 1


def test_many_languages_are_named_as_far_as_there_is_room() -> None:
    codes = by_family(tuple(languages())[::2])
    figure = heatmap(square(codes), codes, "model", families(codes))
    assert colliding(figure) == []
    assert 10 < len(written(figure.axes[0].yaxis)) < len(codes)
    names = [text for text in figure.axes[0].texts if text.get_visible()]
    assert 3 < len(names) < len(figure.axes[0].texts)
    boxes = [text.get_window_extent().padded(-2.5) for text in names]
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
