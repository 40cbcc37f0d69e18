"""The data of a run: counted before and after, nothing of development in training, the same on all ranks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from align.data import TrainingData, read_training_data
from align.recipe import load_recipe
from align.trainable import IGNORED
from data_manifests import corpus_manifest
from probe.corpus import ParallelCorpus
from probe.errors import AlignError
from probe.model import ModelSource

Read = Callable[..., TrainingData]


@pytest.fixture
def folder(everyday: ParallelCorpus, tmp_path: Path) -> Path:
    """60 rows of German, 100 of Spanish, with an empty line, a copy, and two sentences in one."""
    english = list(everyday.sentences["eng_Latn"])
    for code, name, count in (("deu_Latn", "de", 60), ("spa_Latn", "es", 100)):
        own, other = [line.rstrip(".") for line in everyday.sentences[code][:count]], [line.rstrip(".") for line in english[:count]]  # fmt: skip
        own[3], own[4], own[5] = "", other[4], "Eins. Zwei."
        for side, lines in ((name, own), ("en", other)):
            (tmp_path / f"toy.{name}-en.{side}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [{"prompt": f"{i}?", "response": english[i][: 3 + i % 17]} for i in range(60)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.fixture
def read(folder: Path, tiny_source: ModelSource) -> Read:
    def reading(*changes: str, rank: int = 0, ranks: int = 1) -> TrainingData:
        basic = (f"align.pairs=[{folder}]", f"task.data={folder / 'task.jsonl'}", "alternation=joint")
        return read_training_data(load_recipe("align", (*basic, *changes)), tiny_source, rank, ranks)

    return reading


def test_rows_are_counted_before_and_after(read: Read) -> None:
    data = read()
    filters = {each["pair"]: each for each in data.counts["pairs"]["filters"]}
    assert [filters[f"{code}-eng_Latn"]["before"] for code in ("deu_Latn", "spa_Latn")] == [60, 100]
    for counts in filters.values():
        dropped = sum(counts[name] for name in ("empty", "same_text", "multi_sentence", "held_out", "duplicate"))
        assert counts["before"] == counts["after"] + dropped
        assert (counts["empty"], counts["same_text"]) == (1, 1)
        assert counts["multi_sentence"] >= 1
    assert data.pairs is not None
    split = {each["pair"]: each for each in data.counts["pairs"]["split"]}
    for part in ("train", "development"):
        assert {each.name: len(each) for each in getattr(data.pairs, part).sets} == {name: counts[part] for name, counts in split.items()}  # fmt: skip
    assert all(counts["development"] >= 20 for counts in split.values())
    assert data.task is not None
    assert data.counts["task"] == {"train": len(data.task.train.rows), "development": len(data.task.development.rows)}
    assert sum(data.counts["task"].values()) == 60


def test_no_text_of_development_is_trained_on(read: Read) -> None:
    data = read()
    assert data.pairs is not None
    assert data.task is not None
    held_out, trained = (
        {text for each in part.sets for text in (*each.sources, *each.targets)}
        for part in (data.pairs.development, data.pairs.train)
    )
    assert not held_out & trained
    assert len(held_out) > 60
    held_out_examples, trained_examples = (
        {tuple(ids) for ids, _ in part.rows} for part in (data.task.development, data.task.train)
    )
    assert not held_out_examples & trained_examples


@pytest.mark.parametrize(
    ("alternation", "held"), [("align", {"pairs"}), ("task", {"task"}), ("joint", {"pairs", "task"})]
)
def test_only_what_the_objectives_need_is_read(alternation: str, held: set[str], read: Read) -> None:
    absent = {"align": "task.data=/nowhere", "task": "align.pairs=[/nowhere]", "joint": "seed=1"}[alternation]
    data = read(f"alternation={alternation}", absent)
    assert set(data.sources()) == set(data.counts) == held


def test_a_development_file_of_its_own(read: Read, folder: Path) -> None:
    (folder / "dev.jsonl").write_text('{"prompt": "What?", "response": "This."}\n')
    data = read(f"task.dev={folder / 'dev.jsonl'}")
    assert data.counts["task"] == {"train": 60, "development": 1}
    assert data.task is not None
    ids, labels = data.task.development.rows[0]
    assert (labels != IGNORED).sum() == len("This.") + 1  # and the end of the turn
    assert len(ids) > len("What?This.")


def test_ranks_share_the_rows_of_one_process(read: Read) -> None:
    alone, first, second = read(), read(ranks=2), read(rank=1, ranks=2)
    assert alone.digest == first.digest == second.digest
    for _ in range(3):
        assert alone.pairs is not None
        assert first.pairs is not None
        assert second.pairs is not None
        whole = alone.pairs.draw(8)
        assert whole.sources == first.pairs.draw(4).sources + second.pairs.draw(4).sources
        assert alone.task is not None
        assert first.task is not None
        assert second.task is not None
        parts = first.task.draw(4), second.task.draw(4)
        assert alone.task.draw(8).responses == sum(part.responses for part in parts)


def test_the_digest_is_that_of_the_rows(read: Read, folder: Path) -> None:
    """Of pairs and examples, not of what does not change them."""
    before = read().digest
    assert read("lr=1").digest == before
    moved = folder / "elsewhere"
    moved.mkdir()
    for path in folder.glob("toy.*"):
        (moved / path.name).write_bytes(path.read_bytes())
    assert read(f"align.pairs=[{moved}]").digest == before
    assert read("align.langs=deu_Latn").digest != before
    task = folder / "task.jsonl"
    lines = task.read_text().splitlines()
    task.write_text("\n".join([lines[0].replace("0?", "other?"), *lines[1:]]) + "\n")
    assert read().digest != before
    task.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    assert read().digest != before, "rows are drawn by number"


def test_long_sentences_are_cut_and_long_examples_refused(read: Read) -> None:
    data = read("align.max_length=8")
    assert data.pairs is not None
    assert max(len(ids) for pair in data.pairs.train.ids for side in pair for ids in side) == 8
    with pytest.raises(AlignError, match=r"longer than 12 tokens.*task.max_length"):
        read("task.max_length=12")


def test_padding_is_a_token_of_the_model(tiny_source: ModelSource, folder: Path) -> None:
    """Some tokenizers have no pad token, others one that was added without an embedding."""
    recipe = load_recipe("align", (f"align.pairs=[{folder}]",))

    def pad(token: int | None) -> int:
        class Tokenizer:
            pad_token_id = token
            __call__ = staticmethod(tiny_source.tokenizer)

        source = replace(tiny_source, tokenizer=Tokenizer())
        data = read_training_data(recipe, SimpleNamespace(tokenizer=source.tokenizer, vocabulary=259, context=4096))  # type: ignore[arg-type]
        assert data.pairs is not None
        batch = data.pairs.train.micro(np.array([[1, row] for row in range(10)])).batch
        (found,) = set(batch.source_ids[~batch.source_mask].tolist())
        return int(found)

    assert (pad(2), pad(None), pad(259), pad(258)) == (2, 0, 0, 258)


def test_data_sets_are_described_with_their_licence(read: Read, folder: Path) -> None:
    """A named corpus has one; of files of one's own nothing is known, also where both are of one language pair."""
    data = read("align.pairs=[everyday]", "align.langs=deu_Latn,rus_Cyrl")
    licence = corpus_manifest("everyday").licence
    assert [(each["name"].split(" ")[0], each["licence"]) for each in data.described] == [
        ("deu_Latn-eng_Latn", licence),
        ("rus_Cyrl-eng_Latn", licence),
        ("task.jsonl", "unknown"),
    ]
    both = read(f"align.pairs=[everyday, {folder}]", "align.langs=deu_Latn", "alternation=align")
    assert [each["licence"] for each in both.described] == [f"{licence}, unknown"]
    assert data.pairs is not None
    assert [each["rows"] for each in data.described[:2]] == [len(each) for each in data.pairs.train.sets]


def test_the_evaluation_data_are_refused_unless_asked_for(read: Read, shared_data: Path, tmp_path: Path) -> None:
    """FLORES-200 under another name."""
    place = tmp_path / "renamed"
    place.mkdir()
    dev = shared_data / "flores200" / "dev"
    for side, code in (("cy", "cym_Latn"), ("en", "eng_Latn")):
        (place / f"news.cy-en.{side}").write_bytes((dev / f"{code}.dev").read_bytes())
    with pytest.raises(AlignError, match="FLORES-200"):
        read(f"align.pairs=[{place}]")
    data = read(f"align.pairs=[{place}]", "align.allow_flores=true")
    assert data.pairs is not None
    assert [each.name for each in data.pairs.train.sets] == ["cym_Latn-eng_Latn"]


def test_evaluation_sentences_within_other_text_are_left_out_and_counted(
    read: Read, shared_data: Path, tmp_path: Path
) -> None:
    """A part of FLORES-200 beside other text, as in ALMA's files; by the English side, in other case and with other blanks."""
    place = tmp_path / "mixed"
    place.mkdir()
    dev = shared_data / "flores200" / "dev"
    for side, code in (("cy", "cym_Latn"), ("en", "eng_Latn")):
        lines = (dev / f"{code}.dev").read_text(encoding="utf-8").split("\n")[:30]
        if side == "en":
            lines[:5] = [f" {line.upper()} ".replace(" ", "  ") for line in lines[:5]]
        (place / f"news.cy-en.{side}").write_text(
            "".join(f"{line}\n" for line in [*lines, *(f"{side} row {number}" for number in range(50))]),
            encoding="utf-8",
        )
    data = read(f"align.pairs=[{place}]", "alternation=align")
    (counts,) = data.counts["pairs"]["filters"]
    assert counts["held_out"] + counts["multi_sentence"] == 30
    assert counts["held_out"] > 20
    assert counts["after"] == 50
    assert [each["overlap"] for each in data.described] == [
        f"pairs that hold an English sentence of flores200 dev are left out: {counts['held_out']} of 80"
    ]
    allowed = read(f"align.pairs=[{place}]", "alternation=align", "align.allow_flores=true")
    (kept,) = allowed.counts["pairs"]["filters"]
    assert (kept["held_out"], kept["after"]) == (0, 50 + counts["held_out"])
    assert [each["overlap"] for each in allowed.described] == ["sentences of flores200 were allowed"]


def test_the_only_row_for_development_has_no_negatives(read: Read, tmp_path: Path) -> None:
    place = tmp_path / "one"
    place.mkdir()
    (place / "toy.cy-en.tsv").write_text("".join(f"cy {n}\tthe same\n" for n in range(39)) + "cy\tother\n")
    with pytest.raises(AlignError, match="too few rows for development"):
        read(f"align.pairs=[{place}]", "alternation=align")


def test_tokens_without_an_embedding_are_refused(folder: Path, tiny_source: ModelSource) -> None:
    """A tokenizer that was given tokens, of a model that was not made larger."""
    tokenizer = copy.deepcopy(tiny_source.tokenizer)
    tokenizer.add_tokens(["Eins"])
    (folder / "toy.de-en.de").write_text("".join(f"Eins {n}\n" for n in range(60)), encoding="utf-8")
    given = (f"align.pairs=[{folder}]", "alternation=align")
    with pytest.raises(AlignError, match=r"text with token 259; expected ids below 259"):
        read_training_data(load_recipe("align", given), replace(tiny_source, tokenizer=tokenizer))
