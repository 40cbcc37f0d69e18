"""What a recipe trains on: parallel text and task examples, filtered, held out for development, tokenised, sampled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from align.batches import ExampleRows, PairRows, Source
from align.examples import Example, Message, encode_examples, read_examples, split_examples
from align.pairs import FilterCounts, filter_pairs, read_pairs, split_development
from align.recipe import Recipe
from align.sampling import ExampleSampler, PairSampler
from align.tasks import task_named
from align.tasks.entities import Entities
from align.tasks.overlap import is_evaluated, without_overlap
from align.tasks.task import TaskRow
from data_manifests import corpus_manifest, corpus_names
from data_manifests.published import language_groups
from probe.errors import AlignError
from probe.model import ModelSource
from probe.provenance import digest

_TASK_LICENCES = {
    "slots": "CC BY 4.0 (MASSIVE)",
    "entities": "CC BY-SA 4.0 (Universal NER)",
    "translation": "of ALMA: MIT (its repository; its texts come from WMT and FLORES-200); of other files: unknown",
}
"""Of the data that the named tasks read: slots and entities know one data set each, translation any parallel files."""


@dataclass(frozen=True)
class TrainingData:
    """The rows of a run; None where an objective has none."""

    pairs: Source | None
    task: Source | None
    counts: dict[str, Any] = field(repr=False)
    """Rows before and after each filter and in each part, for the log."""
    described: list[dict[str, Any]] = field(repr=False)
    """Name, rows and licence of each data set, for the card."""
    digest: str
    """sha256 of all rows of both parts."""

    def sources(self) -> Mapping[str, Source]:
        """Those that there are, by name."""
        return {name: source for name, source in (("pairs", self.pairs), ("task", self.task)) if source is not None}


def read_training_data(recipe: Recipe, source: ModelSource, rank: int = 0, ranks: int = 1) -> TrainingData:
    """Read, filter, split and tokenise what the recipe's objectives need.

    Args:
        source: the model, for its tokenizer.
        rank: this process among `ranks`; all draw the same rows and keep their own share.

    Raises:
        AlignError: text that is missing, malformed, or too little; FLORES-200.
    """
    pairs = _pairs(recipe, source, rank, ranks) if recipe.alternation != "task" else None
    task = _task(recipe, source, rank, ranks) if recipe.alternation != "align" else None
    parts = [part for part in (pairs, task) if part is not None]
    return TrainingData(
        pairs and pairs.source,
        task and task.source,
        {name: part.counts for name, part in (("pairs", pairs), ("task", task)) if part is not None},
        [each for part in parts for each in part.described],
        digest([part.digest for part in parts]),
    )


def _left_out(counts: FilterCounts, allowed: bool) -> str:
    """For the card: what a model was trained on says nothing when it is probed with it."""
    if allowed:
        return "sentences of flores200 were allowed"
    return f"pairs that hold an English sentence of flores200 dev are left out: {counts.held_out} of {counts.before}"


class _Part(NamedTuple):
    """Of one objective."""

    source: Source
    counts: dict[str, Any]
    described: list[dict[str, Any]]
    digest: str


def _pairs(recipe: Recipe, source: ModelSource, rank: int, ranks: int) -> _Part:
    align = recipe.align
    sets = [each for spec in align.pairs for each in read_pairs(spec, align.langs, align.relation, align.allow_flores)]
    if align.rows is not None:
        sets = [each.take(range(min(align.rows, len(each)))) for each in sets]
    kept, filters = filter_pairs(sets) if align.allow_flores else filter_pairs(sets, is_evaluated)
    train, development, split = split_development(kept)
    longest = min(align.max_length, source.context)
    parts = [PairRows.tokenised(each, source.tokenizer, _pad(source), longest) for each in (train, development)]
    overlap = {each.pair: _left_out(each, align.allow_flores) for each in filters}
    _refuse_unknown((row for part in parts for sides in part.ids for side in sides for row in side), source)
    return _Part(
        Source(
            parts[0],
            parts[1],
            PairSampler([len(each) for each in train], align.exponent, recipe.seed, rank, ranks),
        ),
        {"filters": [asdict(each) for each in filters], "split": [asdict(each) for each in split]},
        [
            {
                "name": f"{each.name} ({each.origin})",
                "rows": len(each),
                "licence": _licence(each.origin),
                "overlap": overlap[each.name],
            }
            for each in train
        ],
        digest([[[each.name, each.sources, each.targets] for each in part] for part in (train, development)]),
    )


def _task(recipe: Recipe, source: ModelSource, rank: int, ranks: int) -> _Part:
    train, development, counts = _jsonl(recipe) if recipe.task.name == "jsonl" else _named_task(recipe)
    longest = min(recipe.task.max_length, source.context)
    parts = [
        ExampleRows(
            tuple((each.ids, each.labels) for each in encode_examples(source.tokenizer, part, longest)),
            _pad(source),
            tuple(each.where for each in part),
            tuple(each.language for each in part) if part[0].language else (),
        )
        for part in (train, development)
    ]
    _refuse_unknown((ids for part in parts for ids, _ in part.rows), source)
    data = Path(str(recipe.task.data)).resolve().name
    name = data if recipe.task.name == "jsonl" else f"{recipe.task.name} ({data})"
    licence = _TASK_LICENCES.get(recipe.task.name, "unknown")
    told = {"overlap": counts["overlap"]["note"]} if "overlap" in counts else {}
    if "template_sha256" in counts:
        told["template_sha256"] = counts["template_sha256"]
    return _Part(
        Source(parts[0], parts[1], ExampleSampler(len(train), recipe.seed, rank, ranks)),
        {"train": len(train), "development": len(development), **counts},
        [{"name": name, "rows": len(train), "licence": licence, **told}],
        digest([[[ids.tolist(), labels.tolist()] for ids, labels in part.rows] for part in parts]),
    )


_Examples = tuple[Example, ...]


def _jsonl(recipe: Recipe) -> tuple[_Examples, _Examples, dict[str, Any]]:
    examples = read_examples(Path(str(recipe.task.data)))
    if recipe.task.dev:
        return examples, read_examples(Path(recipe.task.dev)), {}
    return *split_examples(examples), {}


def _named_task(recipe: Recipe) -> tuple[_Examples, _Examples, dict[str, Any]]:
    """Of slots and entities their own splits; of entities the counts tell the prompt too.

    Of translations those without a sentence of the probe's corpus, which the counts tell, and a tenth of them by hash of
    the id, which both directions share, for development: ALMA's own sets leave out Icelandic.
    """
    name, data, langs = recipe.task.name, Path(str(recipe.task.data)), recipe.task.langs
    template = recipe.task.template
    task = task_named(name, recipe.task.style, template=None if template is None else Path(template))
    if langs is None:
        langs = ",".join(_supervised(name))
    rows = task.rows(data, "train", langs, recipe.task.rows)
    if name == "translation":
        rows, overlap = without_overlap(rows, keep=recipe.task.keep_overlap)
        return *split_examples(tuple(map(_example, rows))), {"overlap": {**asdict(overlap), "note": overlap.note}}
    development = task.rows(data, "dev", langs, recipe.task.dev_rows)
    asked = {"template_sha256": task.template_sha256} if isinstance(task, Entities) else {}
    return tuple(map(_example, rows)), tuple(map(_example, development)), asked


def _supervised(task: str) -> tuple[str, ...]:
    """The languages that the paper trains a task on.

    Raises:
        AlignError: a task of one's own, of which the manifests know none.
    """
    try:
        return language_groups(task)["supervised"]
    except KeyError:
        raise AlignError(
            f"task {task} without task.langs", "the languages to train on", "give --set task.langs=CODE,CODE"
        ) from None


def _example(row: TaskRow) -> Example:
    return Example(
        (*row.prompt, Message("assistant", row.target)), f"{row.language} row {row.id}", row.language, row.id
    )


def _refuse_unknown(ids: Iterable[np.ndarray], source: ModelSource) -> None:
    """Tokens that were added to a tokenizer, and no embeddings for them to the model."""
    largest = max((int(each.max()) for each in ids if len(each)), default=0)
    if largest >= source.vocabulary:
        raise AlignError(
            f"text with token {largest}",
            f"ids below {source.vocabulary}, the model's number of embeddings",
            "check that the tokenizer, and its chat template, belong to the model",
        )


def _pad(source: ModelSource) -> int:
    """As `LoadedModel.pad_id`, before there is a model."""
    pad = source.tokenizer.pad_token_id
    return pad if pad is not None and pad < source.vocabulary else 0


def _licence(origin: str) -> str:
    """Of named corpora; of files of yours, nothing is known."""
    names = [each.partition(":")[0] for each in origin.split(" + ")]
    return ", ".join(
        dict.fromkeys(corpus_manifest(name).licence if name in corpus_names() else "unknown" for name in names)
    )
