"""Universal NER in lower case is Universal NER still."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from lower_uner import lowered, main

from align.tasks.entities import Entities

LINES = "# sent_id = A-1\n# text = Lima, in PERU\n1\tLima\tB-LOC\t-\tX\n2\t,\tO\t-\tX\n3\tin\tO\t-\tX\n4\tPERU\tB-LOC\t-\tX\n\n"


def test_texts_and_tokens_are_lowered_and_nothing_else() -> None:
    assert "\n".join(map(lowered, LINES.split("\n"))) == LINES.replace("Lima", "lima").replace("PERU", "peru")


def test_the_folder_is_read_with_the_same_entities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "uner" / "UNER_English-EWT", tmp_path / "lower"
    source.mkdir(parents=True)
    (source / "en_ewt-ud-test.iob2.gz").write_bytes(gzip.compress(LINES.encode()))
    monkeypatch.setattr("sys.argv", ["lower_uner.py", "--uner", str(source.parent), "--out", str(out)])
    main()
    (row,) = Entities().rows(out, "test", "en")
    (given,) = Entities().rows(source.parent, "test", "en")
    assert row.prompt[-1].content.endswith("lima, in peru")
    assert [entity[:1] + entity[2:] for entity in row.gold.entities] == [
        entity[:1] + entity[2:] for entity in given.gold.entities
    ]
    assert [entity.text for entity in row.gold.entities] == ["lima", "peru"]


def test_longer_sentences_are_left_out_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "uner" / "UNER_English-EWT", tmp_path / "lower"
    source.mkdir(parents=True)
    longer = LINES.replace("A-1", "A-2").replace("Lima, in", "Lima, is in").replace("3\tin\tO", "3\tis in\tO")
    (source / "en_ewt-ud-test.iob2").write_text(LINES + longer + LINES.replace("A-1", "A-3"), encoding="utf-8")
    monkeypatch.setattr(
        "sys.argv", ["lower_uner.py", "--uner", str(source.parent), "--out", str(out), "--longest", "13"]
    )
    main()
    assert [row.id for row in Entities().rows(out, "test", "en")] == ["A-1", "A-3"]


def test_sentences_without_an_entity_are_left_out_of_training_and_stay_in_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "uner" / "UNER_Portuguese-Bosque", tmp_path / "lower"
    source.mkdir(parents=True)
    without = LINES.replace("A-1", "A-2").replace("B-LOC", "O")
    for split in ("train", "test"):
        (source / f"pt_bosque-ud-{split}.iob2").write_text(LINES + without, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["lower_uner.py", "--uner", str(source.parent), "--out", str(out), "--named"])
    main()
    kept = {split: [row.id for row in Entities().rows(out, split, "pt")] for split in ("train", "test")}
    assert kept == {"train": ["A-1"], "test": ["A-1", "A-2"]}
