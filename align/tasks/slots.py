"""Slot filling on MASSIVE 1.1: which words of a command are entities of which of 55 types.

The answer to `wake me up at five am this week` is `time: five am; date: this week`, to a command without slots `None`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from align.examples import Message
from align.tasks.f1 import Counts, Draws, interval, match, percent, precision_recall_f1, ratios
from align.tasks.massive_compat import compat_row
from align.tasks.task import Score, Scored, TaskRow, refuse_other_length
from data_manifests import language_aliases, languages
from data_manifests.published import language_groups
from probe.corpus import resolve_languages
from probe.errors import AlignError

SLOT_TYPES = (
    "alarm_type", "app_name", "artist_name", "audiobook_author", "audiobook_name", "business_name",
    "business_type", "change_amount", "coffee_type", "color_type", "cooking_type", "currency_name", "date",
    "definition_word", "device_type", "drink_type", "email_address", "email_folder", "event_name", "food_type",
    "game_name", "game_type", "general_frequency", "house_place", "ingredient", "joke_type", "list_name",
    "meal_type", "media_type", "movie_name", "movie_type", "music_album", "music_descriptor", "music_genre",
    "news_topic", "order_type", "person", "personal_info", "place_name", "player_setting", "playlist_name",
    "podcast_descriptor", "podcast_name", "radio_name", "relation", "song_name", "sport_type", "time",
    "time_zone", "timeofday", "transport_agency", "transport_descriptor", "transport_name", "transport_type",
    "weather_descriptor",
)  # fmt: skip
"""All that occur in MASSIVE 1.1."""

_TASK = "Given a command from the user, a voice assistant will extract entities essential for carry out the command."
_WORDS = "Your task is to extract the entities as words from the command if they fall under a predefined list of entity types."
_EXAMPLE = (
    "For example, for a command about playing a specific song, the name of the song mentioned by the user would be an "
    'entity, falling under the type of "song name".'
)
SYSTEM_PROMPTS = {
    "fine-tuned": f"{_TASK} {_WORDS}",
    "as-run": f"{_TASK}\n{_EXAMPLE}\n{_WORDS}",
    "zero-shot": (
        "You are the part of a voice assistant that understands commands. A user gives one command, in any language. "
        "Extract from it the entities that are needed to carry it out.\n"
        f"Each entity has one of these types: {', '.join(SLOT_TYPES)}.\n"
        'Answer with one entity a line, written as "type: words": the type as in the list, the words verbatim as in the '
        "command, in its language. Give no explanation.\n"
        'If the command holds no entity of these types, answer "None".'
    ),
}
"""Style -> system prompt; the user's turn is the utterance.

`fine-tuned` is the paper's (Appendix D.2). `as-run` is that of the authors' code (`dannigt/mid-align` at c3fa8ef,
`scripts/run_inference_massive.py` and `data_example/`), with a sentence that the paper leaves out: what their published
adapters were trained with. `zero-shot` is a wording of our own with what the paper says of its prompt: types listed, an
instruction to answer `type: words`, verbatim, one line an answer. The paper took the prompt of He and Garner (2023), which is
not in the authors' code, so that zero-shot scores are not comparable with the paper's.
"""

_DEFAULT_LANGS = "slots20"
_COMPAT = (
    "compat-f1 and compat-exact count as the paper's script does, with its faults: every occurrence of a value is labelled, "
    "values that are not in the utterance are no errors; strict-f1 has none of these."
)


@dataclass(frozen=True)
class Command:
    """What a row is scored against."""

    utterance: str
    annotation: str
    """MASSIVE's `annot_utt`."""
    slots: tuple[tuple[str, str], ...]
    """(type, words), white space normalised, in the utterance's order."""


class Said(NamedTuple):
    """What an answer says."""

    slots: tuple[tuple[str, str], ...]
    """(type, words), white space normalised; the type may be none of ours."""
    ill_formed: tuple[str, ...]
    """Pieces that are not `type: words`."""


class Slots:
    """The task. See `SYSTEM_PROMPTS` for its styles.

    Answers, strictly read, are pieces between `;`, each split at its first `: ` into type and words; a value of MASSIVE holds
    neither. `None` alone, in upper or lower case, has no slots. White space is normalised, line breaks are white space; in the
    style `zero-shot`, whose prompt asks for a line an entity, they separate pieces as `;` does. Both scorers see an answer as
    one line, so that no answer can shift the next row.

    Raises:
        AlignError: an unknown style.
    """

    name = "slots"
    main = "strict-f1"

    def __init__(self, style: str = "fine-tuned") -> None:
        if style not in SYSTEM_PROMPTS:
            raise AlignError(f"style {style!r} of slots", f"one of {', '.join(SYSTEM_PROMPTS)}", "give one of these")
        self.style = style

    def rows(self, data: Path, split: str, langs: str | None = None, limit: int | None = None) -> tuple[TaskRow, ...]:
        """Read MASSIVE: jsonl, plain or .gz, or the hub's parquet, with the columns id, partition, utt and annot_utt.

        Args:
            data: a file, or a folder of files that are named for their language, or lie in folders that are (`sw-KE.jsonl.gz`,
                `sw-KE/test-00000-of-00001.parquet`); where none is, the column locale tells. MASSIVE's archive and the folder
                above are searched for `1.1/data`.
            langs: None = slots20, the paper's languages; `all` = those of the data.

        Raises:
            AlignError: no data, or malformed: a row without a column, an unknown partition, a repeated id, an annotation
                with broken brackets, an unknown type or other text than the utterance's; a language or split that is not there.
            CorpusError: a name that is no language.
        """
        if split not in _PARTITIONS:
            raise AlignError(f"--split {split}", "train, dev or test", "give one of these")
        if limit is not None and limit < 1:
            raise AlignError(f"--limit {limit}", "at least 1 row", "give a larger limit")
        sources = _by_language(Path(data))
        every = tuple(sorted(sources)) if langs == "all" else tuple(languages())
        codes = resolve_languages(_DEFAULT_LANGS if langs is None else langs, every, str(data))
        if lacking := [code for code in codes if code not in sources]:
            raise AlignError(
                f"{data} has no MASSIVE data of {', '.join(lacking)}",
                f"a file for each language, such as {languages()[lacking[0]].massive or lacking[0]}.jsonl",
                f"add them, or give --langs of {', '.join(sorted(sources))}",
            )
        return tuple(
            self._row(code, row_id, command)
            for code in codes
            for row_id, command in islice(_commands(sources[code], code, _PARTITIONS[split], Path(data)), limit)
        )

    def _row(self, code: str, row_id: str, command: Command) -> TaskRow:
        prompt = (Message("system", SYSTEM_PROMPTS[self.style]), Message("user", command.utterance))
        pieces = [f"{kind}: {words}" for kind, words in command.slots]
        return TaskRow(row_id, code, prompt, self._between.join(pieces) or "None", command)

    @property
    def _between(self) -> str:
        """What the style writes between two slots."""
        return "\n" if self.style == "zero-shot" else "; "

    def parse(self, text: str) -> dict[str, Any]:
        """`{"slots": [{"type": ..., "words": ...}, ...], "ill_formed": [piece, ...]}`."""
        said = parse_answer(self._one_line(text))
        return {
            "slots": [{"type": kind, "words": words} for kind, words in said.slots],
            "ill_formed": list(said.ill_formed),
        }

    def _one_line(self, answer: str) -> str:
        return _LINE_BREAKS.sub("; " if self.style == "zero-shot" else " ", answer.strip())

    def score(self, rows: Sequence[TaskRow], answers: Sequence[str], draws: int = 1000, seed: int = 0) -> Scored:
        """Score by languages, and by the mean over all and over the paper's groups whose languages are all there.

        `strict-f1` is micro-F1 over the multiset of (type, words) of each utterance; ill-formed pieces and slots of unknown
        types are false positives. It has `strict-precision` and `strict-recall` beside it. `compat-f1` and `compat-exact` are
        the paper's script's, see `massive_compat`. Intervals are over ids, drawn once for all languages and metrics.

        Counts of a language: rows, slots (of the gold), predicted, ill_formed_pieces, ill_formed_answers (that hold such a
        piece, or nothing at all), unknown_types (slots of one), empty_answers, line_breaks (answers that hold one).
        `details["by_type"]` has precision, recall, F1 and their counts, a language a type, and of all languages as `(all)`.
        """
        refuse_other_length(rows, answers)
        drawn = Draws.of((row.id for row in rows), draws, seed)
        tallies: dict[str, _Tally] = {}
        for row, answer in zip(rows, answers, strict=True):
            tallies.setdefault(row.language, _Tally()).add(row, answer, self._one_line(answer))
        metrics = {code: tally.metrics(drawn) for code, tally in tallies.items()}
        means = {f"({group})": _mean([metrics[code] for code in codes]) for group, codes in _groups(metrics).items()}
        by_type = {code: tally.types for code, tally in tallies.items()} | {"(all)": _sum(tallies.values())}
        return Scored(
            tuple(chain.from_iterable(_scores(name, each) for name, each in (metrics | means).items())),
            {code: tally.counts for code, tally in tallies.items()},
            {"style": self.style, "by_type": {name: _described(types) for name, types in by_type.items()}},
            (_COMPAT, *self._line_breaks_told(tallies)),
        )

    def _line_breaks_told(self, tallies: Mapping[str, _Tally]) -> Iterator[str]:
        if count := sum(tally.counts["line_breaks"] for tally in tallies.values()):
            read_as = "read as the end of a slot" if self.style == "zero-shot" else "read as blanks"
            yield f"Answers with line breaks, {read_as}: {count}."


_LINE_BREAKS = re.compile(r"[\r\n]+")


def parse_answer(line: str) -> Said:
    """Read an answer strictly: pieces between `;`, each split at its first `: `; empty pieces are left aside."""
    if line.strip().lower() == "none":
        return Said((), ())
    slots, ill_formed = [], []
    for piece in filter(None, (" ".join(piece.split()) for piece in line.split(";"))):
        kind, colon, words = piece.partition(": ")
        if kind and colon:
            slots.append((kind.rstrip(), words))
        else:
            ill_formed.append(piece)
    return Said(tuple(slots), tuple(ill_formed))


# Scoring

_ILL_FORMED = "(ill-formed)"
_UNKNOWN = "(unknown)"
_TYPES = frozenset(SLOT_TYPES)


@dataclass
class _Tally:
    """What is counted of one language."""

    ids: list[str] = field(default_factory=list)
    sums: list[tuple[int, ...]] = field(default_factory=list)
    """Of each row right, wrong, missed of the strict count and of the compatible one, whether it is exact, 1."""
    types: dict[str, Counts] = field(default_factory=dict)
    """Type -> strict counts."""
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, row: TaskRow, answer: str, line: str) -> None:
        gold: Command = row.gold
        said = parse_answer(line)
        ill_formed = [(_ILL_FORMED, piece) for piece in said.ill_formed]
        found = match(gold.slots, [*said.slots, *ill_formed])
        compat = compat_row(row.language, gold.utterance, gold.annotation, line)
        self.ids.append(row.id)
        self.sums.append((*found.counts, *compat.counts, int(compat.exact), 1))
        for place, entities in enumerate(found):
            for (kind, _), count in entities.items():
                self._add_type(kind if kind in _TYPES or kind == _ILL_FORMED else _UNKNOWN, place, count)
        empty = not line.strip("; ")
        self.counts["rows"] += 1
        self.counts["slots"] += len(gold.slots)
        self.counts["predicted"] += len(said.slots)
        self.counts["ill_formed_pieces"] += len(ill_formed)
        self.counts["ill_formed_answers"] += bool(ill_formed) or empty
        self.counts["unknown_types"] += sum(kind not in _TYPES for kind, _ in said.slots)
        self.counts["empty_answers"] += empty
        self.counts["line_breaks"] += bool(_LINE_BREAKS.search(answer.strip()))

    def _add_type(self, kind: str, place: int, count: int) -> None:
        counts = list(self.types.get(kind, Counts()))
        counts[place] += count
        self.types[kind] = Counts(*counts)

    def metrics(self, drawn: Draws) -> dict[str, Float64[np.ndarray, " 1+draw"]]:
        """Metric -> percent: of the rows as they are, then in every draw."""
        rows = np.array(self.sums, dtype=np.float64)
        sums = np.concatenate([rows.sum(0, keepdims=True), drawn.sums(self.ids, rows)])
        strict_precision, strict_recall, strict_f1 = ratios(sums[:, :3])
        return {
            "strict-f1": strict_f1,
            "strict-precision": strict_precision,
            "strict-recall": strict_recall,
            "compat-f1": ratios(sums[:, 3:6])[2],
            "compat-exact": percent(sums[:, 6], sums[:, 7]),
        }


_Metrics = Mapping[str, Float64[np.ndarray, " 1+draw"]]


def _groups(there: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """All languages, and the paper's groups of which none is absent."""
    groups = {group: codes for group, codes in language_groups("slots").items() if set(codes) <= set(there)}
    return {"mean": tuple(there), **groups} if there else {}


def _mean(members: Sequence[_Metrics]) -> _Metrics:
    return {metric: np.mean([each[metric] for each in members], axis=0) for metric in members[0]}


def _scores(name: str, metrics: _Metrics) -> Iterator[Score]:
    for metric, values in metrics.items():
        yield Score(name, metric, float(values[0]), *interval(values[1:]))


def _sum(tallies: Iterable[_Tally]) -> dict[str, Counts]:
    types: dict[str, Counts] = {}
    for tally in tallies:
        for kind, counts in tally.types.items():
            types[kind] = Counts(*(a + b for a, b in zip(types.get(kind, Counts()), counts, strict=True)))
    return types


def _described(types: Mapping[str, Counts]) -> dict[str, dict[str, float]]:
    return {
        kind: dict(zip(("precision", "recall", "f1"), precision_recall_f1(counts), strict=True)) | counts._asdict()
        for kind, counts in sorted(types.items())
    }


# Reading

_PARTITIONS = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}
_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
_PLACES = ("massive/1.1/data", "1.1/data", "data", "")
"""Below the folder given: where MASSIVE is in a data folder, in its archive, in copies of the hub."""
_COLUMNS = ("id", "locale", "partition", "utt", "annot_utt")
_SLOT = re.compile(r"\[([^\[\]]*)\]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Located(NamedTuple):
    where: str
    """File and line, for messages."""
    fields: Mapping[str, Any]


def _by_language(data: Path) -> dict[str, Iterable[_Located]]:
    """FLORES-200 code -> rows, which are read when they are asked for if the files' names tell the language."""
    folder, files = _files(data)
    named: dict[str, list[Path]] = {}
    for path in files:
        if code := _language_of(path.relative_to(folder)):
            named.setdefault(code, []).append(path)
    if named:
        return {code: chain.from_iterable(map(_read, paths)) for code, paths in named.items()}
    told: dict[str, list[_Located]] = {}
    for row in chain.from_iterable(map(_read, files)):
        told.setdefault(_language_told(row), []).append(row)
    return dict(told)


def _files(data: Path) -> tuple[Path, list[Path]]:
    """The tables, and the folder below which their names count."""
    if data.is_file():
        if not data.name.endswith(_ENDINGS):
            raise AlignError(f"{data} is no MASSIVE data", " or ".join(_ENDINGS), "give such a file, or their folder")
        return data.parent, [data]
    for folder in (data / place for place in _PLACES):
        found = chain.from_iterable(sorted(folder.glob(pattern)) for pattern in ("*", "*/*", "*/*/*"))
        if files := [path for path in found if path.name.endswith(_ENDINGS) and path.is_file()]:
            return folder, files
    raise AlignError(
        f"{data} holds no MASSIVE data" if data.is_dir() else f"{data} is not there",
        "files such as sw-KE.jsonl, sw-KE.jsonl.gz or sw-KE/test.parquet",
        "check --data",
    )


def _language_of(path: Path) -> str | None:
    """The code that a file's name, or a folder's, begins with: `sw-KE.jsonl`, `sw-KE_test.jsonl.gz`, `sw-KE/test.parquet`."""
    for part in path.parts:
        stem = part.split(".")[0]
        for name in (stem, stem.rpartition("_")[0]):
            if (code := language_aliases().get(name, name)) in languages():
                return code
    return None


def _language_told(row: _Located) -> str:
    locale = str(row.fields.get("locale"))
    code = language_aliases().get(locale, locale)
    if code not in languages():
        raise AlignError(
            f"{row.where} has the locale {locale}",
            "one of MASSIVE's, such as sw-KE",
            "name the file after its language",
        )
    return code


def _read(path: Path) -> Iterator[_Located]:
    """Raises:
    AlignError: a file that cannot be read, holds no row, or a line that is no JSON object.
    """
    empty = True
    for row in _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path):
        empty = False
        yield row
    if empty:
        raise AlignError(f"{path} is empty", "a row for each utterance", "give the right file")


def _read_jsonl(path: Path) -> Iterator[_Located]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise AlignError(f"{path} cannot be read ({error})", "a readable file", "check the file") from None
    for number, line in enumerate(data.split(b"\n"), start=1):
        where = f"{path.name} line {number}"
        try:
            fields = json.loads(line) if line.strip() else None
        except UnicodeDecodeError:
            raise AlignError(f"{where} is not valid UTF-8", "UTF-8 text", "convert the file") from None
        except ValueError:
            raise AlignError(f"{where} is not JSON", "one JSON object a line", "mend the line") from None
        if isinstance(fields, dict):
            yield _Located(where, fields)
        elif line.strip():
            raise AlignError(f"{where} is no JSON object", "one JSON object a line", "mend the line")


def _read_parquet(path: Path) -> Iterator[_Located]:
    import pyarrow
    from pyarrow import parquet

    try:
        there = parquet.read_schema(path).names
        table = parquet.read_table(path, columns=[name for name in _COLUMNS if name in there])
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:150]
        raise AlignError(f"{path} cannot be read ({reason})", "a parquet file", "check the file") from None
    for number, fields in enumerate(table.to_pylist(), start=1):
        yield _Located(f"{path.parent.name}/{path.name} row {number}", fields)


def _commands(rows: Iterable[_Located], code: str, split: str, data: Path) -> Iterator[tuple[str, Command]]:
    """Id and content of the rows of a split.

    Raises:
        AlignError: a malformed row; none of the split.
    """
    seen: set[str] = set()
    partitions: set[str] = set()
    for where, fields in rows:
        partition = _PARTITIONS.get(str(fields.get("partition")))
        if partition is None:
            raise AlignError(
                f"{where} has the partition {fields.get('partition')!r}", "train, dev or test", "mend the row"
            )
        partitions.add(partition)
        if partition != split:
            continue
        row_id = _row_id(where, fields, code)
        if row_id in seen:
            raise AlignError(
                f"{where} repeats the id {row_id} of {code}",
                f"each id once in {split}",
                "keep one of the rows, or files",
            )
        seen.add(row_id)
        yield row_id, _command(where, fields)
    if not seen:
        raise AlignError(
            f"{data} has no row of {split} in {code}", f"one of {', '.join(sorted(partitions))}", "give another --split"
        )


def _row_id(where: str, fields: Mapping[str, Any], code: str) -> str:
    """The id of a row, which must be of the language that its file is named for."""
    locale = fields.get("locale")
    if locale is not None and language_aliases().get(locale, locale) != code:
        raise AlignError(f"{where} has the locale {locale}", f"that of {code}, as its file", "rename the file")
    if fields.get("id") is None:
        raise AlignError(f"{where} has no id", "one, the same in all languages", "take MASSIVE's own files")
    return str(fields["id"])


def _command(where: str, fields: Mapping[str, Any]) -> Command:
    for column in ("utt", "annot_utt"):
        text = fields.get(column)
        if not isinstance(text, str) or not text.strip() or _SURROGATE.search(text):
            raise AlignError(
                f"{where} has no {column}" if not text else f"{where} has the {column} {text!a:.80}",
                "utt and annot_utt, text such as `wake me at [time : five am]`",
                "take MASSIVE's own files, or mend the row",
            )
    utterance, annotation = fields["utt"], fields["annot_utt"]
    slots = tuple(_slot(where, inside) for inside in _SLOT.findall(annotation))
    without = _SLOT.sub(lambda found: found[1].partition(" : ")[2], annotation)
    if "[" in without or "]" in without:
        raise _malformed(where, annotation, "with broken brackets", "each closed, none within another")
    if "".join(without.split()) != "".join(utterance.split()):
        raise _malformed(where, annotation, "of other text than its utt", f"the words {utterance[:60]!r}")
    return Command(utterance, annotation, slots)


def _slot(where: str, inside: str) -> tuple[str, str]:
    kind, _, words = inside.partition(" : ")
    words = " ".join(words.split())
    if not words:
        raise _malformed(where, f"[{inside}]", "without type or words", "[type : words]")
    if kind not in _TYPES:
        raise _malformed(where, f"[{inside}]", f"of the unknown type {kind!r}", "one of MASSIVE's 55 types")
    if ";" in words:
        raise _malformed(where, f"[{inside}]", "with ;, which separates the slots of an answer", "words without it")
    return kind, words


def _malformed(where: str, annotation: str, what: str, expected: str) -> AlignError:
    return AlignError(f"{where} has the annotation {annotation[:80]} {what}", expected, "mend the row")
