"""Pairs made from other data."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from align.derived import FEWEST, read_talks, through_english
from align.pairs import read_pairs
from probe.errors import AlignError


def pairs(folder: Path, code: str, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for side, word in ((code, code), ("eng", "English")):
        lines = "".join(f"{word} sentence {number}\n" for number in numbers)
        (folder / f"t.{code}-eng.{side}").write_text(lines, encoding="utf-8")


def test_languages_meet_in_the_english_sentences_that_they_share(tmp_path: Path) -> None:
    pairs(tmp_path / "in", "deu", range(30))
    pairs(tmp_path / "in", "fra", range(15, 45))
    pairs(tmp_path / "in", "tur", range(40, 60))  # five in common with French: too few
    through_english(str(tmp_path / "in"), "de,fr,tr", str(tmp_path / "out"))
    found = {each.name: each for each in read_pairs(tmp_path / "out", "de,fr,tr,en", "all")}
    assert len(found) == 2 * (1 + 3)
    both = found["deu_Latn-fra_Latn"]
    assert len(both) == 15 >= FEWEST
    assert {line.split()[-1] for line in both.sources} == {str(number) for number in range(15, 30)}
    assert all(a.split()[-1] == b.split()[-1] for a, b in zip(both.sources, both.targets, strict=True))


def test_no_shared_sentence_is_refused(tmp_path: Path) -> None:
    pairs(tmp_path / "in", "deu", range(20))
    pairs(tmp_path / "in", "fra", range(20, 40))
    with pytest.raises(AlignError, match="no two languages share"):
        through_english(str(tmp_path / "in"), "de,fr", str(tmp_path / "out"))


def talk(source: Path, archive: str, code: str, segments: dict[str, list[tuple[int, str]]]) -> None:
    text = "<refset>" + "".join(
        f'<doc docid="{name}" genre="lectures">\n<title>not this</title>\n'
        + "".join(f'<seg id="{number}"> {line}</seg>\n' for number, line in lines)
        + "</doc>\n"
        for name, lines in segments.items()
    )
    data = text.encode()
    source.mkdir(exist_ok=True)
    with tarfile.open(source / f"{archive}.tgz", "w:gz") as files:
        member = tarfile.TarInfo(f"{archive}/IWSLT17.TED.tst2016.{archive}.{code}.xml")
        member.size = len(data)
        files.addfile(member, io.BytesIO(data))


def test_talks_are_paired_by_talk_and_segment(tmp_path: Path) -> None:
    talk(tmp_path / "in", "de-en", "de", {"7": [(1, "eins"), (2, "zwei")], "9": [(1, "allein")]})
    talk(tmp_path / "in", "en-de", "en", {"8": [(1, "alone")], "7": [(1, "one"), (3, "three"), (2, "two")]})
    read_talks(str(tmp_path / "in"), str(tmp_path / "out"))
    (found,) = read_pairs(tmp_path / "out", "de")
    assert dict(zip(found.sources, found.targets, strict=True)) == {"eins": "one", "zwei": "two"}


def test_a_folder_without_talks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AlignError, match="without a set of two sides"):
        read_talks(str(tmp_path), str(tmp_path / "out"))
