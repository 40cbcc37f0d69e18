"""Micro-F1 and its bootstrap: literal oracles, and one draw for all languages."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.tasks.f1 import Counts, Draws, interval, match, matched, percent, precision_recall_f1, ratios, total

ENTITIES = st.lists(st.sampled_from("abcd"), max_size=8)


@given(ENTITIES, ENTITIES)
def test_matching_strikes_out_one_for_one(gold: list[str], predicted: list[str]) -> None:
    left, right, wrong = list(gold), [], []
    for entity in predicted:
        if entity in left:
            left.remove(entity)
            right.append(entity)
        else:
            wrong.append(entity)
    found = match(gold, predicted)
    assert (found.right, found.wrong, found.missed) == (Counter(right), Counter(wrong), Counter(left))
    assert matched(gold, predicted) == found.counts == (len(right), len(wrong), len(left))


def test_precision_recall_f1() -> None:
    assert precision_recall_f1(Counts(2, 1, 6)) == pytest.approx((100 * 2 / 3, 25.0, 400 / 11))
    assert precision_recall_f1(Counts(0, 0, 3)) == (0, 0, 0)
    assert precision_recall_f1(Counts(0, 3, 0)) == (0, 0, 0)
    assert precision_recall_f1(Counts()) == (0, 0, 0)
    both = ratios(np.array([[2, 1, 6], [0, 0, 0]], dtype=np.float64))
    assert [list(values) for values in both] == [[each, 0.0] for each in precision_recall_f1(Counts(2, 1, 6))]
    assert percent(np.array([1.0, 1.0]), np.array([4.0, 0.0])).tolist() == [25.0, 0.0]


def test_a_draw_has_as_many_ids_as_there_are() -> None:
    draws = Draws.of((str(i) for i in range(50)), 200, seed=0)
    assert draws.weights.shape == (200, 50)
    assert (draws.weights.sum(1) == 50).all()
    assert abs(draws.weights.mean(0) - 1).max() < 0.5  # each id as often as any other
    assert 0.55 < (draws.weights > 0).mean() < 0.72  # with replacement: a share of 1 - 1/e is drawn


def test_the_order_of_ids_does_not_matter_the_seed_does() -> None:
    ids = [str(i) for i in range(30)]
    one, other = Draws.of(ids, 20, seed=1), Draws.of([*reversed(ids), *ids], 20, seed=1)
    rows = [Counts(i % 3, i % 2, i % 5) for i in range(30)]
    assert (one.f1(ids, rows) == other.f1(ids, rows)).all()
    assert (one.f1(ids, rows) == other.f1(ids[::-1], rows[::-1])).all()
    assert (one.f1(ids, rows) != Draws.of(ids, 20, seed=2).f1(ids, rows)).any()


def test_draws_equal_the_same_rows_written_out() -> None:
    """Of a language that has some of the ids only, and of one with all."""
    generator = np.random.default_rng(0)
    ids = [str(i) for i in range(40)]
    draws = Draws.of(ids, 25, seed=3)
    for own in (ids, ids[5:20]):
        rows = [Counts(*map(int, generator.integers(0, 4, 3))) for _ in own]
        values = draws.f1(own, rows)
        for draw in range(25):
            often = dict(zip(sorted(ids), draws.weights[draw], strict=True))
            written = [row for name, row in zip(own, rows, strict=True) for _ in range(often[name])]
            assert values[draw] == pytest.approx(precision_recall_f1(total(written))[2], rel=1e-12)
            assert tuple(draws.sums(own, rows)[draw]) == total(written)


def test_languages_share_their_draws() -> None:
    """Two languages with the same rows never differ, so that the interval of their difference is empty."""
    ids = [str(i) for i in range(60)]
    rows = [Counts(i % 2, i % 3 == 0, i % 4 == 0) for i in range(60)]
    draws = Draws.of(ids, 100, seed=0)
    assert interval(draws.f1(ids, rows) - draws.f1(ids, rows)) == (0, 0)
    assert np.ptp(draws.f1(ids, rows)) > 1


def test_intervals() -> None:
    assert interval(np.arange(1001, dtype=np.float64)) == (25.0, 975.0)
    assert interval(np.array([])) == (None, None)
    assert interval(Draws.of(["a"], 0, seed=0).f1(["a"], [Counts(1, 0, 0)])) == (None, None)


def test_nothing_to_draw_from() -> None:
    draws = Draws.of([], 10, seed=0)
    assert draws.f1([], []).tolist() == [0] * 10
    assert total([]) == Counts()
