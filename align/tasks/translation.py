"""Translation, as in the paper: ALMA for training, WMT23 (Icelandic: WMT21) for testing; BLEU, chrF and COMET."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align.examples import Message
from align.pairs import language_code
from align.tasks.bleu import Measured, bleu_and_chrf, check_tokeniser
from align.tasks.comet import Comet, Judged, Triple
from align.tasks.f1 import Draws, interval
from align.tasks.task import Score, Scored, TaskRow, refuse_other_length
from align.tasks.translation_files import Direction, TranslationFiles, direction_name, one_line, split_pair
from data_manifests import language_sets, languages
from data_manifests.published import language_groups, published_tables
from probe.corpus import resolve_languages
from probe.errors import AlignError

_ENGLISH = "eng_Latn"
_PAPERS_NAMES = {
    "zho_Hans": "mandarin Chinese",
    "arb_Arab": "modern standard Arabic",
    "pes_Arab": "Farsi (Persian)",
    "khk_Cyrl": "Mongolian",
}
"""Languages that the authors' prompts (dannigt/mid-align @ c3fa8ef, scripts/utils.py) call otherwise than FLORES-200 does. Their
published adapters were trained on these words."""
_ENDLESS = 5
"""A generation this many times as long as its source and its reference together is counted as endless."""


class Segment(NamedTuple):
    """What a row is scored with."""

    source: str
    reference: str
    origin: str
    """The files it is from, for people."""
    turned: bool
    """Whether these are a test set of the other direction, source and reference having changed places."""


@dataclass(frozen=True)
class Translation:
    """The task. Its languages are directions: `de-en`, `deu_Latn-eng_Latn`; a language alone means both directions with
    English, `mt9` the sixteen of the paper's Table 12, another set both directions with English of each of its languages.

    A generation is scored as one line: line breaks become blanks, as sacreBLEU and the authors' script take them, and nothing is
    cut off. An empty one has no match and, by COMET, 0; an endless one has the precision that it has. Both are counted.
    """

    reference: str = "refA"
    """Which of WMT's references. Hebrew has refA and refB."""
    comet: Comet | None = None
    """None: BLEU and chrF only."""

    name = "translation"
    main = "bleu"

    def rows(self, data: Path, split: str, langs: str | None = None, limit: int | None = None) -> tuple[TaskRow, ...]:
        """The rows of a split, direction by direction; see `align.tasks.task.Task` and, for the files, `TranslationFiles`.

        A direction without files of its own is read from those of the other one, as the authors do for Czech to English:
        `Scored.notes` says so. A row's id is the digest of its set's English text and the number of its line, so that directions
        have ids in common where they have segments in common: the six from English of WMT23's common source.

        Args:
            langs: None = `mt9` where the data hold all of it; else, for test, the directions that have files of their own and,
                for train and dev, both directions of each pair of files.

        Raises:
            AlignError: as the task's; a direction in several sets; no dictionary for a tokeniser that the split needs.
            CorpusError: an unknown language; text that is empty or not clean.
        """
        if limit is not None and limit < 1:
            raise AlignError(f"--limit {limit}", "at least 1 row", "give a larger limit")
        files = TranslationFiles(Path(data), split, self.reference)
        asked = _default(files, split) if langs is None else directions(langs)
        lacking = [direction_name(each) for each in asked if each not in files]
        if lacking:
            raise AlignError(
                f"{data} has no {split} set of {', '.join(lacking)}",
                f"some of {', '.join(map(direction_name, files.directions))}, or their other directions",
                "leave these out of --langs, or add their files",
            )
        if split != "train":
            for _, target in asked:
                check_tokeniser(target)
        return tuple(row for each in asked for row in _rows(files, each, limit, split))

    def check(self) -> None:
        """Before answers are generated: whether there is the COMET that they will be scored with.

        Raises:
            AlignError: there is none.
        """
        if self.comet is not None:
            self.comet.check()

    def parse(self, text: str) -> str:
        """The translation as it is scored: in one line."""
        return one_line(text)

    def score(self, rows: Sequence[TaskRow], answers: Sequence[str], draws: int = 1000, seed: int = 0) -> Scored:
        """BLEU, chrF and, where there is a COMET, COMET x 100, a direction and as means over directions.

        Means: over all directions and, where all directions of a group are there, those of the paper's Table 2: supervised,
        transfer, and transfer to and from English. Directions of the same segments share their draws.

        Raises:
            AlignError: another number of answers than rows; a missing tokeniser; whatever is wrong with COMET.
        """
        refuse_other_length(rows, answers)
        parts = _by_direction(rows, [self.parse(answer) for answer in answers])
        judged = [None] * len(parts) if self.comet is None else self.comet.judge([*map(_triples, parts.values())])
        measured = {
            name: _measured(part, _weights(part, rows, draws, seed), each)
            for (name, part), each in zip(parts.items(), judged, strict=True)
        }
        scores = [_score(name, metric, each) for name, metrics in measured.items() for metric, each in metrics.items()]
        return Scored(
            scores=(*scores, *_means(measured)),
            counts={name: _counts(part) for name, part in parts.items()},
            details={
                "signatures": {
                    name: {metric: each.signature for metric, each in metrics.items()}
                    for name, metrics in measured.items()
                },
                "data": {name: part[0][0].gold.origin for name, part in parts.items()},
            },
            notes=tuple(_notes(parts)),
        )


# Directions


def directions(langs: str) -> tuple[Direction, ...]:
    """The directions that `langs` names, in its order, each once; see `Translation`.

    Raises:
        CorpusError: an unknown language.
        AlignError: no direction: English alone, or nothing at all.
    """
    found: list[Direction] = []
    for part in filter(None, (part.strip() for part in langs.split(","))):
        if part == "mt9":
            found += paper_directions()
        elif part in language_sets():
            found += [each for code in language_sets()[part] for each in _with_english(code)]
        elif language_code(part) is None and (pair := split_pair(part)):
            found.append((str(language_code(pair[0])), str(language_code(pair[1]))))
        else:
            code = language_code(part) or resolve_languages(part, tuple(languages()), "FLORES-200")[0]
            found += _with_english(code)
    if not found:
        raise AlignError(f"--langs {langs!r}", "at least one direction", "give directions such as de-en,en-zh")
    return tuple(dict.fromkeys(found))


def paper_directions() -> tuple[Direction, ...]:
    """The sixteen of the paper's Table 12, in its order."""
    pairs = (column.split("-") for column in published_tables()["12"].columns)
    return tuple((source, target) for source, target in pairs)


def _with_english(code: str) -> list[Direction]:
    return [] if code == _ENGLISH else [(code, _ENGLISH), (_ENGLISH, code)]


def _default(files: TranslationFiles, split: str) -> list[Direction]:
    papers = paper_directions()
    if all(each in files for each in papers):
        return list(papers)
    held = [*files.directions, *(each[::-1] for each in files.directions if split != "test")]
    known = [each for each in papers if each in held]
    return list(dict.fromkeys([*known, *held]))


# Rows


def language_name(code: str) -> str:
    """What prompts call a language: the authors' word where theirs differs, else FLORES-200's name."""
    known = languages().get(code)
    return _PAPERS_NAMES.get(code) or (known.name if known else code)


def _rows(files: TranslationFiles, direction: Direction, limit: int | None, split: str) -> Iterator[TaskRow]:
    texts = files.read(direction)
    instruction = Message(  # paper, appendix D.2
        "system",
        f"Translate the following sentences from {language_name(direction[0])} to {language_name(direction[1])}.",
    )
    # Without English, the side that both directions have first in the alphabet.
    pivot = _ENGLISH if _ENGLISH in direction else min(direction)
    shared = texts.sources if pivot == direction[0] else texts.targets
    digest = hashlib.sha256("\n".join(map(one_line, shared)).encode()).hexdigest()[:8]
    for number, (source, target) in enumerate(zip(texts.sources, texts.targets, strict=True), start=1):
        if limit is not None and number > limit:
            return
        segment = Segment(source, target, texts.origin, texts.turned and split == "test")
        prompt = (instruction, Message("user", source))
        yield TaskRow(f"{digest}:{number}", direction_name(direction), prompt, target, segment)


# Scores

_Part = Sequence[tuple[TaskRow, str]]
"""The rows of one direction with their translations, each in one line."""


def _by_direction(rows: Sequence[TaskRow], translations: Sequence[str]) -> dict[str, _Part]:
    parts: dict[str, list[tuple[TaskRow, str]]] = {}
    for row, text in zip(rows, translations, strict=True):
        parts.setdefault(row.language, []).append((row, text))
    return dict(parts)


def _set_of(row: TaskRow) -> str:
    return row.id.rpartition(":")[0]


def _weights(part: _Part, rows: Sequence[TaskRow], draws: int, seed: int) -> np.ndarray:
    """How often each row of a direction is drawn, `(draw, row)`: by id, from all ids of its set.

    The set's name is part of the seed, so that a direction's interval does not depend on which others are there, and sets of equal
    size are drawn independently.
    """
    own = _set_of(part[0][0])
    ids = [row.id for row in rows if _set_of(row) == own]
    drawn = Draws.of(ids, draws, int.from_bytes(hashlib.sha256(f"{seed} {own}".encode()).digest()[:8], "big"))
    return drawn.weights[:, [drawn.places[row.id] for row, _ in part]]


def _triples(part: _Part) -> list[Triple]:
    return [Triple(one_line(row.gold.source), text, one_line(row.gold.reference)) for row, text in part]


def _measured(part: _Part, weights: np.ndarray, judged: Judged | None) -> dict[str, Measured]:
    target = part[0][0].language.split("-")[1]
    references = [one_line(row.gold.reference) for row, _ in part]
    metrics = bleu_and_chrf(target, [text for _, text in part], references, weights)
    if judged is not None:
        segments = 100 * np.array(judged.scores)
        resampled = weights @ segments / np.maximum(weights.sum(axis=1), 1)
        metrics["comet"] = Measured(float(segments.mean()), resampled, judged.signature)
    return metrics


def _score(name: str, metric: str, each: Measured) -> Score:
    return Score(name, metric, each.value, *interval(each.draws))


def _means(measured: Mapping[str, Mapping[str, Measured]]) -> Iterator[Score]:
    """Of groups of two or more, with intervals from the means in each draw."""
    for group, names in {"mean": tuple(measured), **groups()}.items():
        if len(names) < 2 or not set(names) <= set(measured):
            continue
        for metric in measured[names[0]]:
            each = [measured[name][metric] for name in names]
            value = float(np.mean([one.value for one in each]))
            yield Score(f"({group})", metric, value, *interval(np.mean([one.draws for one in each], axis=0)))


def groups() -> dict[str, tuple[str, ...]]:
    """Group -> its directions, as in the paper's Table 2."""
    of = language_groups("translation")
    into = {group: [f"{code}-{_ENGLISH}" for code in codes] for group, codes in of.items()}
    out = {group: [f"{_ENGLISH}-{code}" for code in codes] for group, codes in of.items()}
    return {
        "supervised": (*into["supervised"], *out["supervised"]),
        "transfer": (*into["transfer"], *out["transfer"]),
        "transfer X->en": tuple(into["transfer"]),
        "transfer en->X": tuple(out["transfer"]),
    }


def _counts(part: _Part) -> dict[str, int]:
    return {
        "rows": len(part),
        "empty": sum(not text for _, text in part),
        "endless": sum(len(text) > _ENDLESS * (len(row.gold.source) + len(row.gold.reference)) for row, text in part),
    }


def _notes(parts: Mapping[str, _Part]) -> Iterator[str]:
    for name, part in parts.items():
        segment: Any = part[0][0].gold
        if segment.turned:
            yield (
                f"{name}: {segment.origin} turned round, since the data have no set of this direction "
                "(as the authors do for Czech to English); its sources are translations"
            )
    if any("heb_Hebr" in name and part[0][0].gold.origin.endswith("he.refA") for name, part in parts.items()):
        yield "eng_Latn-heb_Hebr: by WMT's own notes the Hebrew refA may be post-edited output of an online system"
