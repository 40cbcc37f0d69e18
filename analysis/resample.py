"""Bootstrap over documents: intervals of accuracies, of their means over directions, and of differences of both.

A draw takes as many documents as there are, with replacement, and counts the hits of their sentences (the cluster
bootstrap; Davison and Hinkley 1997, section 3.8; Field and Welsh 2007). Only which sentences count is drawn anew: each was
retrieved from the whole corpus, and stays so. Documents differ in size, so an accuracy is a ratio of sums, hits drawn over
sentences drawn. Hits are summed a document first and every mean is taken of these sums, so that all draws of all
directions are one matrix product. Its terms are whole numbers, exact in their type: the same seed gives the same bytes
whatever the order in which a machine adds them. What no sentence of the corpus shows, no draw can: a direction without a
single hit has an interval of no width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64

from analysis.association import CONFIDENCE
from analysis.documents import Documents
from probe.errors import AnalysisError
from probe.results import RetrievalResult, direction_groups, resource_groups

FEWEST, MOST = 100, 100_000
"""Draws: fewer leave the ends of the interval to chance, more do not fit the memory that is promised."""
_CHUNK = 2**26
"""Bytes of the draws held at a time."""

GROUPS = {
    "mean": "all directions",
    "low": "low-resource languages",
    "high": "high-resource languages",
    "same_script": "same-script directions",
    "cross_script": "cross-script directions",
    "to_english": "directions to English",
    "from_english": "directions from English",
    "aligned": "aligned languages",
    "not_aligned": "languages not aligned",
}
"""Group of directions or languages -> what people are told it is, in the order in which they are told."""


@dataclass(frozen=True)
class Bootstrap:
    """Which documents are in which draw; one for all layers, directions and models that are compared."""

    documents: Documents
    seed: int
    weights: Float32[np.ndarray, "document draw"] = field(repr=False)
    """How often each document was drawn."""
    drawn: Float64[np.ndarray, " draw"] = field(repr=False)
    """Sentences in each draw."""

    @classmethod
    def of(cls, documents: Documents, draws: int = 10_000, seed: int = 0) -> Bootstrap:
        """Draw.

        Raises:
            AnalysisError: fewer than two documents, or a number of draws that gives no interval or does not fit in memory.
        """
        if len(documents) < 2:
            raise AnalysisError(
                f"{documents.grouping}: nothing to draw from",
                "two documents or more",
                "give --documents sentences, or a result of more sentences",
            )
        if not FEWEST <= draws <= MOST:
            raise AnalysisError(f"--draws {draws}", f"{FEWEST} to {MOST}", "give 10000, the default")
        weights = documents.draws(draws, seed)
        drawn = weights @ documents.sizes.astype(np.float32)  # below 2^24 sentences, so exact
        return cls(documents, seed, weights.T, drawn.astype(np.float64))

    @property
    def sentences(self) -> int:
        """In the corpus."""
        return len(self.documents.labels)

    @property
    def draws(self) -> int:
        """Their number."""
        return len(self.drawn)

    def shares(
        self, sums: Float[np.ndarray, "*cells document"], directions: Float[np.ndarray, "*#cells"] | float = 1.0
    ) -> Float[np.ndarray, "*cells draw"]:
        """The accuracy in every draw.

        Args:
            sums: hits a document, whole numbers; differences of hits for a difference of accuracies. float32 holds them
                exactly below 2^24 in a draw, float64 below 2^53; the result has the same type.
            directions: how often a sentence is counted in a sum: over how many directions (and layers) it goes.
        """
        shares = np.empty((*sums.shape[:-1], self.draws), dtype=sums.dtype)
        step = max(1, _CHUNK // (len(self.documents) * sums.itemsize))
        for begin in range(0, self.draws, step):  # the weights are cast to the type of the sums
            part = slice(begin, begin + step)
            shares[..., part] = sums @ self.weights[:, part]
        shares /= self.drawn.astype(shares.dtype)
        shares /= np.asarray(directions, dtype=shares.dtype)[..., None]
        return shares

    def interval(
        self, sums: Float[np.ndarray, "*cells document"], directions: Float[np.ndarray, "*#cells"] | float = 1.0
    ) -> tuple[Float64[np.ndarray, "*cells"], Float64[np.ndarray, "*cells"]]:
        """The percentile interval (low, high) of each accuracy; arguments as of `shares`."""
        flat = sums.reshape(-1, sums.shape[-1])
        ends = np.empty((2, len(flat)))
        step = max(1, _CHUNK // (self.draws * sums.itemsize))
        for begin in range(0, len(flat), step):
            ends[:, begin : begin + step] = _equal_tails(self.shares(flat[begin : begin + step]))
        ends = ends.reshape(2, *sums.shape[:-1]) / np.asarray(directions, dtype=np.float64)
        return ends[0, ...], ends[1, ...]


def _equal_tails(values: Float[np.ndarray, "cell draw"]) -> Float64[np.ndarray, "2 cell"]:
    """The quantiles (1 - CONFIDENCE) / 2 and (1 + CONFIDENCE) / 2 of each row, which is sorted in place.

    Between two order statistics they are interpolated, as by default in `np.quantile` (type 7 of Hyndman and Fan 1996). numpy sorts
    a row faster than it selects four of its order statistics.
    """
    values.sort(axis=-1)
    ends = []
    for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        place = share * (values.shape[-1] - 1)
        below = int(place)
        left, right = values[:, below].astype(np.float64), values[:, below + 1].astype(np.float64)
        ends.append(left + (place - below) * (right - left))
    return np.stack(ends)


@dataclass(frozen=True)
class Means:
    """Means over directions, as the whole numbers by which each direction counts."""

    names: tuple[str, ...]
    weights: Float64[np.ndarray, "mean source target"] = field(repr=False)

    @classmethod
    def of_groups(cls, codes: Sequence[str], more: Mapping[str, np.ndarray] | None = None) -> Means:
        """The groups of `summary.json`: all, same script, ... and, as means of language means, high and low resource level.

        Args:
            codes: the languages.
            more: name -> (language,) bool: further groups of languages.

        Groups without a direction are left out.
        """
        weights = {name: mask.astype(np.float64) for name, mask in direction_groups(codes).items()}
        weights |= {name: _touching(mask) for name, mask in {**resource_groups(codes), **(more or {})}.items()}
        kept = {name: each for name, each in weights.items() if each.any()}
        return cls(tuple(kept), np.stack(list(kept.values())))

    @classmethod
    def of_languages(cls, codes: Sequence[str]) -> Means:
        """The accuracy of each language: the mean over the directions that touch it, in either role."""
        return cls(tuple(codes), np.stack([_touching(row) for row in np.eye(len(codes), dtype=bool)]))

    @property
    def directions(self) -> Float64[np.ndarray, " mean"]:
        """How often a sentence is counted in each."""
        return self.weights.sum(axis=(1, 2))

    def shares(self, table: Float[np.ndarray, "source target"]) -> dict[str, float]:
        """Mean -> its value, from the shares of directions (NaN on the diagonal)."""
        values = np.tensordot(self.weights, np.nan_to_num(table), axes=2) / self.directions
        return dict(zip(self.names, values.tolist(), strict=True))

    def sums(self, hits: Float[np.ndarray, "source target document"]) -> Float64[np.ndarray, "mean document"]:
        """Of the hits a direction and document."""
        sums = np.zeros((len(self.names), hits.shape[2]))
        step = max(
            1, _CHUNK // hits[0].nbytes // 2
        )  # sources at a time: the hits of 204 languages are large enough once
        for begin in range(0, len(hits), step):
            part = slice(begin, begin + step)
            sums += np.tensordot(self.weights[:, part], hits[part].astype(np.float64), axes=2)
        return sums


def _touching(members: np.ndarray) -> np.ndarray:
    """(language,) bool -> (source, target) float64: how many of a direction's two ends are members."""
    ends = members[:, None].astype(np.float64) + members[None, :]
    np.fill_diagonal(ends, 0)
    return ends


def hit_sums(
    result: RetrievalResult, key: int | str, documents: Documents, codes: Sequence[str] | None = None
) -> Float32[np.ndarray, "source target document"]:
    """Hits a document of every direction, at a layer or in a control; in the order of `codes`, else of the result."""
    sums = documents.sums(result.hits(key))
    if codes is None or tuple(codes) == result.languages:
        return sums
    order = [result.languages.index(code) for code in codes]
    return sums[np.ix_(order, order)]


def mean_sums(
    result: RetrievalResult, documents: Documents, means: Means
) -> dict[int | str, Float64[np.ndarray, "mean document"]]:
    """Layer or control -> hits a mean and document; layers in their order, controls after them."""
    keys: list[int | str] = [*sorted(result.layers), *result.controls]
    return {key: means.sums(hit_sums(result, key, documents)) for key in keys}


def load_result(path: str | Path) -> RetrievalResult:
    """A retrieval result with its hits.

    Raises:
        AnalysisError: a bare table, which does not tell which sentences were found.
        RetrievalError: the folder holds no readable result.
    """
    if Path(path).is_file():
        raise AnalysisError(
            f"{path} is a table of accuracies",
            "a result folder with its hits.h5, since intervals are drawn from the single hits",
            "give the folder that `probe retrieve` wrote",
        )
    return RetrievalResult.load(path)
