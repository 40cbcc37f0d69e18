"""MASSIVE as parallel text: the rows that the task translation reads, and which rows are left out."""

from __future__ import annotations

import json
from pathlib import Path

from lab_data import LANGUAGES, part_of
from massive_pairs import write_pairs

from align.tasks.translation import Translation
from data_manifests import languages


def test_pairs_are_read_as_translations_and_hold_nothing_that_was_seen(tmp_path: Path) -> None:
    """Row 41 of the test rows says in German what a training row says."""
    for code in LANGUAGES:
        rows = []
        for number in range(60):
            text = f"{code} {3 if number == 41 and code == 'deu_Latn' else number}"
            partition = ("train", "dev", "test")[number // 20]
            rows.append({"id": str(number), "partition": partition, "utt": text, "annot_utt": text})
        (tmp_path / f"{languages()[code].massive}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    write_pairs(tmp_path, "de,es", tmp_path / "pairs")

    expected = {
        ("train", "deu_Latn"): [number for number in range(20) if part_of(str(number)) != "pretrain"],
        ("dev", "deu_Latn"): [*range(20, 40)],
        ("test", "deu_Latn"): [number for number in range(40, 60) if number != 41],
        ("test", "spa_Latn"): [*range(40, 60)],
    }
    for (split, code), numbers in expected.items():
        rows = Translation().rows(tmp_path / "pairs", split, f"{code}-en")
        assert [(row.gold.source, row.target) for row in rows] == [(f"{code} {n}", f"eng_Latn {n}") for n in numbers]
