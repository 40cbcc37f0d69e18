"""Micro-batches: padding, what is not a negative, every development row once, names for people."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from align.batches import ExampleRows, PairRows, Source, on
from align.pairs import PairSet
from align.sampling import ExampleSampler, PairSampler
from align.trainable import IGNORED, PairBatch, TaskBatch
from probe.model import ModelSource, tokenise

PAD = 2


@pytest.fixture
def sets() -> tuple[PairSet, ...]:
    """Two language pairs; the first has a source twice, both have an English text of one another."""
    german = PairSet("deu_Latn", "eng_Latn", ("Ja.", "Nein, nie.", "Ja.", "Wo?"), ("Yes.", "No, never.", "Yeah.", "Where?"), "de")  # fmt: skip
    spanish = PairSet("spa_Latn", "eng_Latn", ("Sí.", "¿Quién?", "Aquí."), ("Yes.", "Who is it?", "Here."), "es")
    return german, spanish


@pytest.fixture
def rows(sets: tuple[PairSet, ...], tiny_source: ModelSource) -> PairRows:
    return PairRows.tokenised(sets, tiny_source.tokenizer, PAD, 9)


def texts(batch: PairBatch, tokenizer: Any) -> list[tuple[str, str]]:
    """Back to text, by the masks."""
    sides = ((batch.source_ids, batch.source_mask), (batch.target_ids, batch.target_mask))
    columns = [[tokenizer.decode(ids[mask][1:].tolist()) for ids, mask in zip(*side, strict=True)] for side in sides]
    return list(zip(*columns, strict=True))


def test_a_micro_batch_holds_the_rows_that_were_drawn(rows: PairRows, tiny_source: ModelSource) -> None:
    micro = rows.micro(np.array([[1, 0], [0, 1], [0, 3]]))
    assert (micro.sources, micro.targets) == (("Sí.", "Nein, nie.", "Wo?"), ("Yes.", "No, never.", "Where?"))
    cut = "Nein, ni"  # 9 tokens, of which the first is the BOS; other rows are shorter
    assert texts(micro.batch, tiny_source.tokenizer) == [("Sí.", "Yes."), (cut, "No, neve"), ("Wo?", "Where?")]
    for ids, mask in ((micro.batch.source_ids, micro.batch.source_mask), (micro.batch.target_ids, micro.batch.target_mask)):  # fmt: skip
        assert ids[~mask].eq(PAD).all()
        assert mask.sum(1).max() == ids.shape[1]
    expected = tokenise(tiny_source.tokenizer, ["Sí."], "spa_Latn")[0]
    assert micro.batch.source_ids[0, : len(expected)].tolist() == expected.tolist()


def test_rows_with_the_anchors_source_or_target_are_no_negatives(rows: PairRows) -> None:
    """`Ja.` twice with other translations, and `Yes.` from two languages."""
    micro = rows.micro(np.array([[0, 0], [0, 2], [1, 0], [0, 3]]))
    expected = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(micro.excluded(), expected)


def test_a_micro_batch_is_named_by_its_first_rows(rows: PairRows) -> None:
    micro = rows.micro(np.array([[1, 2], [0, 1], [0, 3]]))
    assert micro.where == "3 rows, first spa_Latn-eng_Latn 'Aquí.', deu_Latn-eng_Latn 'Nein, nie.'"
    examples = ExampleRows(((np.arange(3), np.arange(3)),) * 3, PAD, ("a line 1", "x" * 70, "c line 3"))
    assert examples.micro([2, 1]).where == f"2 rows, first c line 3, {'x' * 59}…"
    assert ExampleRows(examples.rows, PAD).micro([2, 0]).where == "2 rows, first 2, 0"


@pytest.mark.parametrize(("size", "lengths"), [(2, [2, 2, 2]), (3, [3, 3]), (4, [4, 3]), (10, [7])])
def test_development_goes_over_every_pair_once_in_one_order(rows: PairRows, size: int, lengths: list[int]) -> None:
    """Seven rows; a single last one has no negatives and is left out."""
    micros = list(rows.in_order(size, seed=0))
    assert [len(micro.sources) for micro in micros] == lengths
    seen = Counter(pair for micro in micros for pair in zip(micro.sources, micro.targets, strict=True))
    every = Counter(pair for each in rows.sets for pair in zip(each.sources, each.targets, strict=True))
    assert seen <= every
    assert sum(seen.values()) == sum(lengths)
    assert [micro.sources for micro in rows.in_order(size, seed=0)] == [micro.sources for micro in micros]
    assert len({len(source) > 0 and source for source in micros[0].sources}) > 1


def test_development_mixes_the_language_pairs(sets: tuple[PairSet, ...], tiny_source: ModelSource) -> None:
    """In the order of the sets, a batch's negatives would be of one language only."""
    many = [
        PairSet(each.source, "eng_Latn", tuple(f"{each.source}{i}" for i in range(40)), tuple(f"e{i}" for i in range(40)), "x")
        for each in sets
    ]  # fmt: skip
    micros = list(PairRows.tokenised(many, tiny_source.tokenizer, PAD, 20).in_order(20, seed=0))
    assert all(len({source[:8] for source in micro.sources}) == 2 for micro in micros)


@pytest.fixture
def examples() -> ExampleRows:
    lengths = [4, 7, 2, 5, 6]
    rows = []
    for length in lengths:
        ids = np.arange(length) + 10 * length
        rows.append((ids, np.where(np.arange(length) >= 1 + length // 2, ids, IGNORED)))
    return ExampleRows(tuple(rows), PAD)


def test_examples_are_padded_and_their_padding_is_not_learnt(examples: ExampleRows) -> None:
    micro = examples.micro([2, 1])
    assert micro.batch.ids.tolist() == [[20, 21, 2, 2, 2, 2, 2], [70, 71, 72, 73, 74, 75, 76]]
    assert micro.batch.mask.sum(1).tolist() == [2, 7]
    assert micro.batch.labels.tolist() == [[IGNORED] * 7, [IGNORED] * 4 + [74, 75, 76]]
    assert micro.responses == 3


def test_the_first_token_is_no_response() -> None:
    """Nothing is before it to predict it from, so a loss per token must not count it."""
    ids = np.array([5, 6, 7])
    assert ExampleRows(((ids, ids),), PAD).micro([0]).responses == 2


def test_development_goes_over_every_example_once_longest_first(examples: ExampleRows) -> None:
    micros = list(examples.in_order(2))
    assert [micro.batch.mask.sum(1).tolist() for micro in micros] == [[7, 6], [5, 4], [2]]
    assert sum(micro.responses for micro in micros) == sum(int((labels != IGNORED).sum()) for _, labels in examples.rows)  # fmt: skip


def test_a_source_draws_what_its_sampler_says(rows: PairRows, examples: ExampleRows) -> None:
    pairs = Source(rows, rows, PairSampler([4, 3], 0.3, seed=5))
    drawn = PairSampler([4, 3], 0.3, seed=5).draw(6)
    assert pairs.draw(6).sources == rows.micro(drawn).sources
    task = Source(examples, examples, ExampleSampler(5, seed=5))
    first, second = task.draw(3), task.draw(2)
    assert sorted(int(ids[0]) // 10 for ids in (*first.batch.ids, *second.batch.ids)) == [2, 4, 5, 6, 7]


def test_a_batch_keeps_its_kind_on_a_device(rows: PairRows, examples: ExampleRows) -> None:
    assert type(on(rows.micro(np.array([[0, 0], [0, 1]])).batch, torch.device("meta"))) is PairBatch
    moved = on(examples.micro([0]).batch, torch.device("meta"))
    assert type(moved) is TaskBatch
    assert all(tensor.device.type == "meta" for tensor in moved)
