"""Check a corpus: counts, alignment, duplicates, digests, and the script of each file against its code."""

from __future__ import annotations

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
    """The same against the next row: what chance gives."""
    sha256: str
    faults: tuple[str, ...] = field(default=())


def verify(corpus: ParallelCorpus) -> list[LanguageCheck]:
    """Check every language; `faults` of a check is empty where all is well.

    Alignment is judged by numbers, which translations keep: where more of the pivot's numbers stand one row off than on
    the same row, rows have slipped.
    """
    pivot = "eng_Latn" if "eng_Latn" in corpus.languages else corpus.languages[0]
    known = text_digests(corpus.name)
    return [_check(corpus, code, pivot, known.get((corpus.split, code))) for code in corpus.languages]


def _check(corpus: ParallelCorpus, code: str, pivot: str, digest: str | None) -> LanguageCheck:
    lines = corpus.sentences[code]
    faults = []
    if (share := script_share(lines, code.rsplit("_", 1)[-1])) < 0.5:
        faults.append(f"only {share:.0%} of letters are in the script of {code}")
    kept = shared_numbers(corpus.sentences[pivot], lines)
    shifted = shared_numbers(corpus.sentences[pivot], (*lines[1:], lines[0]))
    if kept is not None and shifted is not None and kept <= shifted and kept < 0.5:
        faults.append(
            f"numbers of {pivot} stand no more often on the same row ({kept:.0%}) than on the next ({shifted:.0%}): rows may have slipped"
        )
    own = text_digest(lines)
    if digest is not None and own != digest:
        faults.append(f"text differs from the reference (sha256 {own[:12]}..., not {digest[:12]}...)")
    return LanguageCheck(code, len(lines), len(lines) - len(set(lines)), share, kept, shifted, own, tuple(faults))


@cache
def _script_pattern(script: str) -> Any:
    import regex

    names = _UNICODE_SCRIPTS.get(script, (script,))
    return regex.compile("[" + "".join(rf"\p{{Script={name}}}" for name in names) + "]")


def script_share(lines: Sequence[str], script: str) -> float:
    """Share of the letters and vowel signs that belong to an ISO 15924 script; 0 where there is no letter."""
    letters = [c for line in lines for c in line if unicodedata.category(c)[0] in "LM"]
    if not letters:
        return 0.0
    pattern = _script_pattern(script)
    counts = Counter(letters)
    return sum(count for letter, count in counts.items() if pattern.match(letter)) / len(letters)


def shared_numbers(pivot: Sequence[str], lines: Sequence[str]) -> float | None:
    """Share of the numbers of two digits or more in the pivot that stand in the same row; any script's digits count."""
    import regex

    found = [(set(regex.findall(r"\d{2,}", a)), _ascii_digits(b)) for a, b in zip(pivot, lines, strict=True)]
    total = sum(len(numbers) for numbers, _ in found)
    return sum(number in text for numbers, text in found for number in numbers) / total if total else None


def _ascii_digits(text: str) -> str:
    """Digits of any script as 0-9, and grouping marks between digits removed from neither side."""
    return "".join(str(unicodedata.decimal(c)) if unicodedata.category(c) == "Nd" else c for c in text)
