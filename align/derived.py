"""Pairs made from other data: of two languages through the English sentences they share, and from talks in the files of IWSLT."""

from __future__ import annotations

import re
import tarfile
from collections import defaultdict
from itertools import combinations
from pathlib import Path

from align.adapter import writing
from align.pairs import language_code, read_pairs
from probe.errors import AlignError

FEWEST = 10
"""Pairs, below which two languages are left out."""
_SEGMENT = re.compile(r'<seg id="(\d+)">(.*?)</seg>', re.DOTALL)


def through_english(source: str, langs: str, out: str) -> None:
    """Write Moses pairs of every two languages of which sentences have the same English translation, ten or more; beside them the
    pairs with English.

    Args:
        source: folder of pairs with English.
        langs: as of `read_pairs`.
        out: the folder to write.

    Raises:
        AlignError: no two languages share as many; a folder that cannot be written.
    """
    of: dict[str, dict[str, str]] = defaultdict(dict)
    for pairs in read_pairs(source, langs):
        for own, english in zip(pairs.sources, pairs.targets, strict=True):
            of[pairs.source].setdefault(english, own)
    shared = {(a, b): [line for line in of[a] if line in of[b]] for a, b in combinations(sorted(of), 2)}
    kept = {names: lines for names, lines in shared.items() if len(lines) >= FEWEST}
    if not kept:
        raise AlignError(
            f"{source}: no two languages share {FEWEST} English sentences", "one pair at least", "give other data"
        )
    for (a, b), common in kept.items():
        _write(Path(out), f"shared.{a}-{b}", {code: [of[code][line] for line in common] for code in (a, b)})
    for code, lines in of.items():
        _write(Path(out), f"own.{code}-eng_Latn", {code: [*lines.values()], "eng_Latn": [*lines]})


def read_talks(source: str, out: str) -> None:
    """Write Moses pairs of the two-sided test sets in a folder of IWSLT's archives: `de-en.tgz` and `en-de.tgz`, or as many as there are.

    In the archive of `de-en` lies the German side of its sets, in that of `en-de` the English one. Segments are paired by the order
    of their talks, each talk by the numbers of its segments; a talk of one side alone is left out.

    Raises:
        AlignError: no set with both sides; a folder that cannot be written.
    """
    sides: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for archive in sorted(Path(source).glob("*.tgz")):
        with tarfile.open(archive) as files:
            for member in files.getmembers():
                found = re.search(r"\.(tst\d+|dev\d+)\.(\w\w)-(\w\w)\.(\w\w)\.xml$", member.name)
                stream = files.extractfile(member) if found else None
                if found and stream:
                    sides[found[1], found[4]] = _segments(stream.read().decode("utf-8"))
    held: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name in sorted({name for name, _ in sides}):
        codes = sorted(code for other, code in sides if other == name)
        for a, b in combinations(codes, 2):
            common = [key for key in sides[name, a] if key in sides[name, b]]
            if common:
                lines = held.setdefault((a, b), {a: [], b: []})
                for code in (a, b):
                    lines[code] += [sides[name, code][key] for key in common]
    if not held:
        raise AlignError(
            f"{source} without a set of two sides",
            "IWSLT's archives, such as de-en.tgz and en-de.tgz",
            "check the folder",
        )
    for (a, b), lines in held.items():
        _write(Path(out), f"talks.{a}-{b}", {code: lines[code] for code in (a, b)})


def _segments(text: str) -> dict[tuple[str, str], str]:
    """(talk, segment) -> its line."""
    found = {}
    for talk in text.split("<doc ")[1:]:
        name = talk.partition('docid="')[2].partition('"')[0]
        for number, line in _SEGMENT.findall(talk):
            found[name, number] = " ".join(line.split())
    return found


def _write(folder: Path, name: str, lines: dict[str, list[str]]) -> None:
    assert all(language_code(code) for code in lines)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for code, own in lines.items():
            (folder / f"{name}.{code}").write_text("".join(f"{line}\n" for line in own), encoding="utf-8")
