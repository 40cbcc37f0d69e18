"""Micro-F1 over rows, with bootstrap intervals whose draws all languages share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike


class Counts(NamedTuple):
    """Of one row, or of many: entities that are right, predicted and wrong, missed."""

    right: int = 0
    wrong: int = 0
    missed: int = 0


class Matches(NamedTuple):
    """The entities themselves, as multisets."""

    right: Counter[Any]
    wrong: Counter[Any]
    missed: Counter[Any]

    @property
    def counts(self) -> Counts:
        return Counts(*(each.total() for each in self))


def match(gold: Iterable[Any], predicted: Iterable[Any]) -> Matches:
    """Compare two multisets: an entity that is predicted twice and is there once is right once and wrong once."""
    there, said = Counter(gold), Counter(predicted)
    return Matches(there & said, said - there, there - said)


def matched(gold: Iterable[Any], predicted: Iterable[Any]) -> Counts:
    """How many entities of `match` there are."""
    return match(gold, predicted).counts


def ratios(sums: Float64[np.ndarray, "set 3"]) -> tuple[Float64[np.ndarray, " set"], ...]:
    """Precision, recall and F1 in percent, of several sets of right, wrong and missed.

    0 where nothing was predicted, or nothing is there.
    """
    right, wrong, missed = sums.T
    return percent(right, right + wrong), percent(right, right + missed), percent(2 * right, 2 * right + wrong + missed)


def percent(part: Float64[np.ndarray, " set"], whole: Float64[np.ndarray, " set"]) -> Float64[np.ndarray, " set"]:
    """0 where the whole is."""
    return np.divide(100 * part, whole, out=np.zeros_like(whole), where=whole != 0)


def precision_recall_f1(counts: Counts) -> tuple[float, float, float]:
    """`ratios` of one set of counts."""
    precision, recall, f1 = ratios(np.array([counts], dtype=np.float64))
    return float(precision[0]), float(recall[0]), float(f1[0])


@dataclass(frozen=True)
class Draws:
    """How often each id was drawn with replacement; one for all languages, whose rows may be some of the ids."""

    places: Mapping[str, int]
    weights: Int64[np.ndarray, "draw id"]

    @classmethod
    def of(cls, ids: Iterable[str], draws: int, seed: int) -> Draws:
        """Draw as many ids as there are, `draws` times; the order in which they come does not matter."""
        places = {name: place for place, name in enumerate(sorted(set(ids)))}
        columns = max(len(places), 1)  # numpy draws from one thing at least
        weights = np.random.default_rng(seed).multinomial(len(places), np.full(columns, 1 / columns), size=draws)
        return cls(places, weights[:, : len(places)])

    def sums(self, ids: Sequence[str], values: ArrayLike) -> Float64[np.ndarray, "draw column"]:
        """What the rows of one language add up to in every draw; exact for whole numbers.

        Args:
            ids: of the rows.
            values: (row, column).
        """
        rows = np.asarray(values, dtype=np.float64)
        by_id = np.zeros((len(self.places), rows.shape[1]))
        np.add.at(by_id, [self.places[name] for name in ids], rows)
        return self.weights.astype(np.float64) @ by_id

    def f1(self, ids: Sequence[str], rows: Sequence[Counts]) -> Float64[np.ndarray, " draw"]:
        """Micro-F1 in percent in every draw, of the rows of one language."""
        return ratios(self.sums(ids, np.array(rows, dtype=np.float64).reshape(-1, 3)))[2]


def interval(values: Float64[np.ndarray, " draw"]) -> tuple[float, float] | tuple[None, None]:
    """The percentile interval of 95 %; None without draws."""
    if not len(values):
        return None, None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def total(rows: Iterable[Counts]) -> Counts:
    """Of all rows together."""
    return Counts(*(sum(each) for each in zip(*rows, strict=True))) if (rows := list(rows)) else Counts()
