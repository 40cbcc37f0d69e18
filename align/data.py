"""What a recipe trains on: parallel text and task examples, filtered, held out for development, tokenised, sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from align.batches import ExampleRows, PairRows, Source
from align.examples import encode_examples, read_examples, split_examples
from align.pairs import filter_pairs, read_pairs, split_development
from align.recipe import Recipe
from align.sampling import ExampleSampler, PairSampler
from data_manifests import corpus_manifest, corpus_names
from probe.model import ModelSource
from probe.provenance import digest


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


class _Part(NamedTuple):
    """Of one objective."""

    source: Source
    counts: dict[str, Any]
    described: list[dict[str, Any]]
    digest: str


def _pairs(recipe: Recipe, source: ModelSource, rank: int, ranks: int) -> _Part:
    align = recipe.align
    sets = [each for spec in align.pairs for each in read_pairs(spec, align.langs, align.relation, align.allow_flores)]
    kept, filters = filter_pairs(sets)
    train, development, split = split_development(kept)
    longest = min(align.max_length, source.context)
    return _Part(
        Source(
            PairRows.tokenised(train, source.tokenizer, _pad(source), longest),
            PairRows.tokenised(development, source.tokenizer, _pad(source), longest),
            PairSampler([len(each) for each in train], align.exponent, recipe.seed, rank, ranks),
        ),
        {"filters": [asdict(each) for each in filters], "split": [asdict(each) for each in split]},
        [
            {"name": f"{each.name} ({each.origin})", "rows": len(each), "licence": _licence(each.origin)}
            for each in train
        ],
        digest([[[each.name, each.sources, each.targets] for each in part] for part in (train, development)]),
    )


def _task(recipe: Recipe, source: ModelSource, rank: int, ranks: int) -> _Part:
    path = Path(str(recipe.task.data))
    examples = read_examples(path)
    train, development = (
        (examples, read_examples(Path(recipe.task.dev))) if recipe.task.dev else split_examples(examples)
    )
    longest = min(recipe.task.max_length, source.context)
    parts = [
        ExampleRows(
            tuple((each.ids, each.labels) for each in encode_examples(source.tokenizer, part, longest)),
            _pad(source),
            tuple(each.where for each in part),
        )
        for part in (train, development)
    ]
    return _Part(
        Source(parts[0], parts[1], ExampleSampler(len(train), recipe.seed, rank, ranks)),
        {"train": len(train), "development": len(development)},
        [{"name": path.name, "rows": len(train), "licence": "unknown"}],
        digest([[[ids.tolist(), labels.tolist()] for ids, labels in part.rows] for part in parts]),
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
