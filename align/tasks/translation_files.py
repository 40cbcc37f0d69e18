"""Translations where their makers put them: WMT's text files, ALMA's, the hub's tables. Found by name, read by direction."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from align.pairs import language_code
from probe.corpus import check_line, read_text
from probe.errors import AlignError

Direction = tuple[str, str]
"""FLORES-200 codes of source and target."""

_SPLITS = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
"""Our split -> the words for it in names of files and folders."""
_TABLES = (".json", ".jsonl", ".parquet")
_LAYOUTS = (
    "generaltest2023.de-en.src.de with generaltest2023.de-en.ref.refA.en, train.de-en.de with train.de-en.en, "
    "test.de-en.json, de-en/test-00000-of-00001.parquet"
)
_LINE_BREAK = re.compile(r"[\r\n]")


@dataclass(frozen=True)
class Translations:
    """The rows of one direction."""

    direction: Direction
    sources: tuple[str, ...] = field(repr=False)
    targets: tuple[str, ...] = field(repr=False)
    origin: str
    """The names of the files, for people."""
    turned: bool
    """Whether they are the files of the other direction: source and target have changed places."""


def one_line(text: str) -> str:
    """The text in one line: each run of line breaks, with the white space around it, is one blank; nothing else is changed
    but white space at the ends."""
    return " ".join(filter(None, map(str.strip, _LINE_BREAK.split(text))))


def direction_name(direction: Direction) -> str:
    """`ces_Latn-eng_Latn`."""
    return "-".join(direction)


class TranslationFiles:
    """The translations of one split below a folder, or in one file.

    Known are, each also as `.gz` but for parquet:

    1. WMT: `SET.de-en.src.de` with `SET.de-en.ref.refA.en` beside it or in the folder `references`; the split is test;
    2. two text files: `train.de-en.de` with `train.de-en.en`;
    3. json (a list) or jsonl (a row a line): `valid.de-en.json`, `de-en/valid.jsonl`;
    4. parquet: `de-en/test-00000-of-00001.parquet`, `de-en/test/0000.parquet`.

    A row of the last two is `{"translation": {"de": ..., "en": ...}}`, or `{"de-en": {...}}` as in the WMT sets on the hub.
    Languages may have any of their codes. Where a direction is in files of several of these kinds the first counts, so that
    WMT's own files come before the older test sets that ALMA brings along.

    Args:
        place: folder or file. The file is taken for the split asked for, whatever its name.
        split: `train`, `dev` or `test`.
        reference: which of WMT's references, `refA`.

    Raises:
        AlignError: no such place, an unknown split, nothing there.
    """

    def __init__(self, place: Path, split: str, reference: str = "refA") -> None:
        if split not in _SPLITS:
            raise AlignError(f"split {split!r}", f"one of {', '.join(_SPLITS)}", "give one of these")
        if not place.exists():
            raise AlignError(f"no {place}", "a folder or file of translations", "check --data")
        self._place, self._split = place, split
        self._found: dict[Direction, list[_Set]] = defaultdict(list)
        for each in _sets(place, _SPLITS[split], reference):
            self._found[each.direction].append(each)
        if not self._found:
            raise AlignError(f"{place} holds no {split} translations", f"files such as {_LAYOUTS}", "check --data")

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Those that have files of their own, sorted."""
        return tuple(sorted(self._found))

    def __contains__(self, direction: Direction) -> bool:
        return direction in self._found or direction[::-1] in self._found

    def read(self, direction: Direction) -> Translations:
        """The rows of a direction, from its own files or, where these lack, from those of the other direction.

        The kind of the files comes first: en-cs of WMT, turned, before cs-en of another test set.

        Raises:
            AlignError: several sets that hold the direction; a missing half or reference; a row that is no translation.
            CorpusError: text that is empty, not UTF-8 or not clean.
        """
        own, other = self._found.get(direction, []), self._found.get(direction[::-1], [])
        kind = min(each.kind for each in (*own, *other))
        first = [each for each in own if each.kind == kind] or [each for each in other if each.kind == kind]
        if len(first) > 1:
            names = ", ".join(each.label for each in first)
            raise AlignError(
                f"{direction_name(direction)} is in {names}",
                f"one set for {self._split}",
                "give the folder or file of one as --data",
            )
        columns = first[0].read()
        turned = first[0].direction != direction
        sources, targets = reversed(columns) if turned else columns
        return Translations(direction, tuple(sources), tuple(targets), first[0].label, turned)


@dataclass(frozen=True)
class _Set:
    """Files that hold one direction."""

    kind: int
    """As numbered in `TranslationFiles`."""
    direction: Direction
    label: str
    read: Callable[[], tuple[Sequence[str], Sequence[str]]] = field(repr=False)
    """Sources and targets."""


def _sets(place: Path, words: Sequence[str], reference: str) -> Iterator[_Set]:
    if place.is_file():
        found = _wmt(place, reference) or _two_texts(place, None) or _table([place])
        if found is None:
            raise AlignError(f"{place.name} is no file of translations", f"files such as {_LAYOUTS}", "rename it")
        yield found
        return
    shards: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        wmt = _wmt(path, reference) if "test" in words else None
        if found := wmt or _two_texts(path, words):
            yield found
        elif _ending(path) in _TABLES and _word_of(path, words):
            shards[path.parent if _ending(path) == ".parquet" else path].append(path)
    for paths in shards.values():
        if _names_of(paths[0]) and (found := _table(paths)):
            yield found


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _word_of(path: Path, words: Sequence[str]) -> bool:
    """Whether a table is of the split: by the first word of its name, or its folder."""
    return bool({re.split(r"[.-]", path.name)[0], path.parent.name} & set(words))


def _names_of(path: Path) -> tuple[str, str] | None:
    """The two languages of a table, as its name or a folder around it has them."""
    for part in (*path.name.split(".")[1:], path.absolute().parent.name, path.absolute().parent.parent.name):
        if names := split_pair(part):
            return names
    return None


def split_pair(pair: str) -> tuple[str, str] | None:
    """The two languages of `de-en`, wherever the hyphen between them is; None where these are no two languages."""
    parts = pair.split("-")
    for cut in range(1, len(parts)):
        names = "-".join(parts[:cut]), "-".join(parts[cut:])
        if all(map(language_code, names)) and language_code(names[0]) != language_code(names[1]):
            return names
    return None


def _direction(names: tuple[str, str]) -> Direction:
    first, second = (language_code(name) or name for name in names)
    return first, second


def _wmt(path: Path, reference: str) -> _Set | None:
    stem, ending = path.name.removesuffix(".gz"), ".gz" * path.name.endswith(".gz")
    *name, pair, kind, side = stem.split(".") if stem.count(".") > 2 else ("", "", "")
    names = split_pair(pair)
    if names is None or kind != "src" or side != names[0]:
        return None
    label = ".".join([*name, pair])

    def read() -> tuple[Sequence[str], Sequence[str]]:
        wanted = f"{label}.ref.{reference}.{names[1]}{ending}"
        folders = (path.parent, path.parent.parent / "references")
        answers = [folder / wanted for folder in folders if (folder / wanted).is_file()]
        if not answers:
            there = [file.name for folder in folders for file in sorted(folder.glob(f"{label}.ref.*"))]
            raise AlignError(
                f"no {wanted} for {path.name}",
                f"it beside it or in {folders[1].name}/",
                f"there is {', '.join(there)}" if there else "add the file",
            )
        return _columns(path, answers[0])

    return _Set(1, _direction(names), f"{label}.{reference}", read)


def _two_texts(path: Path, words: Sequence[str] | None) -> _Set | None:
    """Of a pair of text files only the first is taken, the other comes with it."""
    stem, ending = path.name.removesuffix(".gz"), ".gz" * path.name.endswith(".gz")
    *name, pair, side = stem.split(".") if stem.count(".") > 1 else ("", "")
    names = split_pair(pair)
    if names is None or side != names[0] or (words is not None and name[0] not in words):
        return None
    other = path.with_name(".".join([*name, pair, names[1]]) + ending)

    def read() -> tuple[Sequence[str], Sequence[str]]:
        if not other.is_file():
            raise AlignError(f"{path.name} without {other.name}", "both sides", "add the missing file")
        return _columns(path, other)

    return _Set(2, _direction(names), ".".join([*name, pair]), read)


def _columns(source: Path, target: Path) -> tuple[Sequence[str], Sequence[str]]:
    sources, targets = read_text(source), read_text(target)
    if len(sources) != len(targets):
        raise AlignError(
            f"{source.name} has {len(sources)} rows, {target.name} {len(targets)}",
            "as many in both, since rows are parallel",
            "mend the files: a line is missing, or added",
        )
    return sources, targets


def _table(paths: Sequence[Path]) -> _Set | None:
    """None where neither the names nor the first row say two languages."""
    if _ending(paths[0]) not in _TABLES:
        return None
    names = _names_of(paths[0])
    if names is None:
        first = next(_rows(paths[0]), (paths[0].name, {}))[1]
        keys = tuple(next((value for value in first.values() if isinstance(value, Mapping)), ()))
        names = split_pair("-".join(keys)) if len(keys) == 2 else None
    if names is None:
        return None

    def read() -> tuple[Sequence[str], Sequence[str]]:
        rows = [_translation(row, names, where) for path in paths for where, row in _rows(path)]
        if not rows:
            raise AlignError(f"{paths[0].name} is empty", "a translation a row", "give the right file")
        return [row[0] for row in rows], [row[1] for row in rows]

    label = "/".join([paths[0].absolute().parent.name, paths[0].name])
    return _Set(4 if _ending(paths[0]) == ".parquet" else 3, _direction(names), label, read)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where it stands, and the row."""
    if _ending(path) == ".parquet":
        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise _unreadable(path, error) from None
    else:
        rows = _json(path)
    for number, row in enumerate(rows, start=1):
        where = f"{path.name} row {number}"
        if not isinstance(row, Mapping):
            raise AlignError(f"{where} is no object", 'rows such as {"translation": {...}}', "mend the row")
        yield where, row


def _json(path: Path) -> list[Any]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if _ending(path) == ".json" and data.lstrip().startswith(b"["):
            return list(json.loads(data))
        return [json.loads(line) for line in data.split(b"\n") if line.strip()]
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> AlignError:
    return AlignError(f"{path} cannot be read ({error})", "a readable file of translations", "check the file")


def _translation(row: Mapping[str, Any], names: tuple[str, str], where: str) -> tuple[str, str]:
    held: Any = row.get("translation", row.get("-".join(names)))
    texts: list[Any] = [held.get(name) for name in names] if isinstance(held, Mapping) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise AlignError(
            f"{where} has no {' and '.join(names)}",
            f'{{"translation": {{"{names[0]}": ..., "{names[1]}": ...}}}}',
            "mend the row",
        )
    for text in texts:
        check_line(one_line(text), where)
    return texts[0], texts[1]
