"""Which objective is optimised when: counts over many updates, and the first of them spelt out."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from align.schedule import Alternation, objectives
from probe.errors import AlignError


@pytest.mark.parametrize(
    ("alternation", "updates"),
    [
        ("per-update", [("task",) * 4, ("align",) * 4, ("task",) * 4]),
        ("per-microbatch", [("task", "align", "task", "align")] * 3),
        ("joint", [("joint",) * 4] * 3),
        ("task", [("task",) * 4] * 3),
        ("align", [("align",) * 4] * 3),
    ],
)
def test_the_first_updates(alternation: Alternation, updates: list[tuple[str, ...]]) -> None:
    assert [objectives(alternation, 4, update) for update in range(3)] == updates


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("alternation", ["per-update", "per-microbatch"])
def test_both_objectives_get_the_same_share(alternation: Alternation, accumulation: int) -> None:
    counts = Counter(each for update in range(20) for each in objectives(alternation, accumulation, update))
    assert counts == {"task": 10 * accumulation, "align": 10 * accumulation}


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4])
def test_an_update_is_of_one_objective_only_where_the_alternation_says_so(accumulation: int) -> None:
    assert all(len(set(objectives("per-update", accumulation, update))) == 1 for update in range(6))
    mixed = {len(set(objectives("per-microbatch", accumulation, update))) for update in range(6)}
    assert mixed == {min(accumulation, 2)}


def test_one_micro_batch_an_update_makes_the_two_alternations_one() -> None:
    assert [objectives("per-microbatch", 1, update) for update in range(6)] == [
        objectives("per-update", 1, update) for update in range(6)
    ]


@pytest.mark.parametrize("alternation", get_args(Alternation))
def test_every_micro_batch_has_an_objective(alternation: Alternation) -> None:
    assert all(len(objectives(alternation, count, 1)) == count for count in (1, 3, 4))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(AlignError, match="alternation 'by-epoch'; expected one of per-update, per-microbatch"):
        objectives("by-epoch", 4, 0)  # type: ignore[arg-type]
    with pytest.raises(AlignError, match="0 micro-batches"):
        objectives("joint", 0, 0)
