"""Which rows are for development, and in which order the others are trained on: from a seed, the same on all ranks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from probe.errors import AlignError

_PAIRS, _ROWS, _EXAMPLES = range(3)
"""What a stream of random numbers is for; streams of one seed are independent of one another."""


def development_rows(keys: Sequence[str], share: float = 0.1, least: int = 20) -> Bool[np.ndarray, " row"]:
    """True for the rows held out for development: those whose keys have the lowest hashes (sha256).

    It depends on the set of rows alone, not on their order or a seed; rows of one key are on one side. A key of more
    rows than are wanted stays in training.

    Args:
        keys: a text of each row.
        share: of the rows, rounded up.
        least: rows wanted at least. Of fewer than twice as many rows none is held out, for little would be left.
    """
    if len(keys) < 2 * least:
        return np.zeros(len(keys), dtype=bool)
    wanted = max(least, ceil(share * len(keys)))
    rows = Counter(keys)
    chosen: set[str] = set()
    held_out = 0
    for key in sorted(rows, key=_hash):
        if held_out >= wanted:
            break
        if rows[key] <= wanted:
            chosen.add(key)
            held_out += rows[key]
    return np.array([key in chosen for key in keys])


@lru_cache(maxsize=2**17)  # the language pairs of one corpus have the same keys
def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class PairSampler:
    """Draws rows of parallel text, near-uniformly over the language pairs.

    Each row's pair is drawn in proportion to n ** exponent, n its number of rows: 1 leaves the pairs as unequal as they
    are, 0 makes them equal; 0.3 is what XLM-R was trained with (Conneau et al. 2020, section 3). A batch mixes pairs.
    Within a pair no row comes again before all have come; then they are shuffled anew.

    All ranks draw the same rows and keep their own share, ranks in order. The rows form one stream, whatever the size of
    the batches: two ranks that draw 16 rows each see what one process sees that draws 32, or 16 twice.

    Args:
        sizes: rows of each language pair.
        rank: this process among `ranks`.

    Raises:
        AlignError: no pair, a pair without rows, or an exponent outside 0..1.
    """

    def __init__(self, sizes: Sequence[int], exponent: float, seed: int, rank: int = 0, ranks: int = 1) -> None:
        if not sizes or min(sizes) < 1:
            raise AlignError(f"language pairs of {list(sizes)} rows", "at least 1 row each", "give parallel text")
        if not 0 <= exponent <= 1:
            raise AlignError(
                f"exponent {exponent}", "0 (pairs drawn equally) to 1 (in proportion to their rows)", "0.3 is common"
            )
        self._sizes = [int(size) for size in sizes]
        self._settings = {"sizes": self._sizes, "exponent": float(exponent), "seed": int(seed)}
        self._seed, self._rank, self._ranks = seed, rank, ranks
        weights = np.asarray(sizes, dtype=np.float64) ** exponent
        self._cumulative = weights.cumsum() / weights.sum()
        self._cumulative[-1] = 1.0  # rounding must leave no gap above the last pair
        self._start([0] * len(sizes))

    def _start(self, drawn: Sequence[int]) -> None:
        """Go to where `drawn` rows of each pair have been drawn. Each row takes one number of the generator."""
        self._generator = _generator(self._seed, _PAIRS)
        self._generator.bit_generator.advance(sum(drawn))  # type: ignore[attr-defined]  # default_rng's PCG64 has it
        self._decks = [
            _Deck(size, self._seed, (_ROWS, pair), dealt)
            for pair, (size, dealt) in enumerate(zip(self._sizes, drawn, strict=True))
        ]

    @property
    def probabilities(self) -> Float64[np.ndarray, " pair"]:
        """With which each pair is drawn."""
        return np.diff(self._cumulative, prepend=0.0)

    @property
    def drawn(self) -> tuple[int, ...]:
        """Rows drawn of each pair so far, by all ranks."""
        return tuple(deck.dealt for deck in self._decks)

    def draw(self, rows: int) -> Int64[np.ndarray, "row 2"]:
        """The next rows of this rank: number of the pair, and of the row in it."""
        pairs = np.searchsorted(self._cumulative, self._generator.random(rows * self._ranks), side="right")
        drawn = np.empty((len(pairs), 2), dtype=np.int64)
        drawn[:, 0] = pairs
        for pair in np.unique(pairs):
            here = pairs == pair
            drawn[here, 1] = self._decks[pair].deal(int(here.sum()))
        return drawn[self._rank * rows : (self._rank + 1) * rows]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as JSON values. It is the same on all ranks."""
        return {**self._settings, "drawn": list(self.drawn)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken.

        Raises:
            AlignError: a state of other data, another exponent or another seed.
        """
        _refuse_other_stream(self._settings, state)
        self._start(state["drawn"])


class ExampleSampler:
    """Draws task examples: all of them in a random order, then all in another; one stream as of `PairSampler`.

    A batch may end one epoch and begin the next, so that every batch is full.

    Raises:
        AlignError: no example.
    """

    def __init__(self, size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        if size < 1:
            raise AlignError("no task example", "at least 1", "give task data")
        self._settings = {"size": int(size), "seed": int(seed)}
        self._rank, self._ranks = rank, ranks
        self._deck = _Deck(size, seed, (_EXAMPLES,), 0)

    @property
    def epoch(self) -> float:
        """How often the examples have been gone through, by all ranks together."""
        return self._deck.dealt / self._settings["size"]

    def draw(self, rows: int) -> Int64[np.ndarray, " row"]:
        """The numbers of this rank's next examples."""
        return self._deck.deal(rows * self._ranks)[self._rank * rows : (self._rank + 1) * rows]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as JSON values. It is the same on all ranks."""
        return {**self._settings, "drawn": self._deck.dealt}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the state was taken.

        Raises:
            AlignError: a state of other data or another seed.
        """
        _refuse_other_stream(self._settings, state)
        self._deck.dealt = int(state["drawn"])


class _Deck:
    """Row numbers in a random order, dealt; when all are out they are shuffled anew."""

    def __init__(self, size: int, seed: int, purpose: tuple[int, ...], dealt: int) -> None:
        self.dealt = dealt
        self._size, self._seed, self._purpose = size, seed, purpose
        self._round, self._order = -1, np.empty(0, dtype=np.int64)

    def deal(self, count: int) -> Int64[np.ndarray, " row"]:
        rounds, places = np.divmod(np.arange(self.dealt, self.dealt + count), self._size)
        self.dealt += count
        rows = np.empty(count, dtype=np.int64)
        for number in np.unique(rounds):
            rows[rounds == number] = self._shuffled(int(number))[places[rounds == number]]
        return rows

    def _shuffled(self, number: int) -> np.ndarray:
        """The order of a round follows from its number, so that a resumed run needs no more than the count of rows."""
        if number != self._round:
            self._round = number
            self._order = _generator(self._seed, *self._purpose, number).permutation(self._size)
        return self._order


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))


def _refuse_other_stream(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    for name, value in own.items():
        if state.get(name) != value:
            raise AlignError(
                f"a sampler's state with {name} {str(state.get(name))[:80]}",
                f"{str(value)[:80]}, as in this run",
                "resume with the recipe and data of the first run",
            )
