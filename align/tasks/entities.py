"""Named entities as JSON: Universal NER with character offsets, its prompt, tolerant parsing, F1 over entities."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from align.examples import Message
from align.pairs import language_code
from align.tasks.f1 import Counts, Draws, interval, matched, precision_recall_f1, ratios, total
from align.tasks.json_answers import FLAWS, read_json
from align.tasks.task import Score, Scored, TaskRow, refuse_other_length
from data_manifests.published import language_groups
from probe.corpus import resolve_languages
from probe.errors import AlignError

TYPES = ("PER", "LOC", "ORG")

TREEBANKS = {
    "eng_Latn": "en_ewt",
    "por_Latn": "pt_bosque",
    "zho_Hans": "zh_gsd",
    "dan_Latn": "da_ddt",
    "hrv_Latn": "hr_set",
    "slk_Latn": "sk_snk",
    "srp_Cyrl": "sr_set",
    "swe_Latn": "sv_talbanken",
}
"""The paper's languages (Table 8), and the part of Universal NER that is taken where there are several of a language: those
that have a training set."""

TEMPLATE = """\
Find every named entity in the sentence at the end. There are three types: PER for persons, ORG for organizations and \
LOC for locations.
A nationality is neither a location nor an organization; an organization may be any other group of people.
Answer with JSON only, built like the result of the example.

Example sentence:

<$1$>

Its result:

<$2$>

Sentence:

<$3$>"""
"""Our own words, in English for every language, for what the templates say that Universal NER gave to the Aya collection
(on the hub: universalner/uner_llm_instructions, templates-uner/template-UNER-EN.dat and one for each other language). They
have the same three places, so that the text of such a file can be given in its stead: the example's sentence `<$1$>`, its
result `<$2$>`, and the sentence `<$3$>`."""

_SPLITS = ("train", "dev", "test")
_FILE = re.compile(
    r"(?P<language>[a-z]{2,3})_(?P<treebank>[a-z0-9]+)-ud-(?P<split>train|dev|test)\.(?:.+\.)?iob2(?:\.gz)?"
)
_PLACE = re.compile(r"<\$([123])\$>")
_TAG = re.compile(r"O|(?P<part>[BI])-(?P<type>PER|LOC|ORG|OTH|O)")

_LOOSE_STARTS = {
    ("da_ddt-ud-train", "train-v2-2656"),
    ("da_ddt-ud-train", "train-v2-2963"),
    ("da_ddt-ud-train", "train-v2-3357"),
    ("da_ddt-ud-train", "train-v2-3954"),
    ("da_ddt-ud-train", "train-v2-3975"),
    ("da_ddt-ud-train", "train-v2-4002"),
    ("da_ddt-ud-test", "test-285"),
    ("hr_set-ud-dev", "set.hr-s1908"),
    ("sr_set-ud-train", "set-s660"),
    ("sr_set-ud-train", "set-s978"),
    ("sr_set-ud-dev", "set-s582"),
    ("sr_set-ud-dev", "set-s1057"),
}
"""The sentences of the release in which an I- has no B- of its type before it."""


class Entity(NamedTuple):
    type: str
    text: str
    start: int | None
    """In characters (Unicode code points) from the beginning of the sentence. None where an answer tells no integer."""
    end: int | None
    """Behind the last character, as in the paper's example: in the sentence that it is from (English-EWT, train), "Iguazu
    Falls" has 12 characters and goes from 81 to 93."""


@dataclass(frozen=True)
class Sentence:
    """One annotated sentence."""

    id: str
    text: str
    entities: tuple[Entity, ...]
    """By place."""
    mended: int = 0
    """Entities that begin with an I-, see `read_iob2`."""
    others: int = 0
    """Entities of type OTH, which are left out."""


EXAMPLE = Sentence("example", "Where in the world is Iguazu?", (Entity("LOC", "Iguazu", 22, 28),))
"""Of every prompt; a sentence of English-EWT's training set."""


def read_iob2(path: Path) -> tuple[Sentence, ...]:
    """Read a file of Universal NER, plain or `.gz`: columns index, token, tag and more, an empty line behind each sentence,
    `# sent_id` and `# text` before it.

    Entities are PER, LOC and ORG. OTH (Croatian, Serbian, the English pre-release) and B-O (that pre-release) are read as O.
    Offsets come from laying the tokens along the text, which must hold them and else nothing but white space.

    In strict IOB2 each entity begins with a B-. Twelve sentences of the release have an I- without a B- or I- of its type
    before it: there the I- begins an entity, and `Sentence.mended` counts it. Anywhere else such a tag is refused, since it
    may as well be a lost line or another scheme (in IOB1 nearly every entity begins with an I-).

    Raises:
        AlignError: a file that cannot be read or is no such file, with the line and the sentence.
    """
    sentences = tuple(_sentence(block, path) for block in _blocks(_text(path)))
    if not sentences:
        raise AlignError(f"{path} is empty", "sentences in IOB2", "give the right file")
    twice = [name for name, count in Counter(sentence.id for sentence in sentences).items() if count > 1]
    if twice:
        raise AlignError(f"{path.name} has sent_id {twice[0]} twice", "each once", "mend the file")
    return sentences


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise AlignError(f"{path} is not valid UTF-8 (byte {error.start})", "UTF-8 text", "convert the file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise AlignError(f"{path} cannot be read ({error})", "an IOB2 file", "check the path and the file") from None


class _Line(NamedTuple):
    number: int
    text: str


def _blocks(text: str) -> Iterator[list[_Line]]:
    """The lines of each sentence."""
    block: list[_Line] = []
    for line in (*map(_Line._make, enumerate(text.split("\n"), 1)), _Line(0, "")):
        if line.text.strip():
            block.append(line)
        elif block:
            yield block
            block = []


def _sentence(block: Sequence[_Line], path: Path) -> Sentence:
    comments = {
        key.strip(): value.strip()
        for line in block
        if line.text.startswith("#")
        for key, _, value in [line.text[1:].partition("=")]
    }
    for key in ("sent_id", "text"):
        if not comments.get(key):
            raise AlignError(
                f"{path.name} line {block[0].number} begins a sentence without # {key}",
                f"a comment # {key} = ...",
                "take the released file",
            )
    name, text = comments["sent_id"], comments["text"]
    lines = [line for line in block if not line.text.startswith("#")]
    tokens = [_token(line, place, f"{path.name} line {line.number} ({name})") for place, line in enumerate(lines, 1)]
    begun, mended = _entities(tokens, loose=(path.name.split(".")[0], name) in _LOOSE_STARTS)
    spans = _spans(tokens, text, f"{path.name} line {block[0].number} ({name})")
    places = [(type_, spans[first][0], spans[last][1]) for type_, first, last in begun]
    entities = tuple(Entity(type_, text[start:end], start, end) for type_, start, end in places if type_ in TYPES)
    return Sentence(name, text, entities, mended, sum(type_ == "OTH" for type_, _, _ in begun))


class _Token(NamedTuple):
    form: str
    part: str | None
    """B or I; None of O."""
    type: str | None
    where: str


def _token(line: _Line, place: int, where: str) -> _Token:
    columns = line.text.split("\t")
    if len(columns) < 3 or columns[0] != str(place) or not columns[1].strip():
        raise AlignError(
            f"{where} reads {line.text[:60]!r}",
            f"token {place}: its index, the token and its tag, between tabs",
            "mend the line, or take the released file",
        )
    tag = _TAG.fullmatch(columns[2])
    if tag is None:
        raise AlignError(
            f"{where} has the tag {columns[2]!r}", "O, or B- or I- with PER, LOC, ORG or OTH", "mend the line"
        )
    return _Token(columns[1], tag["part"], tag["type"], where)


def _entities(tokens: Sequence[_Token], loose: bool) -> tuple[list[tuple[str, int, int]], int]:
    """Type, first and last token of each entity of any type; and how many begin with an I-."""
    found: list[tuple[str, int, int]] = []
    mended = 0
    before: str | None = None
    for place, token in enumerate(tokens):
        if token.part == "I" and token.type != before:
            if not loose:
                raise AlignError(
                    f"{token.where} has I-{token.type} after {f'an entity of {before}' if before else 'O'}",
                    f"B-{token.type}, since in IOB2 a B- begins each entity",
                    "mend the tag",
                )
            mended += 1
            found.append((str(token.type), place, place))
        elif token.part == "I":
            found[-1] = (*found[-1][:2], place)
        elif token.part == "B":
            found.append((str(token.type), place, place))
        before = token.type
    return found, mended


def _spans(tokens: Sequence[_Token], text: str, where: str) -> list[tuple[int, int]]:
    """Begin and end of each token in the text."""
    spans: list[tuple[int, int]] = []
    at = 0
    for token in tokens:
        while text[at : at + 1].isspace():
            at += 1
        if not text.startswith(token.form, at):
            raise AlignError(
                f"{token.where} has the token {token.form!r} where # text goes on with {text[at : at + 30]!r}",
                "the tokens of the text in its order",
                "mend the sentence, or take the released file",
            )
        spans.append((at, at + len(token.form)))
        at += len(token.form)
    if text[at:].strip():
        raise AlignError(
            f"{where} has a # text that ends in {text[at:].strip()[-30:]!r}, which no token holds",
            "tokens for the whole text",
            "mend the sentence, or take the released file",
        )
    return spans


def as_json(sentence: Sentence) -> str:
    """The answer that is right: `{"Results": [{"TypeName": "LOC", "Text": "Iguazu Falls", "Start": 81, "End": 93}]}`."""
    results = [
        {"TypeName": entity.type, "Text": entity.text, "Start": entity.start, "End": entity.end}
        for entity in sentence.entities
    ]
    return json.dumps({"Results": results}, ensure_ascii=False)


@dataclass(frozen=True)
class Entities:
    """Entities as JSON over Universal NER (paper, section 4.1 and Table 8): implements `align.tasks.task.Task`.

    `f1`, `precision` and `recall` compare the multisets of (type, text) of each sentence, texts in NFC with single blanks:
    types and texts are all that the authors' own reading of answers keeps (dannigt/mid-align, scripts/utils.py; theirs loses
    texts that hold a quotation mark). `strict-f1` wants both offsets right too. An entity of an unknown type and a result
    without type or text count as predicted and wrong. How answers are read is in `parse`.
    """

    name = "entities"
    main = "f1"

    template: str = TEMPLATE
    """The user's turn, with the places that `TEMPLATE` names.

    Raises:
        AlignError: no place for the sentence.
    """

    def __post_init__(self) -> None:
        if "<$3$>" not in self.template:
            raise AlignError(
                f"a template of {len(self.template)} characters without <$3$>",
                "<$3$> where the sentence goes, <$1$> and <$2$> for the example and its result",
                "add the place",
            )

    @property
    def template_sha256(self) -> str:
        """Of its text, and so of the file that it is from: by it a training run and an evaluation are seen to ask alike."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    def rows(self, data: Path, split: str, langs: str | None = None, limit: int | None = None) -> tuple[TaskRow, ...]:
        """The sentences of a split, by language in the order asked for, then in the file's order.

        Args:
            data: folder that holds `UNER_*` folders (itself, or its folder `uner`), one of these, or one file, which is the
                only way to the English pre-release. Files are `<language>_<treebank>-ud-<split>.iob2`, also `.gz`.
            split: `train`, `dev` or `test`.
            langs: codes, aliases or sets, comma-separated; None = the paper's eight languages, or the file's own.
            limit: the first rows of each language only.

        Raises:
            AlignError: files that are missing, malformed or of another split.
            CorpusError: a name that is no language, or a language without a file.
        """
        if split not in _SPLITS:
            raise AlignError(f"split {split!r}", " or ".join(_SPLITS), "give one of these")
        if limit is not None and limit < 1:
            raise AlignError(f"--limit {limit}", "at least 1 sentence", "give a larger limit")
        files = _files(Path(data), split)
        if langs is None and not Path(data).is_file():
            langs = ",".join(TREEBANKS)
        codes = resolve_languages(langs, tuple(files), f"the {split} files of {data}")
        return tuple(
            TaskRow(sentence.id, code, self.prompt(sentence.text), as_json(sentence), sentence)
            for code in codes
            for sentence in read_iob2(_one_treebank(code, files[code]))[:limit]
        )

    def prompt(self, text: str) -> tuple[Message, ...]:
        """One turn of the user."""
        parts = {"1": EXAMPLE.text, "2": as_json(EXAMPLE), "3": text}
        return (Message("user", _PLACE.sub(lambda place: parts[place[1]], self.template)),)

    def parse(self, text: str) -> dict[str, Any]:
        """What a generation says.

        Returns:
            `entities`: type, text, start and end of each (offsets that are no integers are None); `ill_formed`: the number
            of results without type or text (but for the last one of a truncated answer); `flaws`: of
            `align.tasks.json_answers.FLAWS`, or `other form`: JSON, but not `{"Results": [...]}`, of which a list counts as
            the results. No flaws: the form asked for.
        """
        answer = read_json(text, "Results")
        results, flaws = _results(answer.value), answer.flaws
        if results is None:
            results = answer.value if isinstance(answer.value, list) else []
            flaws = flaws if "not JSON" in flaws else (*flaws, "other form")
        read = [_entity(result) for result in results]
        cut = "truncated" in flaws and read[-1:] == [None]
        return {
            "entities": [entity._asdict() for entity in read if entity],
            "ill_formed": read.count(None) - cut,
            "flaws": list(flaws),
        }

    def score(self, rows: Sequence[TaskRow], answers: Sequence[str], draws: int = 1000, seed: int = 0) -> Scored:
        """Micro-F1, strict micro-F1, precision and recall of each language; means over all, and over the paper's groups, where
        all their languages are there.

        The bootstrap draws the sentences of all languages in one go, as if they were one set, so that a language's number of
        sentences differs a little between draws. Each is drawn for its language alone; only Croatian and Serbian, which hold
        translations of one another (457 of the 520 Serbian test sentences are in both), are drawn by the common part of
        their ids. A mean's interval is that of the mean in each draw.

        Raises:
            AlignError: as many answers as rows are expected; both counts are told.
        """
        refuse_other_length(rows, answers)
        judged: dict[str, list[_Judged]] = {}
        for row, answer in zip(rows, answers, strict=True):
            judged.setdefault(row.language, []).append(_judge(row, self.parse(answer)))
        drawn = Draws.of((one.key for own in judged.values() for one in own), draws, seed)
        results = {code: _result(own, drawn) for code, own in judged.items()}
        groups = {"mean": tuple(judged), **language_groups(self.name)} if judged else {}
        means = {f"({group})": codes for group, codes in groups.items() if set(codes) <= set(judged)}
        scores = [_score(code, metric, *result) for code, own in results.items() for metric, result in own.items()]
        for name, codes in means.items():
            for metric in results[codes[0]]:
                values, resampled = zip(*(results[code][metric] for code in codes), strict=True)
                scores.append(_score(name, metric, float(np.mean(values)), np.mean(resampled, axis=0)))
        return Scored(
            tuple(scores),
            {code: _counted(own) for code, own in judged.items()},
            {"types": {code: _by_type(own) for code, own in judged.items()}, "template_sha256": self.template_sha256},
            tuple(_notes(judged, self.template)),
        )


def _files(data: Path, split: str) -> dict[str, list[Path]]:
    """Code -> the files of that language."""
    if data.is_file():
        name = _FILE.fullmatch(data.name)
        code = language_code(name["language"]) if name else None
        if name is None or code is None:
            raise AlignError(
                f"{data} does not say what it holds", "<language>_<treebank>-ud-<split>.iob2", "rename the file"
            )
        if name["split"] != split:
            raise AlignError(f"{data.name} asked for as {split}", name["split"], f"give --split {name['split']}")
        return {code: [data]}
    found: dict[str, list[Path]] = {}
    for path in sorted(path for pattern in ("*", "UNER_*/*", "uner/UNER_*/*") for path in data.glob(pattern)):
        name = _FILE.fullmatch(path.name)
        released = name is not None and path.name.removesuffix(".gz").endswith(f"-ud-{split}.iob2")
        if name and released and (code := language_code(name["language"])):
            found.setdefault(code, []).append(path)
    if not found:
        raise AlignError(
            f"{data} holds no {split} file of Universal NER",
            f"<language>_<treebank>-ud-{split}.iob2 in folders UNER_*, plain or .gz",
            "check --data",
        )
    return found


def _one_treebank(code: str, paths: Sequence[Path]) -> Path:
    chosen = [path for path in paths if path.name.startswith(f"{TREEBANKS.get(code)}-")] if len(paths) > 1 else paths
    if len(chosen) != 1:
        raise AlignError(
            f"{code} has {', '.join(path.name for path in paths)}",
            "one file a language and split",
            "give the folder of one treebank as --data, or take the others away",
        )
    return chosen[0]


def _results(value: Any) -> list[Any] | None:
    results = value.get("Results") if isinstance(value, dict) else None
    return results if isinstance(results, list) else None


def _entity(result: Any) -> Entity | None:
    """None: no entity, because its type or its text is missing."""
    if not isinstance(result, dict):
        return None
    name, text = result.get("TypeName"), result.get("Text")
    if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
        return None
    return Entity(name, text, _offset(result.get("Start")), _offset(result.get("End")))


def _offset(value: Any) -> int | None:
    return value if type(value) is int else None


class _Judged(NamedTuple):
    """A row and its answer, compared."""

    key: str
    """What the bootstrap draws it by."""
    gold: Sentence
    said: Mapping[str, Any]
    by_type: Mapping[str, Counts]
    """Of the three types; of `other` what has another type, or no type or text."""
    strict: Counts

    @property
    def counts(self) -> Counts:
        return total(self.by_type.values())


def _judge(row: TaskRow, said: Mapping[str, Any]) -> _Judged:
    gold = [entity._replace(text=_normal(entity.text)) for entity in row.gold.entities]
    predicted = [Entity(**entity)._replace(text=_normal(entity["text"])) for entity in said["entities"]]
    by_type = {
        name: matched(
            [entity.text for entity in gold if entity.type == name],
            [entity.text for entity in predicted if entity.type == name],
        )
        for name in TYPES
    }
    ill_formed = Counts(wrong=said["ill_formed"])
    by_type["other"] = total([Counts(wrong=sum(entity.type not in TYPES for entity in predicted)), ill_formed])
    return _Judged(_key(row), row.gold, said, by_type, total([matched(gold, predicted), ill_formed]))


def _key(row: TaskRow) -> str:
    """Croatian `set.hr-s297` and Serbian `set-s297` are one sentence; other ids mean nothing in another language."""
    if row.language in ("hrv_Latn", "srp_Cyrl") and row.id.startswith(("set.hr-", "set-")):
        return row.id.replace("set.hr-", "set-")
    return f"{row.language} {row.id}"


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


_Result = Mapping[str, tuple[float, Float64[np.ndarray, " draw"]]]
"""Metric -> its value, and the values in the bootstrap's draws."""


def _result(own: Sequence[_Judged], drawn: Draws) -> _Result:
    rows = np.array([one.counts + one.strict for one in own], dtype=np.float64)  # two times right, wrong, missed
    summed = np.vstack([rows.sum(axis=0), drawn.sums([one.key for one in own], rows)])
    precision, recall, f1 = ratios(summed[:, :3])
    metrics = {"f1": f1, "strict-f1": ratios(summed[:, 3:])[2], "precision": precision, "recall": recall}
    return {metric: (float(values[0]), values[1:]) for metric, values in metrics.items()}


def _score(language: str, metric: str, value: float, resampled: Float64[np.ndarray, " draw"]) -> Score:
    return Score(language, metric, value, *interval(resampled))


def _by_type(own: Sequence[_Judged]) -> dict[str, dict[str, float]]:
    """Type -> its F1, precision, recall and how many there are, in the text and in the answers."""
    told = {}
    for name in TYPES:
        counts = total(one.by_type[name] for one in own)
        precision, recall, f1 = precision_recall_f1(counts)
        told[name] = {
            "f1": f1,
            "precision": precision,
            "recall": recall,
            "gold": counts.right + counts.missed,
            "predicted": counts.right + counts.wrong,
        }
    return told


def _counted(own: Sequence[_Judged]) -> dict[str, int]:
    counts = total(one.counts for one in own)
    flaws = Counter(flaw for one in own for flaw in one.said["flaws"])
    types = [entity["type"] for one in own for entity in one.said["entities"]]
    return {
        "rows": len(own),
        "gold": counts.right + counts.missed,
        "predicted": counts.right + counts.wrong,
        "exact": sum(not one.said["flaws"] for one in own),
        **{flaw: flaws[flaw] for flaw in (*FLAWS, "other form")},
        "ill-formed results": sum(one.said["ill_formed"] for one in own),
        "unknown types": sum(name not in TYPES for name in types),
        "mended I-": sum(one.gold.mended for one in own),
        "OTH left out": sum(one.gold.others for one in own),
    }


def _notes(judged: Mapping[str, Sequence[_Judged]], template: str) -> Iterator[str]:
    if template == TEMPLATE:
        yield (
            "The prompt says in midprobe's words, in English, what Universal NER's templates of the Aya collection say "
            "in each language's own: zero-shot scores are not those of the paper's prompt."
        )
    if "zho_Hans" in judged:
        yield "Universal NER's Chinese (GSD) is in traditional characters; it stands under zho_Hans, which `zh` means."
    if "srp_Cyrl" in judged:
        yield "Universal NER's Serbian is in Latin letters; it stands under srp_Cyrl, the one code of Serbian."
    if any(one.gold.others for one in judged.get("eng_Latn", ())):
        yield "The English sentences are of the pre-release, which its authors call not tested."
    for code, own in judged.items():
        if not any(one.gold.entities for one in own):
            yield f"{code}: these sentences hold no entity, so that F1 is 0 whatever is answered."
        if mended := sum(one.gold.mended for one in own):
            yield f"{code}: entities that begin with an I- in the released file, read as if with a B-: {mended}."
