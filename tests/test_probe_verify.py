"""The check of a corpus finds each fault it is for, where it is, and nothing in sound text."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from probe.corpus import ParallelCorpus, read_folder, text_digest
from probe.verify import LanguageCheck, script_share, verify

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def flores(shared_data: Path) -> ParallelCorpus:
    """The 41 plain languages of FLORES-200 dev."""
    return read_folder(shared_data / "flores200/dev", split="dev", name="flores200")


def changed(corpus: ParallelCorpus, code: str, lines: Sequence[str]) -> LanguageCheck:
    """The check of one language after its text was changed; the name is not FLORES's, so that no digest tells."""
    english = corpus.sentences["eng_Latn"]
    first, second = verify(ParallelCorpus("mine", "dev", {"eng_Latn": english, code: tuple(lines)}))
    assert first.faults == ()
    return second


def rows_of(fault: str) -> tuple[int, int]:
    """The rows that a fault names: `in rows 501 to 990, ...`."""
    words = fault.replace(",", "").split()
    return int(words[2]), int(words[4])


# Sound text


def test_real_flores_has_no_fault(flores: ParallelCorpus) -> None:
    checks = {check.language: check for check in verify(flores)}
    assert len(checks) == 41
    for check in checks.values():
        assert check.faults == ()
        assert check.rows == 997
        assert check.script_share > 0.9
        assert check.numbers_kept is not None
        assert check.numbers_shifted is not None
        assert check.numbers_kept > 0.85
        assert check.numbers_shifted < 0.06
        assert check.sha256 == text_digest(flores.sentences[check.language])
    assert checks["eng_Latn"].numbers_kept == 1.0


def test_all_204_real_languages_are_in_their_script_and_in_place(
    shared_data: Path, flores: ParallelCorpus, tmp_path: Path
) -> None:
    """Poor numbers of some (Kikuyu keeps 29 %) are no slipped rows; shares are those of the data's own notes."""
    with tarfile.open(shared_data / "flores200/dev-other163.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    others = read_folder(tmp_path / "dev", name="flores200", split="dev")
    checks = verify(replace(others, sentences={"eng_Latn": flores.sentences["eng_Latn"], **others.sentences}))
    assert len(checks) == 164
    assert [(check.language, check.faults) for check in checks if check.faults] == []
    assert min(check.script_share for check in checks) > 0.7
    poor = {check.language for check in checks if check.numbers_kept is not None and check.numbers_kept < 0.7}
    assert poor == {"kik_Latn", "dyu_Latn", "yor_Latn", "ars_Arab", "dik_Latn"}


def test_repeated_rows_are_counted_and_are_no_fault(flores: ParallelCorpus) -> None:
    """The two known ones: lines 747 and 753 of Javanese, 99 and 100 of Urdu."""
    repeated = {check.language: check.duplicates for check in verify(flores) if check.duplicates}
    assert repeated == {"jav_Latn": 1, "urd_Arab": 1}
    assert flores.sentences["jav_Latn"][746] == flores.sentences["jav_Latn"][752]


def test_any_language_can_be_the_pivot(flores: ParallelCorpus) -> None:
    """Also one with digits of its own, as Bengali here in two numbers of five."""
    codes = ("ben_Beng", "khm_Khmr", "deu_Latn", "urd_Arab")
    checks = verify(ParallelCorpus("mine", "dev", {code: flores.sentences[code] for code in codes}))
    assert [check.faults for check in checks] == [()] * 4
    assert all(check.numbers_kept is not None and check.numbers_kept > 0.85 for check in checks)


def test_text_without_numbers_cannot_be_judged() -> None:
    texts = {"eng_Latn": ("One house.", "A tree."), "deu_Latn": ("Ein Baum.", "Ein Haus.")}
    for check in verify(ParallelCorpus("mine", "", texts)):
        assert (check.numbers_kept, check.numbers_shifted, check.faults) == (None, None, ())


def test_a_lone_number_that_is_spelled_out_is_no_slip() -> None:
    texts = {"eng_Latn": ("It cost 12 francs.", "A tree."), "deu_Latn": ("Es kostete zwölf Franken.", "Ein Baum.")}
    assert [check.faults for check in verify(ParallelCorpus("mine", "", texts))] == [(), ()]


# Slipped rows


@pytest.mark.parametrize("code", ["deu_Latn", "khm_Khmr", "fra_Latn", "arb_Arab"])
@pytest.mark.parametrize("row", [0, 500, 900])
def test_a_dropped_line_is_found_and_placed(flores: ParallelCorpus, code: str, row: int) -> None:
    """One line dropped and one appended: the counts agree, and everything below has slipped."""
    lines = flores.sentences[code]
    (fault,) = changed(flores, code, (*lines[:row], *lines[row + 1 :], "The end.")).faults
    assert "-1 rows off" in fault
    assert "a line is missing" in fault
    first, last = rows_of(fault)
    assert row < first < row + 40
    assert last > 950


@pytest.mark.parametrize("row", [1, 500, 900])
def test_an_added_line_is_found_and_placed(flores: ParallelCorpus, row: int) -> None:
    lines = flores.sentences["deu_Latn"]
    (fault,) = changed(flores, "deu_Latn", (*lines[:row], "Noch ein Satz.", *lines[row:-1])).faults
    assert "+1 rows off" in fault
    assert "a line is added" in fault
    assert row - 1 <= rows_of(fault)[0] < row + 40


def test_a_slip_that_is_mended_further_down_is_found(flores: ParallelCorpus) -> None:
    """A line dropped at 400 and one added at 500: only the rows between are off."""
    lines = flores.sentences["swh_Latn"]
    (fault,) = changed(flores, "swh_Latn", (*lines[:400], *lines[401:500], "Sentensi.", *lines[500:])).faults
    first, last = rows_of(fault)
    assert 400 < first < 440
    assert 460 < last <= 500


def test_three_dropped_lines_are_found(flores: ParallelCorpus) -> None:
    lines = flores.sentences["deu_Latn"]
    (fault,) = changed(flores, "deu_Latn", (*lines[:500], *lines[503:], "a", "b", "c")).faults
    assert "-3 rows off" in fault


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_rows_are_found(flores: ParallelCorpus, seed: int) -> None:
    lines = list(flores.sentences["deu_Latn"])
    random.Random(seed).shuffle(lines)
    assert len(changed(flores, "deu_Latn", lines).faults) == 1


# The other faults


def test_another_script_is_found(flores: ParallelCorpus) -> None:
    (fault,) = changed(flores, "rus_Cyrl", flores.sentences["deu_Latn"]).faults
    assert fault == "only 0% of letters are in the script of rus_Cyrl"


def test_a_script_nobody_knows_is_a_fault_of_the_file(flores: ParallelCorpus) -> None:
    assert changed(flores, "deu_Abcd", flores.sentences["deu_Latn"]).faults == (
        "only 0% of letters are in the script of deu_Abcd",
    )


@pytest.mark.parametrize(
    ("text", "script", "share"),
    [
        ("дом", "Cyrl", 1.0),
        ("дом dom", "Cyrl", 0.5),
        ("東京タワーの", "Jpan", 5 / 6),
        ("東京", "Hant", 1.0),
        ("서울", "Kore", 1.0),
        ("घर में", "Deva", 1.0),
        ("123 !?", "Latn", 0.0),
        ("house", "Cyrl", 0.0),
    ],
)
def test_script_share_counts_letters_and_vowel_signs(text: str, script: str, share: float) -> None:
    assert script_share([text], script) == pytest.approx(share)


def test_a_changed_byte_is_found(flores: ParallelCorpus) -> None:
    lines = list(flores.sentences["deu_Latn"])
    assert lines[10].endswith(".")
    lines[10] = lines[10][:-1] + "!"
    checks = verify(replace(flores, sentences={**flores.sentences, "deu_Latn": tuple(lines)}))
    faulty = [(check.language, check.faults) for check in checks if check.faults]
    assert len(faulty) == 1
    assert faulty[0][0] == "deu_Latn"
    assert "text differs from the reference" in faulty[0][1][0]


def test_a_digest_is_looked_up_by_split(flores: ParallelCorpus) -> None:
    """The same text under another split has no reference."""
    lines = {"deu_Latn": flores.sentences["fra_Latn"]}
    assert verify(replace(flores, sentences=lines))[0].faults
    assert not verify(replace(flores, sentences=lines, split="devtest"))[0].faults
