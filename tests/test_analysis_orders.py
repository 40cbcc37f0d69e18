"""The rows that heatmaps show, against the summary of the result, and the orders in which languages stand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest

from analysis.accuracies import Accuracies
from analysis.curves import curve_of
from analysis.orders import (
    UNKNOWN,
    best_layer,
    by_cluster,
    by_family,
    directions,
    families,
    group_means,
    language_layers,
)
from data_manifests import language_sets
from probe.errors import AnalysisError
from probe.results import RetrievalResult

CODES = ("eng_Latn", "rus_Cyrl", "jav_Latn", "deu_Latn", "ukr_Cyrl", "zho_Hans", "ind_Latn")


@pytest.fixture(scope="module")
def result(simulate: Callable[..., RetrievalResult]) -> RetrievalResult:
    return simulate(languages=CODES, depth=4, rows=60)


@pytest.fixture(scope="module")
def accuracies(result: RetrievalResult) -> Accuracies:
    return Accuracies.of_result(result, "small")


def test_families_stand_together_and_the_largest_comes_first() -> None:
    codes = (*language_sets()["paper35"], "xyz_Latn")
    ordered = by_family(codes)
    of = families(codes)
    blocks = [name for name, _ in groupby(ordered, key=of.__getitem__)]
    sizes = [sum(of[code] == name for code in codes) for name in blocks[:-1]]
    assert sorted(ordered) == sorted(codes)
    assert len(blocks) == len(set(blocks))
    assert sizes == sorted(sizes, reverse=True)
    assert blocks[-1] == UNKNOWN == of["xyz_Latn"]


def test_in_a_family_scripts_stand_together_and_the_input_order_changes_nothing() -> None:
    codes = (*CODES, "fra_Latn")
    ordered = by_family(codes)
    assert ordered == by_family(codes[::-1])
    assert ordered[:5] == ("deu_Latn", "eng_Latn", "fra_Latn", "rus_Cyrl", "ukr_Cyrl")


def test_clustering_puts_languages_together_that_retrieve_each_other() -> None:
    codes = tuple("abcdef")
    table = np.full((6, 6), 0.1)
    for one in (("a", "d", "f"), ("b", "c", "e")):  # two hidden blocks, interleaved
        rows = [codes.index(code) for code in one]
        table[np.ix_(rows, rows)] = 0.8
    np.fill_diagonal(table, np.nan)
    before = table.copy()
    ordered = by_cluster(table, codes)
    assert {frozenset(ordered[:3]), frozenset(ordered[3:])} == {frozenset("adf"), frozenset("bce")}
    np.testing.assert_array_equal(table, before)  # the caller's diagonal is still NaN


def test_clustering_sees_both_directions_of_a_pair() -> None:
    """a and b stand together though only one of their directions is good."""
    table = np.full((4, 4), 0.3)
    table[0, 3] = 1.0
    np.fill_diagonal(table, np.nan)
    ordered = by_cluster(table, ("a", "x", "y", "b"))
    assert abs(ordered.index("a") - ordered.index("b")) == 1
    assert by_cluster(table[:2, :2], ("a", "x")) == ("a", "x")


def test_directions_are_those_of_the_result(result: RetrievalResult, accuracies: Accuracies) -> None:
    frame = directions(accuracies, 2).set_index(["src", "tgt"])["accuracy"]
    assert len(frame) == len(CODES) * (len(CODES) - 1)
    assert frame["rus_Cyrl", "zho_Hans"] == result.hits(2)[1, 5].mean()
    assert frame["zho_Hans", "rus_Cyrl"] == result.hits(2)[5, 1].mean()
    with pytest.raises(AnalysisError, match="layer 9"):
        directions(accuracies, 9)


def test_languages_by_layer_are_means_over_both_roles(result: RetrievalResult, accuracies: Accuracies) -> None:
    order = by_family(CODES)
    frame = language_layers(accuracies, order)
    share = result.accuracy(3)
    expected = (np.nansum(share[5]) + np.nansum(share[:, 5])) / (2 * (len(CODES) - 1))
    own = frame[(frame["language"] == "zho_Hans") & (frame["layer"] == 3)]["accuracy"]
    assert own.to_list() == pytest.approx([expected])
    assert tuple(dict.fromkeys(frame["language"])) == order
    assert set(frame.loc[frame["layer"].isna(), "series"]) == {"char", "length"}


def test_the_curves_of_a_bare_table_are_those_of_its_result(result: RetrievalResult, accuracies: Accuracies) -> None:
    """Computed from shares here and from hits there; only the intervals cannot be had."""
    keys = ["result", "series", "layer", "group"]
    bare = group_means(accuracies).set_index(keys).sort_index()
    full = curve_of("small", result, documents="sentences", draws=100).set_index(keys).sort_index()
    assert bare.index.equals(full.index)
    np.testing.assert_allclose(bare["accuracy"], full["accuracy"], rtol=1e-12)
    assert bare[["low", "high"]].isna().all(axis=None)


def test_the_best_layer_is_that_of_the_summary(result: RetrievalResult, accuracies: Accuracies) -> None:
    assert best_layer(accuracies) == result.summary()["best_layer"]
