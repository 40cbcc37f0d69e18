"""From text to padded micro-batches: parallel sentences and task examples, for training and for development."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from align.loss import not_negatives
from align.pairs import PairSet
from align.sampling import ExampleSampler, PairSampler
from align.trainable import IGNORED, PairBatch, TaskBatch
from probe.model import tokenise
from probe.states import pad_right

Ids = np.ndarray


class AlignMicro(NamedTuple):
    """A micro-batch of pairs."""

    batch: PairBatch
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    keys: tuple[str, ...]
    """See `PairSet.row_keys`: rows of one key are translations of each other."""
    where: str
    """Language pair and source of the first rows, for people."""

    def excluded(self) -> Tensor:
        """See `not_negatives`."""
        return not_negatives(self.sources, self.targets, self.keys)


@dataclass(frozen=True)
class PairRows:
    """Parallel sentences with their token ids."""

    sets: tuple[PairSet, ...] = field(repr=False)
    ids: tuple[tuple[list[Ids], list[Ids]], ...] = field(repr=False)
    """Of each set: of the sources, of the targets."""
    pad: int

    @classmethod
    def tokenised(cls, sets: Sequence[PairSet], tokenizer: Any, pad: int, max_length: int) -> PairRows:
        """As the probe tokenises: raw text with the tokenizer's own special tokens, no template (as in the authors' code)."""
        ids = tuple(
            (
                tokenise(tokenizer, each.sources, each.source, max_length),
                tokenise(tokenizer, each.targets, each.target, max_length),
            )
            for each in sets
        )
        return cls(tuple(sets), ids, pad)

    def micro(self, drawn: np.ndarray) -> AlignMicro:
        """The rows that `PairSampler.draw` drew, (row, 2): number of the set, and of the row in it."""
        chosen = [(int(pair), int(row)) for pair, row in drawn]
        sides = [pad_right([self.ids[pair][side][row] for pair, row in chosen], self.pad) for side in (0, 1)]
        return AlignMicro(
            PairBatch(*sides[0], *sides[1]),
            tuple(self.sets[pair].sources[row] for pair, row in chosen),
            tuple(self.sets[pair].targets[row] for pair, row in chosen),
            tuple(self.sets[pair].row_keys[row] for pair, row in chosen),
            _named([f"{self.sets[pair].name} {self.sets[pair].sources[row]!r}" for pair, row in chosen]),
        )

    def in_order(self, rows: int, seed: int) -> Iterator[AlignMicro]:
        """Every row once, in a fixed mixed order; a last micro-batch of a single row, which has no negatives, is left out."""
        every = np.array([(pair, row) for pair, each in enumerate(self.sets) for row in range(len(each))])
        every = np.random.default_rng(seed).permutation(every)
        for start in range(0, len(every), rows):
            if len(part := every[start : start + rows]) > 1:
                yield self.micro(part)


def _named(rows: Sequence[str]) -> str:
    """Enough of a micro-batch to find it."""
    shown = ", ".join(row if len(row) < 60 else f"{row[:59]}…" for row in rows[:2])
    return f"{len(rows)} rows, first {shown}"


class TaskMicro(NamedTuple):
    """A micro-batch of task examples."""

    batch: TaskBatch
    where: str

    @property
    def responses(self) -> int:
        """Number of response tokens."""
        return int((self.batch.labels[:, 1:] != IGNORED).sum())


@dataclass(frozen=True)
class ExampleRows:
    """Task examples with their token ids and labels."""

    rows: tuple[tuple[Ids, Ids], ...] = field(repr=False)
    pad: int
    where: tuple[str, ...] = field(repr=False, default=())
    """File and line of each, for people. Empty: its number will do."""
    languages: tuple[str, ...] = field(repr=False, default=())
    """Language of each; empty where they are not told apart."""

    def by_language(self) -> dict[str, ExampleRows]:
        """The examples of each language; all of them under no name where languages are not told apart."""
        if not self.languages:
            return {"": self}
        numbers: dict[str, list[int]] = {name: [] for name in self.languages}
        for number, name in enumerate(self.languages):
            numbers[name].append(number)
        return {
            name: ExampleRows(tuple(self.rows[each] for each in own), self.pad, tuple(self.where[each] for each in own))
            for name, own in numbers.items()
        }

    def micro(self, drawn: Sequence[int] | np.ndarray) -> TaskMicro:
        """The examples of these numbers."""
        ids, mask = pad_right([self.rows[row][0] for row in drawn], self.pad)
        labels, _ = pad_right([self.rows[row][1] for row in drawn], IGNORED)
        return TaskMicro(
            TaskBatch(ids, mask, labels), _named([self.where[row] if self.where else str(row) for row in drawn])
        )

    def in_order(self, rows: int) -> Iterator[TaskMicro]:
        """Every example once, longest first, so that little is padded."""
        order = sorted(range(len(self.rows)), key=lambda row: -len(self.rows[row][0]))
        for start in range(0, len(order), rows):
            yield self.micro(order[start : start + rows])


@dataclass(frozen=True)
class Source:
    """Rows to train on, in a sampler's order, and rows for development."""

    train: Any
    """PairRows or ExampleRows."""
    development: Any
    sampler: PairSampler | ExampleSampler

    def draw(self, rows: int) -> Any:
        """The next micro-batch of this rank."""
        return self.train.micro(self.sampler.draw(rows))


def on(batch: Any, device: torch.device) -> Any:
    """A batch's tensors on a device."""
    return type(batch)(*(tensor.to(device) for tensor in batch))
