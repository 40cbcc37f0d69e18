"""Check a corpus: counts, alignment, duplicates, digests, and the script of each file against its code."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from data_manifests import text_digests
from probe.corpus import ParallelCorpus, text_digest

_UNICODE_SCRIPTS = {
    "Hans": ("Han",),
    "Hant": ("Han",),
    "Jpan": ("Han", "Hiragana", "Katakana"),
    "Kore": ("Hangul", "Han"),
}
"""ISO 15924 codes that stand for Unicode scripts of other names; the rest are Unicode's own short names."""

_OFFSETS = (-1, 1, -2, 2, -3, 3)
_SLIPPED = 4
"""So many more numbers off their rows than in place are a slip: no run of any language in FLORES-200 dev has more than 2."""
_CHANCE = 0.1
"""Unrelated rows share fewer numbers than this (FLORES-200: 5 % with the rows beside); the poorest translation there keeps 29 %."""
_ENOUGH = 10
"""With fewer numbers than this in the pivot, chance alone may put none in place."""


@dataclass(frozen=True)
class LanguageCheck:
    """What was found in one language's text."""

    language: str
    rows: int
    duplicates: int
    """Rows that repeat an earlier one."""
    script_share: float
    """Share of letters in the script that the code names."""
    numbers_kept: float | None
    """Share of the pivot's numbers (two digits or more) that stand in the same row here; None where the pivot has none."""
    numbers_shifted: float | None
    """The same against the rows beside, the better of the two: what chance gives."""
    sha256: str
    faults: tuple[str, ...] = field(default=())


def verify(corpus: ParallelCorpus) -> list[LanguageCheck]:
    """Check every language; `faults` of a check is empty where all is well.

    Alignment is judged by numbers, which translations keep: where a run of rows has more of the pivot's numbers some rows
    off than in place, a line is missing or added before it. A text without numbers cannot be judged.
    """
    pivot = "eng_Latn" if "eng_Latn" in corpus.languages else corpus.languages[0]
    known = text_digests(corpus.name)
    return [_check(corpus, code, pivot, known.get((corpus.split, code))) for code in corpus.languages]


def _check(corpus: ParallelCorpus, code: str, pivot: str, digest: str | None) -> LanguageCheck:
    lines = corpus.sentences[code]
    faults = []
    if (share := script_share(lines, code.rsplit("_", 1)[-1])) < 0.5:
        faults.append(f"only {share:.0%} of letters are in the script of {code}")
    numbers = _Numbers(corpus.sentences[pivot], lines)
    kept, shifted = numbers.share(0), numbers.share(-1, 1)
    if (slip := numbers.slip()) is not None:
        faults.append(
            f"in rows {slip.first} to {slip.last}, {slip.numbers} more numbers of {pivot} stand {slip.offset:+d} rows off than in place: before row {slip.first} a line is {'missing' if slip.offset < 0 else 'added'}"
        )
    elif kept is not None and shifted is not None and numbers.total >= _ENOUGH and kept <= max(_CHANCE, 2 * shifted):
        faults.append(
            f"numbers of {pivot} stand hardly more often on the same row ({kept:.0%}) than on one beside it ({shifted:.0%}): rows may not be parallel"
        )
    own = text_digest(lines)
    if digest is not None and own != digest:
        faults.append(f"text differs from the reference (sha256 {own[:12]}..., not {digest[:12]}...)")
    return LanguageCheck(code, len(lines), len(lines) - len(set(lines)), share, kept, shifted, own, tuple(faults))


@cache
def _script_pattern(script: str) -> Any:
    import regex

    names = _UNICODE_SCRIPTS.get(script, (script,))
    try:
        return regex.compile("[" + "".join(rf"\p{{Script={name}}}" for name in names) + "]")
    except regex.error:  # a file's name can hold any four letters: no letter is of such a script
        return regex.compile(r"(?!)")


def script_share(lines: Sequence[str], script: str) -> float:
    """Share of the letters and vowel signs that belong to an ISO 15924 script; 0 where there is no letter."""
    counts = Counter("".join(lines))
    letters = {letter: count for letter, count in counts.items() if unicodedata.category(letter)[0] in "LM"}
    if not letters:
        return 0.0
    pattern = _script_pattern(script)
    return sum(count for letter, count in letters.items() if pattern.match(letter)) / sum(letters.values())


@dataclass(frozen=True)
class Slip:
    """A run of rows whose numbers stand `offset` rows off."""

    first: int
    last: int
    """Rows of the pivot, from 1."""
    offset: int
    numbers: int
    """How many more numbers stand there than in place."""


class _Numbers:
    """Where the numbers of the pivot, of two digits or more and in any script's digits, stand in another language's rows."""

    def __init__(self, pivot: Sequence[str], lines: Sequence[str]) -> None:
        self._numbers = [set(re.findall(r"\d{2,}", _ascii_digits(line))) for line in pivot]
        self._texts = [_ascii_digits(line) for line in lines]
        self.total = sum(map(len, self._numbers))

    def share(self, *offsets: int) -> float | None:
        """The largest share of the numbers that stands one of these offsets further down; None where there is no number."""
        return max(sum(self._hits(offset)) for offset in offsets) / self.total if self.total else None

    def slip(self) -> Slip | None:
        """The run of rows that has the most numbers off its place, where these are more than chance gives."""
        in_place = self._hits(0)
        found = []
        for offset in _OFFSETS:
            first, last, gain = _best_run([off - on for off, on in zip(self._hits(offset), in_place, strict=True)])
            found.append(Slip(first + 1, last + 1, offset, gain))
        best = max(found, key=lambda slip: slip.numbers)
        return best if best.numbers >= _SLIPPED else None

    def _hits(self, offset: int) -> list[int]:
        """For each row, how many of its numbers stand `offset` rows further down."""
        rows = range(len(self._texts))
        return [
            sum(number in self._texts[row + offset] for number in numbers) if numbers and row + offset in rows else 0
            for row, numbers in enumerate(self._numbers)
        ]


def _best_run(gains: Sequence[int]) -> tuple[int, int, int]:
    """First, last and sum of the consecutive gains of the largest sum (Kadane's algorithm)."""
    best, start, running = (0, 0, 0), 0, 0
    for row, gain in enumerate(gains):
        if running <= 0 < gain:
            start, running = row, 0
        running += gain
        if running > best[2]:
            best = (start, row, running)
    return best


def _ascii_digits(text: str) -> str:
    """Digits of any script as 0-9."""
    return re.sub(r"\d", lambda digit: str(unicodedata.decimal(digit[0])), text)
