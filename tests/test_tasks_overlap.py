"""Probe sentences in training text are found, counted and left out."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from align.examples import Message
from align.tasks.overlap import HeldOut, held_out, normal, without_overlap
from align.tasks.task import TaskRow
from align.tasks.translation import Translation
from probe.corpus import ParallelCorpus
from probe.errors import AlignError


def row(source: str, target: str, language: str = "deu_Latn-eng_Latn", number: int = 0) -> TaskRow:
    prompt = (Message("system", "Translate."), Message("user", source))
    return TaskRow(f"made:{number}", language, prompt, target, None)


PROBED = HeldOut.of([ParallelCorpus("probed", "dev", {"deu_Latn": ("Der Hund.",), "eng_Latn": ("The Dog.",)})])


@pytest.mark.parametrize("pair", ["cs-en", "de-en", "is-en", "ru-en", "zh-en"])
def test_alma_holds_the_dev_split_as_its_last_rows(
    pair: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly the last 997 rows of each file, by either side; README of the data."""
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    rows = Translation().rows(shared_data / "alma", "train", pair)
    probed = held_out(rows)
    for texts in ([each.prompt[-1].content for each in rows], [each.target for each in rows]):
        holds = [normal(text) in probed.sentences for text in texts]
        assert holds == [number >= len(rows) - 997 for number in range(len(rows))]
    if pair == "is-en":
        with pytest.raises(AlignError, match="all 997 training rows hold a sentence of flores200 dev"):
            without_overlap(rows)
        return
    kept, overlap = without_overlap(rows)
    assert kept == rows[:-997]
    name = rows[0].language
    assert (overlap.before, overlap.found) == ({name: len(rows)}, {name: 997})
    assert asdict(overlap)["before"] == {name: len(rows)}, "as a log keeps it"
    assert overlap.note == (
        f"training rows that hold a sentence of flores200 dev are left out: {name} 997 of {len(rows)}; "
        "devtest could not be read and was not looked for"
    )


def test_test_sets_hold_none(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    rows = Translation().rows(shared_data / "alma", "dev")
    kept, overlap = without_overlap(rows)
    assert kept == rows
    assert not any(overlap.found.values())
    assert "are left out: none was found; devtest" in overlap.note


def test_a_row_goes_by_either_side() -> None:
    rows = [
        row("Der Hund.", "A dog it is."),
        row("Ein Hund.", "the  dog."),
        row("Der Hund. Die Katze.", "The dog. The cat."),
        row("Nichts.", "Nothing."),
        row("The Dog.", "Le chien.", "eng_Latn-fra_Latn"),
    ]
    kept, overlap = without_overlap(rows, PROBED)
    assert kept == (rows[2], rows[3])
    assert dict(overlap.before) == {"deu_Latn-eng_Latn": 4, "eng_Latn-fra_Latn": 1}
    assert dict(overlap.found) == {"deu_Latn-eng_Latn": 2, "eng_Latn-fra_Latn": 1}
    assert overlap.note == (
        "training rows that hold a sentence of probed dev are left out: deu_Latn-eng_Latn 2 of 4, eng_Latn-fra_Latn 1 of 1"
    )
    everything, same = without_overlap(rows, PROBED, keep=True)
    assert everything == tuple(rows)
    assert same == replace(overlap, kept=True)
    assert "sentence of probed dev are kept: deu_Latn-eng_Latn 2 of 4" in same.note


def test_an_instruction_is_no_training_text() -> None:
    kept, _ = without_overlap(
        [TaskRow("a:1", "deu_Latn-eng_Latn", (Message("system", "The Dog."), Message("user", "x")), "y", None)], PROBED
    )
    assert len(kept) == 1


@pytest.mark.parametrize(
    "text",
    ["der hund.", "DER HUND.", " Der\u00a0 Hund.\n", "Der\u3000Hund．", "Der Hund.\u2028", "Der\tHund."],  # noqa: RUF001
)
def test_the_same_sentence_written_otherwise(text: str) -> None:
    assert without_overlap([row(text, "x"), row("a", "b")], PROBED)[0] == (row("a", "b"),)


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert normal("Café ﬁn") == normal("CAFE\u0301 fin")
    assert normal("Der Hund") != normal("Der Hund.")


def test_nothing_left_is_told() -> None:
    with pytest.raises(
        AlignError, match=r"all 1 training rows hold a sentence of probed dev.*--allow-flores-training"
    ) as caught:
        without_overlap([row("Der Hund.", "x")], PROBED)
    assert "\n" not in str(caught.value)
    assert without_overlap([], PROBED)[0] == ()
    assert without_overlap([row("Der Hund.", "x")], PROBED, keep=True)[0]


def test_both_splits_where_both_are_there(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in ("deu_Latn", "eng_Latn"):
        dev, devtest = tmp_path / "flores200" / "dev", tmp_path / "flores200" / "devtest"
        dev.mkdir(parents=True, exist_ok=True)
        devtest.mkdir(exist_ok=True)
        (dev / f"{code}.dev").write_bytes((shared_data / "flores200" / "dev" / f"{code}.dev").read_bytes())
        lines = "".join(f"{code} sentence {number}\n" for number in range(1012))
        (devtest / f"{code}.devtest").write_text(lines)
    monkeypatch.setenv("MIDPROBE_DATA", str(tmp_path))
    rows = [row("deu_Latn sentence 7", "x"), row("y", "z")]
    kept, overlap = without_overlap(rows)
    assert kept == (rows[1],)
    assert (overlap.corpus, overlap.doubts) == ("flores200 dev, flores200 devtest", ())
    assert without_overlap(rows, held_out(rows, ["dev"]))[0] == tuple(rows)


def test_another_edition_is_told(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrected sentence there is not the one in the training text."""
    folder = tmp_path / "flores200" / "dev"
    folder.mkdir(parents=True)
    for code in ("deu_Latn", "eng_Latn"):
        text = (shared_data / "flores200" / "dev" / f"{code}.dev").read_text(encoding="utf-8")
        (folder / f"{code}.dev").write_text(text.replace(" und ", " sowie ", 1), encoding="utf-8")
    monkeypatch.setenv("MIDPROBE_DATA", str(tmp_path))
    _, overlap = without_overlap([row("a", "b")])
    assert overlap.doubts == (
        "devtest could not be read and was not looked for",
        "flores200 dev was read in another version, so that sentences may be missed, in deu_Latn",
    )


def test_flores_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(tmp_path))
    with pytest.raises(
        AlignError, match=r"cannot be compared with flores200 dev .* probe data fetch flores200"
    ) as caught:
        without_overlap([row("a", "b")])
    assert "\n" not in str(caught.value)
    kept, overlap = without_overlap([row("a", "b")], keep=True)
    assert len(kept) == 1
    assert overlap.doubts == ("flores200 could not be read and was not looked for",)
    odd = [row("a", "b", "xxx-yyy")]
    assert without_overlap(odd)[0] == tuple(odd), "languages that FLORES-200 lacks need no comparison"


def test_a_split_that_is_asked_for_must_be_there(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    with pytest.raises(AlignError, match="cannot be compared with flores200 devtest"):
        held_out([row("a", "b")], ["devtest"])
