"""Parallel text: read it, check that rows are aligned, give it a digest."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from data_manifests import language_aliases, language_sets, languages
from probe.errors import CorpusError

_CODE_SHAPE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
_CODE_LIKE = re.compile(r"([a-z]+)[_-]([a-z]{4,})")
_NEAR = 0.75
"""Share of letters in common from which a name is suggested for another."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def text_digest(sentences: Sequence[str]) -> str:
    """sha256 of the sentences as a UTF-8 text file, one a line, each ended by `\\n`."""
    digest = hashlib.sha256()
    for sentence in sentences:
        digest.update(sentence.encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class ParallelCorpus:
    """The same sentences in several languages: row i of every language is a translation of row i of the others."""

    name: str
    split: str
    """Empty where the source has no splits."""
    sentences: Mapping[str, tuple[str, ...]] = field(repr=False)
    """Language code -> its sentences, all of equal count, in the order in which languages were asked for."""
    source: str = ""
    """Where the text was read: the folder, data set or archive that answered."""

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.sentences)

    @property
    def rows(self) -> int:
        return len(next(iter(self.sentences.values())))

    def digests(self) -> dict[str, str]:
        """Language code -> digest of its text."""
        return {code: text_digest(lines) for code, lines in self.sentences.items()}

    def limited(self, limit: int | None) -> ParallelCorpus:
        """The first `limit` rows; all of them where it is None."""
        if limit is None:
            return self
        if limit < 1:
            raise CorpusError(f"--limit {limit}", "at least 1 sentence", "give a larger limit")
        return replace(self, sentences={code: lines[:limit] for code, lines in self.sentences.items()})


def read_folder(
    folder: Path, langs: str | None = None, split: str | None = None, name: str | None = None
) -> ParallelCorpus:
    """Read a folder of `<code>.<anything>` text files, or of MASSIVE-style `<locale>.jsonl` files (either also `.gz`).

    Text files are parallel by line, jsonl files by their `id`, in the row order of the first language.

    Args:
        langs: codes, aliases or set names, comma-separated; None or `all` = every language there.
        split: part of the file name (text) or the `partition` (jsonl); needed only where there are several.

    Raises:
        CorpusError: a language without a file, bad text, or rows that are not parallel.
    """
    files = _language_files(folder)
    if not files:
        raise CorpusError(
            f"{folder} holds no language file",
            "<code>.<anything> such as eng_Latn.txt, or <locale>.jsonl",
            "name each file after its language; `probe data list --languages` shows the codes",
        )
    codes = resolve_languages(langs, available=tuple(sorted(files)), place=str(folder))
    if all(".jsonl" in path.name for code in codes for path in files[code]):
        sentences = _read_jsonl_languages({code: files[code] for code in codes}, split)
    else:
        several = any(len(files[code]) > 1 for code in codes)
        chosen = {code: _one_file(code, files[code], split, several) for code in codes}
        sentences = {code: read_text(path) for code, path in chosen.items()}
        if not all(split in path.name.split(".") for path in chosen.values()):
            split = None  # files taken because they are the only ones: their names do not say which split they are
        _check_equal_counts({str(chosen[code].name): len(lines) for code, lines in sentences.items()})
    return ParallelCorpus(name or folder.resolve().name, split or "", sentences, f"folder {folder.name}")


def resolve_languages(
    langs: str | None, available: Sequence[str], place: str, words: Sequence[str] = ()
) -> tuple[str, ...]:
    """The codes that `langs` names, in its order, each once.

    Args:
        langs: comma-separated codes (`swh_Latn`), aliases (`sw`, `sw-KE`) or sets (`paper35`); None or `all` = `available`.
        place: what holds the available languages, for the message.
        words: other names that the option takes, which a misspelt one may have meant.

    Raises:
        CorpusError: a name that is no language, or a language that is not available.
    """
    if langs is None or langs == "all":
        return tuple(available)
    codes: list[str] = []
    for part in filter(None, (part.strip() for part in langs.split(","))):
        codes.extend(language_sets().get(part) or (_code_of(part, available, words),))
    if not codes:
        raise CorpusError(f"--langs {langs!r}", "at least one language", "give codes such as eng_Latn,deu_Latn")
    for code in codes:
        if code not in available:
            raise CorpusError(
                f"no file for {code} in {place}",
                f"one of the {len(available)} languages there",
                "add the file, or leave the language out of --langs",
            )
    return tuple(dict.fromkeys(codes))


def _code_of(given: str, available: Sequence[str], words: Sequence[str]) -> str:
    code = language_aliases().get(given, given)
    if code in languages() or code in available:
        return code
    near = _nearest(given.lower(), words)
    hint = f"did you mean {near}?" if near else "`probe data list --languages` shows them"
    raise CorpusError(
        f"unknown language {given!r}", "a FLORES-200 code, an ISO 639-1 code or a set such as paper35", hint
    )


def _nearest(given: str, words: Sequence[str]) -> str | None:
    """What a name in lower case was probably meant to be; None where nothing is near.

    Of a code with a script, the language alone decides: four letters of script in common make no two languages alike.
    """
    if near := difflib.get_close_matches(given, words, n=1, cutoff=_NEAR):
        return near[0]
    code = _CODE_LIKE.fullmatch(given)
    stem, script = code.groups() if code else (given, "")
    if code and (same := [other for other in languages() if other.startswith(f"{stem}_")]):
        return difflib.get_close_matches(given, same, n=1, cutoff=0)[0]
    for other in languages().values():  # a macrolanguage, or its code's last letter mistyped: swa and swh are both sw
        short = stem[:2] if len(stem) == 3 else None
        if short == other.iso639_1 == other.iso639_3[:2] and script in ("", other.script.lower()):
            return other.code
    if code or stem in _names():
        return _names().get(stem)
    near = difflib.get_close_matches(stem, [name for name in _names() if len(name) > 2], n=1, cutoff=_NEAR)
    return _names()[near[0]] if near and len(stem) > 2 else None


@cache
def _names() -> dict[str, str]:
    """What people call a language, in lower case -> its code, or the name of a set."""
    names = {name: name for name in language_sets()}
    for code, language in languages().items():
        for name in filter(None, (language.iso639_1, language.massive, language.iso639_3, language.name)):
            names.setdefault(name.lower(), code)
    return names


def language_of_file(path: Path) -> str | None:
    """The language a file's name begins with, as a code; None where it is no language file."""
    stem = path.name.split(".")[0]
    code = language_aliases().get(stem, stem)
    return code if code in languages() or _CODE_SHAPE.fullmatch(code) else None


def _language_files(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        code = language_of_file(path) if path.is_file() and "." in path.name else None
        if code is not None and not path.name.endswith(".npy"):
            files.setdefault(code, []).append(path)
    return files


def _one_file(code: str, paths: Sequence[Path], split: str | None, several: bool) -> Path:
    """The language's only file, or the one whose name holds the split as a dotted part.

    Args:
        several: whether some language has several files. Then a single file must be of the split too, for rows of
            another split are not parallel, be they of equal count.
    """
    texts = [path for path in paths if ".jsonl" not in path.name]
    named = [path for path in texts if split in path.name.split(".")[1:]]
    if len(named) == 1:
        return named[0]
    if len(texts) == len(paths) == 1 and not (several and split):  # a single file needs no split in its name
        return texts[0]
    if not texts:
        raise CorpusError(
            f"{code} has {paths[0].name}, others have text files",
            "one kind, since text is parallel by line and jsonl by id",
            "leave one kind out of the folder or of --langs",
        )
    names = ", ".join(path.name for path in paths)
    raise CorpusError(
        f"{code} has {names}",
        f"one file of split {split}" if split else "one file, or a --split that picks one",
        "give another --split, or mend the folder" if split else "give --split, such as --split dev",
    )


def _check_equal_counts(counts: Mapping[str, int]) -> None:
    first, expected = next(iter(counts.items()))
    for name, count in counts.items():
        if count != expected:
            raise CorpusError(
                f"{name} has {count} rows",
                f"{expected} as in {first}, since rows are parallel",
                "mend the file: a line is missing, or added",
            )


def read_text(path: Path) -> tuple[str, ...]:
    """The lines of a text file: UTF-8, split on `\\n` only, none empty.

    Raises:
        CorpusError: invalid UTF-8, a byte order mark, CRLF line ends, an empty line or an empty file.
    """
    data = _bytes(path)
    if data.startswith(b"\xef\xbb\xbf"):
        raise CorpusError(f"{path.name} begins with a byte order mark", "plain UTF-8", "remove the first three bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = data[: error.start].count(b"\n") + 1
        raise _not_utf8(f"{path.name} line {bad}") from None
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise CorpusError(f"{path.name} is empty", "one sentence a line", "give the right file")
    for number, line in enumerate(lines, start=1):
        check_line(line, f"{path.name} line {number}")
    return tuple(lines)


def _not_utf8(where: str) -> CorpusError:
    return CorpusError(f"{where} is not valid UTF-8", "UTF-8 text", "convert the file, for example with iconv")


def check_line(line: str, where: str) -> None:
    """Raises:
    CorpusError: an empty line, a line break inside, a CR at the end, or half of a surrogate pair (JSON can hold one).
    """
    if line.endswith("\r"):
        raise CorpusError(f"{where} ends in CRLF", r"\n line ends", "convert the file, for example with dos2unix")
    if "\n" in line:
        raise CorpusError(f"{where} holds a line break", "one sentence a row", "replace the break by a blank")
    if not line.strip():
        raise CorpusError(f"{where} is empty", "a sentence on every line", "remove the row from all languages")
    if _SURROGATE.search(line):
        raise CorpusError(f"{where} holds half of a surrogate pair", "text that UTF-8 can hold", "mend the row")


def _bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{path} cannot be read ({error})", "a readable file", "check the file and its permissions"
        ) from None


def _read_jsonl_languages(files: Mapping[str, Sequence[Path]], split: str | None) -> dict[str, tuple[str, ...]]:
    """Code -> utterances in the id order of the first language."""
    tables = {}
    for code, paths in files.items():
        if len(paths) > 1:
            raise CorpusError(f"{code} has {len(paths)} jsonl files", "one", "keep one of them in the folder")
        tables[code] = _read_jsonl(paths[0], split)
    first = next(iter(tables))
    order = list(tables[first])
    for code, table in tables.items():
        different = sorted(set(order) ^ set(table))
        if different:
            raise CorpusError(
                f"{code} and {first} differ in {len(different)} ids, {different[0]!r} first",
                "the same ids, since rows are parallel by id",
                "leave the language out, or mend its file",
            )
    return {code: tuple(table[row_id] for row_id in order) for code, table in tables.items()}


def _read_jsonl(path: Path, split: str | None) -> dict[str, str]:
    """Id -> utterance of one split."""
    rows = list(_json_rows(path))
    partitions = ", ".join(sorted({str(row["partition"]) for _, row in rows if "partition" in row}))
    if not rows:
        raise CorpusError(f"{path.name} is empty", "one JSON object a line", "give the right file")
    if split is None and "," in partitions:
        raise CorpusError(
            f"{path.name} holds the partitions {partitions}",
            "a --split that picks one",
            "give --split, such as --split dev",
        )
    table: dict[str, str] = {}
    for where, row in rows:
        if split is not None and row.get("partition", split) != split:
            continue
        text, row_id = row.get("utt", row.get("text")), row.get("id")
        if not isinstance(text, str) or row_id is None:
            raise CorpusError(f"{where} has no id or no text", 'keys "id" and "utt" (or "text")', "mend the row")
        if str(row_id) in table:
            raise CorpusError(f"{where} repeats id {row_id!r}", "each id once", "remove one of the rows")
        check_line(text, where)
        table[str(row_id)] = text
    if not table:
        raise CorpusError(f"{path.name} has no row of split {split!r}", f"one of {partitions}", "give another --split")
    return table


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(_bytes(path).split(b"\n"), start=1):
        if not line:
            continue
        where = f"{path.name} line {number}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError:
            raise _not_utf8(where) from None
        except ValueError:
            raise CorpusError(f"{where} is not JSON", "one JSON object a line", "mend the row") from None
        if not isinstance(row, dict):
            raise CorpusError(f"{where} is no JSON object", "one JSON object a line", "mend the row")
        yield where, row
