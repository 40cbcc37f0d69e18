"""Downstream scores of languages: the paper's own by name, or a user's CSV file, checked before any statistic sees them."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_manifests import language_sets, languages
from data_manifests.published import published_set, score_names
from probe.corpus import resolve_languages
from probe.errors import AnalysisError, CorpusError

PAPER = "paper:"
_NEEDED = ("language", "score")
_EXPECTED = "a CSV file with the columns language and score"
_ONE_VALUE = ("task", "metric", "model", "source", "scale")
"""Columns that say what the scores are, so that a file holds one value of each."""
_SCALES = ("percent", "share")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""What a score may look like; Python's own numbers may be written `6_0` too."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_NOT_GIVEN = {"", "na", "n/a", "nan", "null", "none", "-"}


@dataclass(frozen=True)
class Scores:
    """One score a language."""

    name: str
    """As asked for: `paper:llama3-sft`, or the file's name."""
    values: Mapping[str, float] = field(repr=False)
    """FLORES-200 code -> score in percent points, 0..100."""
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Code -> `supervised`, `transfer` or what a file's `group` column says; languages without a group are absent."""
    task: str = ""
    metric: str = ""
    model: str = ""
    source: str = ""
    """Whose numbers these are: a citation with its table, or what the file says."""
    notes: tuple[str, ...] = ()
    """Sentences for people: how the file was read, known defects of the source."""
    defect: str = ""
    """Why the scores are not to be used unless asked for by name; empty where nothing is known against them."""

    @property
    def digest(self) -> str:
        """sha256 of the values and groups as JSON with sorted keys."""
        text = json.dumps([dict(self.values), dict(self.groups)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_scores(spec: str | Path) -> Scores:
    """Read scores.

    Args:
        spec: `paper:NAME`, or a UTF-8 CSV file with the columns `language` (FLORES-200 code, ISO 639-1 code or MASSIVE locale) and
            `score`. Optional columns: `task`, `metric`, `model`, `source` (one value each), `group` (`supervised`, `transfer`, ...)
            and `scale` (`percent` or `share`). Without `scale`, scores all in 0..1 are shares, scores above 1 percent.

    Raises:
        AnalysisError: an unknown name; a file that cannot be read or is empty; an unknown, repeated or scoreless language; a score
            that is no number or outside its scale; percent and share mixed; several tasks, metrics, models or sources.
    """
    if isinstance(spec, str) and spec.startswith(PAPER):
        return _published(spec.removeprefix(PAPER))
    return _of_file(Path(spec))


def _published(name: str) -> Scores:
    if name not in score_names():
        near = difflib.get_close_matches(name, score_names(), n=1, cutoff=0.6)
        raise AnalysisError(
            f"--scores {PAPER}{name}",
            f"{PAPER} and one of {', '.join(score_names())}",
            f"did you mean {PAPER}{near[0]}?" if near else "give one of these names, or a CSV file",
        )
    found = published_set(name)
    notes = (f"{PAPER}{name}: {found.defect}", *found.notes) if found.defect else found.notes
    source = f"{found.source}, Table {found.table}"
    return Scores(
        f"{PAPER}{name}", found.values, found.groups, found.task, found.metric, found.model, source, notes, found.defect
    )


@dataclass(frozen=True)
class _Line:
    """One row of a file, its language resolved."""

    number: int
    code: str
    cells: Mapping[str, str]

    @property
    def score(self) -> float:
        return float(self.cells["score"])

    def told(self) -> str:
        return f"{self.cells['score']} of {self.code} in line {self.number}"


def _of_file(path: Path) -> Scores:
    rows = _rows(path)
    header = rows[0][1].keys()
    stated = {column: _stated(path, rows, column) for column in _ONE_VALUE if column in header}
    lines = [_Line(number, _language(path, number, cells["language"]), cells) for number, cells in rows]
    _check_once(path, lines)
    for line in lines:
        _check_number(path, line)
    scale = stated.pop("scale", "") or _scale(path, lines)
    factor, limit = (100, 1) if scale == "share" else (1, 100)
    for line in lines:
        if not 0 <= line.score <= limit:
            raise AnalysisError(f"{path.name}: score {line.told()}", f"a {scale} in 0..{limit}", "mend the score")
    values = {line.code: round(factor * line.score, 10) for line in lines}
    groups = {line.code: line.cells["group"] for line in lines if line.cells.get("group")}
    notes: tuple[str, ...] = ()
    if factor == 100:
        notes += (f"The scores of {path.name} are shares in 0..1; they are given here times 100.",)
    unused = [column for column in header if column not in (*_NEEDED, *_ONE_VALUE, "group")]
    if unused:
        notes += (f"Columns of {path.name} that are not used: {', '.join(name or '(no name)' for name in unused)}.",)
    source = stated.pop("source", "") or path.name
    return Scores(path.stem, values, groups, source=source, notes=notes, **stated)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells by column of each row that is not blank; columns without a name and a cell are left out."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        first = text.lstrip("\r\n ").partition("\n")[0].rstrip()
        if "," not in first and any(separator in first for separator in ";\t"):
            raise _misnamed(path, [first[:60]], "save it with commas between columns")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        read = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(
            f"{path} cannot be read ({' '.join(str(error).split())[:100]})",
            f"{_EXPECTED}, or {PAPER}NAME such as {PAPER}llama3-sft",
            "save it as CSV UTF-8" if isinstance(error, UnicodeDecodeError) else "check the path and the file",
        ) from None
    if len(read) < 2:
        raise AnalysisError(f"{path.name} without rows", _EXPECTED, "give a file with one row a language")
    (_, header), *rows = read
    for number, cells in rows:
        if len(cells) != len(header):
            raise AnalysisError(
                f"{path.name} line {number} with {len(cells)} cells",
                f"{len(header)}, as in the header",
                "mend the line; decimals take a point, not a comma",
            )
    kept = [place for place, name in enumerate(header) if name or any(cells[place] for _, cells in rows)]
    names = [header[place] for place in kept]
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        alike = {name.lower(): name for name in names}
        steps = [f"rename {alike[name]} to {name}" if name in alike else f"add the column {name}" for name in missing]
        raise _misnamed(path, names, " and ".join(steps))
    if len(set(names)) < len(names):
        raise _misnamed(path, names, "remove the repeated column")
    return [(number, {header[place]: cells[place] for place in kept}) for number, cells in rows]


def _misnamed(path: Path, names: Sequence[str], next_step: str) -> AnalysisError:
    expected = f"{_EXPECTED}, each once and separated by commas"
    return AnalysisError(f"{path.name} with the columns {', '.join(names)}", expected, next_step)


def _stated(path: Path, rows: Sequence[tuple[int, Mapping[str, str]]], column: str) -> str:
    """The one value of a column that says what the scores are."""
    found = tuple(dict.fromkeys(cells[column] for _, cells in rows))
    if len(found) > 1:
        raise AnalysisError(
            f"{path.name} with {len(found)} values of {column} ({', '.join(value or 'empty' for value in found[:4])})",
            f"scores of one {column}",
            f"keep the rows of one {column}",
        )
    if column == "scale" and found[0] not in ("", *_SCALES):
        raise AnalysisError(f"{path.name} with the scale {found[0]!r}", "percent or share", "mend the column scale")
    return found[0]


def _language(path: Path, number: int, cell: str) -> str:
    where = f"{path.name} line {number}"
    expected = "a FLORES-200 code, an ISO 639-1 code or a MASSIVE locale"
    if cell in ("", "all") or "," in cell or cell in language_sets():
        raise AnalysisError(
            f"{where} with the language {cell!r}", f"one language: {expected}", "give one row a language"
        )
    try:
        (code,) = resolve_languages(cell, tuple(languages()), path.name)
    except CorpusError as error:
        hint = str(error).rpartition("; ")[2]
        raise AnalysisError(f"{where} with the unknown language {cell!r}", expected, hint) from None
    return code


def _check_once(path: Path, lines: Sequence[_Line]) -> None:
    first: dict[str, _Line] = {}
    for line in lines:
        earlier = first.setdefault(line.code, line)
        if earlier is not line:
            names = " and ".join(dict.fromkeys((earlier.cells["language"], line.cells["language"])))
            raise AnalysisError(
                f"{path.name} with {line.code} in lines {earlier.number} and {line.number} (as {names})",
                "each language once",
                "remove one of the rows",
            )


def _check_number(path: Path, line: _Line) -> None:
    cell = line.cells["score"]
    if cell.lower() in _NOT_GIVEN:
        raise AnalysisError(
            f"{path.name} line {line.number}: {line.code} without a score",
            "a score for each language",
            "remove the row, or add the score",
        )
    if not _NUMBER.fullmatch(cell) or not math.isfinite(line.score):
        comma = _DECIMAL_COMMA.fullmatch(cell)
        raise AnalysisError(
            f"{path.name} line {line.number}: score {cell!r} of {line.code}",
            "a number such as 61.7",
            f"write the decimal with a point: {cell.replace(',', '.')}"
            if comma
            else "write the score as a plain number, without a per cent sign",
        )


def _scale(path: Path, lines: Sequence[_Line]) -> str:
    """Percent or share, where the file does not say so; zeros fit either."""
    low = next((line for line in lines if 0 < line.score <= 1), None)
    high = next((line for line in lines if line.score > 1), None)
    if low and high:
        raise AnalysisError(
            f"{path.name}: {low.told()} and {high.told()}, so percent and share may be mixed",
            "one scale",
            "mend the scores, or add a column scale that says percent or share in each row",
        )
    return "percent" if high else "share"
