"""Parallel text for alignment: read it from pair files or corpora, filter it, hold a part out for development."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
import regex

from align.sampling import development_rows
from data_manifests import corpus_manifest, corpus_names, language_aliases, language_sets, languages, text_digests
from probe.corpus import ParallelCorpus, check_line, text_digest
from probe.errors import AlignError, CorpusError
from probe.sources import load_corpus

Relation = Literal["to-english", "either", "all"]

_HELD_OUT_CORPUS = "flores200"
_CODE_SHAPE = regex.compile(r"[a-z]{2,3}([-_][A-Za-z]{2,4})?")
_MOSES = "name.xx-yy.xx beside name.xx-yy.yy, or a .tsv of two columns"


@dataclass(frozen=True)
class PairSet:
    """Translations in one direction: row i of the sources means what row i of the targets means.

    The source side is the query of a one-way loss.

    Raises:
        AlignError: sides of unequal length, or twice the same language.
    """

    source: str
    """FLORES-200 code; of a language outside FLORES-200, the code in its file's name."""
    target: str
    sources: tuple[str, ...] = field(repr=False)
    targets: tuple[str, ...] = field(repr=False)
    origin: str
    """Where the text was read, for people."""
    keys: tuple[str, ...] = field(repr=False, default=())
    """The text of each row that decides whether it is for development. Empty: the English side's, else the target's."""

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise AlignError(
                f"{self.origin} pairs {self.source} with itself", "two languages", "give a translation of it"
            )
        if len(self.sources) != len(self.targets):
            raise AlignError(
                f"{self.origin} has {len(self.sources)} rows of {self.source} and {len(self.targets)} of {self.target}",
                "as many of each, since rows are parallel",
                "mend the files: a line is missing, or added",
            )

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def name(self) -> str:
        """`cym_Latn-eng_Latn`."""
        return f"{self.source}-{self.target}"

    @property
    def row_keys(self) -> tuple[str, ...]:
        return self.keys or (self.sources if _is_english(self.source) else self.targets)

    def sides(self) -> tuple[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]]:
        """Code and texts, of the source and of the target."""
        return (self.source, self.sources), (self.target, self.targets)

    def reversed(self) -> PairSet:
        """The other direction; the same rows are for development."""
        return PairSet(self.target, self.source, self.targets, self.sources, self.origin, self.row_keys)

    def take(self, rows: Sequence[int]) -> PairSet:
        """These rows, in this order."""
        sources, targets, keys = (
            tuple(map(texts.__getitem__, rows)) for texts in (self.sources, self.targets, self.row_keys)
        )
        return replace(self, sources=sources, targets=targets, keys=keys)


def _is_english(code: str) -> bool:
    return code.startswith("eng_")


def read_pairs(
    spec: str | Path | ParallelCorpus,
    langs: str | None = None,
    relation: Relation = "to-english",
    allow_flores: bool = False,
) -> tuple[PairSet, ...]:
    """Read parallel text, a set for each direction between two languages.

    Args:
        spec: a folder of pair files or one of them: Moses pairs (`name.xx-yy.xx` beside `name.xx-yy.yy`, either also `.gz`),
            or `.tsv` of two columns whose languages are in a first line, in the file's name (`name.xx-yy.tsv`), or are the
            two of `langs`; or a folder of language files; or a named corpus. `massive:dev` picks a split; a corpus without
            one gives `train` where it has it, else its default. Languages may have any code of FLORES-200, ISO 639, MASSIVE
            or the Tatoeba test sets: cym, cy, cy-GB and cym_Latn are one.
        langs: these languages only, comma-separated, or a set; English need not be named, but for `all`.
            None: all there are (of a named corpus: its own default).
        relation: `to-english` = every other language to English (paper: the query is the other side); `either` = both
            directions with English; `all` = every language of a corpus to every other. Pair files hold the directions
            they hold: `either` and `all` take them both ways, with English or without.
        allow_flores: read FLORES-200 too. Training on what is evaluated makes the evaluation void.

    Returns:
        The sets, by source and target. Nothing is filtered yet, and lines may be empty.

    Raises:
        CorpusError: files that are missing, malformed or not parallel.
        AlignError: FLORES-200, by name or by its text; fewer than two languages; no pair of the relation.
    """
    if isinstance(spec, ParallelCorpus):
        return _of_corpus(spec, spec.name, relation, allow_flores)
    if files := _pair_files(Path(spec)):
        return _of_files(files, Path(spec), langs, relation, allow_flores)
    name, split = _name_and_split(str(spec))
    if name == _HELD_OUT_CORPUS and not allow_flores:
        raise _flores(name)
    wanted = _wanted(langs, relation)
    corpus = load_corpus(name, None if wanted is None else ",".join(sorted(wanted)), split)
    return _of_corpus(corpus, f"{name}:{corpus.split}" if corpus.split else name, relation, allow_flores)


def language_code(name: str) -> str | None:
    """The FLORES-200 code of a language given by any of its codes; None where there is none, or more than one."""
    return _codes().get(name) or _codes().get(name.replace("_", "-"))


def _code(name: str) -> str:
    """The same; a language that is not known keeps its name."""
    return language_code(name) or name


@cache
def _codes() -> dict[str, str]:
    every = languages()
    codes = {code: code for code in every} | dict(language_aliases())
    codes |= {language.tatoeba: code for code, language in every.items() if language.tatoeba}
    of_iso: dict[str, list[str]] = {}
    for code, language in every.items():
        of_iso.setdefault(language.iso639_3, []).append(code)
    return {iso: found[0] for iso, found in of_iso.items() if len(found) == 1} | codes


def _wanted(langs: str | None, relation: Relation) -> set[str] | None:
    """The codes that `langs` names, with English where the relation is to it; None = all."""
    if langs is None or langs == "all":
        return None
    names = [part.strip() for part in langs.split(",") if part.strip()]
    wanted = {code for name in names for code in language_sets().get(name, (_code(name),))}
    if relation != "all":
        wanted.add("eng_Latn")
    if len(wanted) < 2:
        raise AlignError(f"languages {langs!r}", "at least two", "name a second one")
    return wanted


def _name_and_split(spec: str) -> tuple[str, str | None]:
    """Cut `massive:dev`; a named corpus without a split gives what is for training."""
    name, colon, split = spec.rpartition(":")
    if not colon or Path(spec).exists():
        name, split = spec, ""
    if not split and name in corpus_names():
        manifest = corpus_manifest(name)
        split = "train" if "train" in manifest.rows else manifest.default_split
    return name, split or None


def _of_files(
    files: Sequence[_File], place: Path, langs: str | None, relation: Relation, allow_flores: bool
) -> tuple[PairSet, ...]:
    wanted = _wanted(langs, relation)
    read = [_read_file(file, langs) for file in files if wanted is None or file.may_hold(wanted)]
    sets = [each for pair in read for each in _directed(pair, relation)]
    if wanted is not None:
        sets = [each for each in sets if {each.source, each.target} <= wanted]
        missing = wanted - {code for each in sets for code in (each.source, each.target)} - {"eng_Latn"}
        if missing:
            raise CorpusError(
                f"no pair with {min(missing)} in {place}",
                f"one of relation {relation}",
                "leave the language out of align.langs, or add its files",
            )
    _refuse_flores([side for each in sets for side in each.sides()], str(place), allow_flores)
    return _some(sets, f"{place} with {langs or 'all languages'}", relation)


def _of_corpus(corpus: ParallelCorpus, origin: str, relation: Relation, allow_flores: bool) -> tuple[PairSet, ...]:
    if corpus.name == _HELD_OUT_CORPUS and not allow_flores:
        raise _flores(corpus.name)
    _refuse_flores(corpus.sentences.items(), origin, allow_flores)
    if len(corpus.languages) < 2:
        raise AlignError(f"{origin} in {', '.join(corpus.languages)} only", "at least two languages", "add another")
    pivot = next(filter(_is_english, corpus.languages), corpus.languages[0])
    keys = corpus.sentences[pivot]
    sets = [
        PairSet(source, target, corpus.sentences[source], corpus.sentences[target], origin, keys)
        for source, target in permutations(corpus.languages, 2)
        if _is_related(source, target, relation)
    ]
    return _some(sets, origin, relation)


def _is_related(source: str, target: str, relation: Relation) -> bool:
    if relation == "to-english":
        return _is_english(target)
    return relation == "all" or _is_english(source) or _is_english(target)


def _directed(pair: PairSet, relation: Relation) -> list[PairSet]:
    """The directions of a pair file."""
    if relation != "to-english":
        return [pair, pair.reversed()]
    return [each for each in (pair, pair.reversed()) if _is_english(each.target)]


def _some(sets: Sequence[PairSet], place: str, relation: Relation) -> tuple[PairSet, ...]:
    if not sets:
        raise AlignError(
            f"{place} holds no language pair",
            "a pair with English" if relation != "all" else "a pair of them",
            "give other languages, or align.relation all for pairs without English",
        )
    return tuple(sorted(sets, key=lambda each: each.name))


def _refuse_flores(texts: Collection[tuple[str, Sequence[str]]], place: str, allow_flores: bool) -> None:
    """FLORES-200 under another name is known by the digests of its texts."""
    if not allow_flores:
        known = set(text_digests(_HELD_OUT_CORPUS).values())
        for code, lines in texts:
            if text_digest(lines) in known:
                raise _flores(f"{place} ({code})")


def _flores(what: str) -> AlignError:
    return AlignError(
        f"{what} is FLORES-200, the evaluation data",
        "other parallel text, since its results would be void",
        "train on Tatoeba or MASSIVE, or give --set align.allow_flores=true where this is what is studied",
    )


# Pair files


@dataclass(frozen=True)
class _File:
    """A pair file: one tsv, or the two of a Moses pair."""

    paths: tuple[Path, ...]
    names: tuple[str, str] | None
    """Of the two languages, as the file's name has them."""

    def may_hold(self, wanted: Collection[str]) -> bool:
        """Whether its languages are wanted. A tsv may name others in its first line, and must be read."""
        return len(self.paths) == 1 or self.names is None or {_code(name) for name in self.names} <= set(wanted)


def _pair_files(place: Path) -> list[_File]:
    """The pair files of a folder, or the one that a path belongs to."""
    if place.is_dir():
        found = {each.paths: each for path in sorted(place.iterdir()) if path.is_file() and (each := _pair_file(path))}
        return list(found.values())
    if not place.is_file():
        return []
    file = _pair_file(place)
    if file is None:
        raise CorpusError(f"{place} is no pair file", _MOSES, "rename it, or give a folder of language files")
    return [file]


def _pair_file(path: Path) -> _File | None:
    """The pair file that a file is, or is one half of; None where its name is of neither kind.

    Raises:
        CorpusError: one half without the other.
    """
    *stem, last = path.name.removesuffix(".gz").split(".")
    if last == "tsv":
        return _File((path,), _both(stem[-1]) if stem else None)
    names = _around(stem[-1], last) if stem else None
    if names is None:
        return None
    ending = ".gz" if path.name.endswith(".gz") else ""
    halves = tuple(path.with_name(".".join([*stem, name]) + ending) for name in names)
    for half in halves:
        if not half.is_file():
            raise CorpusError(f"{path.name} without {half.name}", "both sides of the pair", "add the missing file")
    return _File(halves, names)


def _around(pair: str, side: str) -> tuple[str, str] | None:
    """(xx, yy) of `xx-yy` where one of them is `side`; codes may hold hyphens themselves, as cy-GB does."""
    names = None
    if pair.startswith(f"{side}-"):
        names = side, pair.removeprefix(f"{side}-")
    elif pair.endswith(f"-{side}"):
        names = pair.removesuffix(f"-{side}"), side
    return names if names and all(map(_CODE_SHAPE.fullmatch, names)) else None


def _both(pair: str) -> tuple[str, str] | None:
    """The two languages of `xx-yy`, wherever the hyphen between them is; None where they are no languages."""
    parts = pair.split("-")
    for cut in range(1, len(parts)):
        names = "-".join(parts[:cut]), "-".join(parts[cut:])
        if all(map(language_code, names)):
            return names
    return None


def _read_file(file: _File, langs: str | None) -> PairSet:
    if len(file.paths) == 2:
        sources, targets = (_lines(path) for path in file.paths)
        names = file.names
        if len(sources) != len(targets):
            raise CorpusError(
                f"{file.paths[0].name} has {len(sources)} rows, {file.paths[1].name} {len(targets)}",
                "as many in both, since rows are parallel",
                "mend the files: a line is missing, or added",
            )
    else:
        names, sources, targets = _columns(file, langs)
    if names is None:
        raise CorpusError(
            f"{file.paths[0].name} does not say its languages",
            "a first line such as cym<TAB>eng, or a name such as news.cym-eng.tsv",
            "add one, or name exactly two languages in align.langs, in the order of the columns",
        )
    first, second = map(_code, names)
    if first == second:
        raise CorpusError(f"{file.paths[0].name} is {first} on both sides", "two languages", "rename the file")
    return PairSet(first, second, tuple(sources), tuple(targets), file.paths[0].name)


def _columns(file: _File, langs: str | None) -> tuple[tuple[str, str] | None, list[str], list[str]]:
    """Languages and columns of a tsv. Nothing is quoted: a tab is never part of a sentence."""
    rows = [line.split("\t") for line in _lines(file.paths[0])]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise CorpusError(
                f"{file.paths[0].name} line {number} has {len(row)} columns", "2, separated by one tab", "mend the line"
            )
    names = file.names
    first = (rows[0][0].strip(), rows[0][1].strip())
    if all(map(language_code, first)):
        names, rows = first, rows[1:]
        if not rows:
            raise CorpusError(
                f"{file.paths[0].name} is empty below its first line", "a pair a line", "give the right file"
            )
    elif names is None and langs is not None and len(given := [part.strip() for part in langs.split(",")]) == 2:
        names = (given[0], given[1])
    return names, [row[0] for row in rows], [row[1] for row in rows]


def _lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, split on `\\n` only. Empty ones are kept: filtering counts them.

    Raises:
        CorpusError: an empty file, or text that a corpus may not hold either.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path} cannot be read ({error})", "a readable file", "check the file") from None
    if data.startswith(b"\xef\xbb\xbf"):
        raise CorpusError(f"{path.name} begins with a byte order mark", "plain UTF-8", "remove the first three bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"{path.name} line {data[: error.start].count(10) + 1}"
        raise CorpusError(
            f"{where} is not valid UTF-8", "UTF-8 text", "convert the file, for example with iconv"
        ) from None
    if not text.strip():
        raise CorpusError(f"{path.name} is empty", "a sentence a line", "give the right file")
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip() or line.endswith("\r"):
            check_line(line, f"{path.name} line {number}")
    return lines


# Filters


@dataclass(frozen=True)
class FilterCounts:
    """Rows of one direction before and after filtering. Each row that goes is counted once, by the first filter it fails."""

    pair: str
    before: int
    empty: int
    """A side without text."""
    same_text: int
    """Both sides alike, blanks at the ends aside: most likely not translated."""
    multi_sentence: int
    """A side of more than one sentence, see `is_multi_sentence`."""
    held_out: int
    """A side that is evaluation text."""
    duplicate: int
    """A pair that came before."""
    after: int


def filter_pairs(
    sets: Sequence[PairSet], held_out: Callable[[str], bool] = lambda text: False
) -> tuple[tuple[PairSet, ...], tuple[FilterCounts, ...]]:
    """Drop rows that are no good for alignment: the paper's filters (no empty line, no translation of several sentences),
    copies, evaluation text and repetitions.

    Sets of the same direction, read at several places, become one first: they are one language pair to the sampler.

    Args:
        held_out: tells a sentence on which nothing may be trained, such as FLORES-200's, which other corpora (ALMA) contain.

    Returns:
        The sets that are not empty, and the counts of all, both by source and target.

    Raises:
        AlignError: nothing is left.
    """
    several = cache(is_multi_sentence)  # a text of a corpus comes again with every other language
    kept, counts = [], []
    for pair in _merged(sets):
        dropped = dict.fromkeys(_FILTERS, 0)
        seen: set[tuple[str, str]] = set()
        rows = []
        for row, (source, target) in enumerate(zip(pair.sources, pair.targets, strict=True)):
            failed = _failed(source, target, several, held_out)
            if failed is None and (source, target) in seen:
                failed = "duplicate"
            if failed is None:
                seen.add((source, target))
                rows.append(row)
            else:
                dropped[failed] += 1
        counts.append(FilterCounts(pair=pair.name, before=len(pair), after=len(rows), **dropped))
        kept.append(pair.take(rows))
    left = tuple(pair for pair in kept if len(pair))
    if not left:
        raise AlignError(
            f"none of {sum(each.before for each in counts)} pairs is left by the filters",
            "translations of single sentences",
            f"the first language pair lost {_reasons(counts[0])}" if counts else "give parallel text",
        )
    return left, tuple(counts)


_FILTERS = ("empty", "same_text", "multi_sentence", "held_out", "duplicate")
"""The names of the counts, in the order in which the filters are tried."""


def _failed(source: str, target: str, several: Callable[[str], bool], held_out: Callable[[str], bool]) -> str | None:
    """The first filter that a row fails by itself."""
    if not source.strip() or not target.strip():
        return "empty"
    if source.strip() == target.strip():
        return "same_text"
    if several(source) or several(target):
        return "multi_sentence"
    if held_out(source) or held_out(target):
        return "held_out"
    return None


def _reasons(counts: FilterCounts) -> str:
    lost = [(getattr(counts, name), name.replace("_", " ")) for name in _FILTERS]
    return ", ".join(f"{count} {name}" for count, name in lost if count)


def _merged(sets: Sequence[PairSet]) -> Iterator[PairSet]:
    same: dict[str, list[PairSet]] = {}
    for pair in sets:
        same.setdefault(pair.name, []).append(pair)
    for _, (first, *others) in sorted(same.items()):
        for other in others:
            first = PairSet(
                first.source,
                first.target,
                first.sources + other.sources,
                first.targets + other.targets,
                " + ".join(dict.fromkeys((*first.origin.split(" + "), other.origin))),
                first.row_keys + other.row_keys,
            )
        yield first


_MARKS = regex.compile(
    r"""(?P<marks>(?:[\p{Sentence_Terminal}…]|(?<=\p{Greek})[;\u037e]|(?<=\p{Armenian}):)+)
        (?P<closing>["'\p{Close_Punctuation}\p{Final_Punctuation}\p{Initial_Punctuation}]*)
        (?P<blank>\s*)
        (?=(?P<rest>\S))""",
    regex.VERBOSE,
)
"""What may end a sentence, and the first character after it. Greek asks with `;`, and Armenian text is often typed with `:`."""
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_INITIAL = regex.compile(r"(?<![\p{L}\p{M}\p{N}])[\p{Lu}\p{Ll}]$")
_OPENING = regex.compile(r"[\"'\p{Open_Punctuation}\p{Initial_Punctuation}]")
_WORD = regex.compile(r"[\p{L}\p{N}]")


def is_multi_sentence(text: str) -> bool:
    """Whether terminal punctuation is followed by more text: more letters or digits.

    Terminal is what Unicode calls so, the stops of Chinese, Arabic, Hindi, Armenian, Ethiopic or Khmer included; the Greek
    question mark; a colon after Armenian. Thai has none, so that its sentences are never told apart. Not an end:

    * a full stop inside a word or number (3.5, U.S., example.org), that is, without a blank behind it, unless
      what follows is of a script without blanks;
    * a full stop behind a single letter (6 p. m., U.S. Army, J. S. Bach), of a script with capitals;
    * dots in a row and the ellipsis character;
    * a mark before a closing quote or bracket, unless a capital letter or another quotation follows:
      `"Stop!" he said.` is one sentence, `"Stop!" He ran.` are two.

    Other abbreviations and ordinals (`Mr. Smith`, `am 3. Mai`) do count as ends: the filter rather drops a sentence too many.
    """
    return any(_ends_sentence(found, text) for found in _MARKS.finditer(text))


def _ends_sentence(found: regex.Match[str], text: str) -> bool:
    marks, rest = found["marks"], found["rest"]
    word = _WORD.search(text, found.start("rest"))
    if word is None:
        return False  # a smiley, a dash
    if marks == "…" or (len(marks) > 1 and not marks.strip(".。…")):
        return False
    if found["closing"]:
        return word[0].isupper() or _OPENING.match(rest) is not None
    if marks == ".":
        return (found["blank"] != "" or _UNSPACED.match(rest) is not None) and not _INITIAL.search(
            text, endpos=found.start()
        )
    return True


# Development


@dataclass(frozen=True)
class SplitCounts:
    """Rows of one direction in training and development."""

    pair: str
    train: int
    development: int
    shared: int
    """In neither, since a text of the row is in development of some pair."""


def split_development(
    sets: Sequence[PairSet], share: float = 0.1, least: int = 20
) -> tuple[tuple[PairSet, ...], tuple[PairSet, ...], tuple[SplitCounts, ...]]:
    """Hold out a tenth of each pair by hash of the text: the same rows whatever their order, and no seed.

    A row goes by its English text (of a corpus, the same for all its languages; without English, its first language's),
    see `development_rows`. No text is in both parts, not that of another language pair either: a row for training
    that shares one is left out.

    Args:
        share: of the rows of a pair.
        least: rows at least. A pair of fewer than twice as many gives none, and all of its rows train.

    Returns:
        Training, development, and the counts; sets without rows are left out.

    Raises:
        AlignError: fewer than two rows for development, or for training.
    """
    chosen = [development_rows(pair.row_keys, share, least) for pair in sets]
    development = tuple(pair.take(np.flatnonzero(rows).tolist()) for pair, rows in zip(sets, chosen, strict=True))
    seen = {text for pair in development for text in (*pair.sources, *pair.targets)}
    train = tuple(
        pair.take(
            [
                row
                for row, texts in enumerate(zip(pair.sources, pair.targets, strict=True))
                if not held_out[row] and seen.isdisjoint(texts)
            ]
        )
        for pair, held_out in zip(sets, chosen, strict=True)
    )
    counts = tuple(
        SplitCounts(whole.name, len(kept), len(held_out), len(whole) - len(kept) - len(held_out))
        for whole, kept, held_out in zip(sets, train, development, strict=True)
    )
    for part, rows in (("development", development), ("training", train)):
        if sum(map(len, rows)) < 2:  # one pair has no negatives
            raise AlignError(
                f"too few rows for {part} in language pairs of {', '.join(str(len(pair)) for pair in sets)} rows",
                f"a pair of {2 * least} rows or more",
                "give more parallel text",
            )
    return tuple(filter(len, train)), tuple(filter(len, development)), counts
