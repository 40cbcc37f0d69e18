"""Which sentences belong to one document: what a bootstrap draws, since sentences of one page are not independent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from data_manifests import corpus_manifest, corpus_names
from probe.errors import AnalysisError
from probe.sources import local_data

_BLOCK = 1024
"""Draws made at a time."""


@dataclass(frozen=True)
class Documents:
    """The grouping of a corpus's sentences."""

    labels: Int[np.ndarray, " sentence"] = field(repr=False)
    """The document of each sentence, numbered from 0 in the order of their first sentences."""
    grouping: str
    """For people: what is drawn, `281 documents of metadata_dev.tsv` or `997 sentences`."""

    def __post_init__(self) -> None:
        if not self.sizes.all():
            raise ValueError("a document without a sentence: numbers are to follow one another")

    def __len__(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def sizes(self) -> Int[np.ndarray, " document"]:
        """Sentences a document."""
        return np.bincount(self.labels)

    def sums(self, hits: Bool[np.ndarray, "*cells sentence"]) -> Float32[np.ndarray, "*cells document"]:
        """Hits summed over the sentences of each document, whole numbers."""
        order = np.argsort(self.labels, kind="stable")
        begins = np.cumsum(self.sizes) - self.sizes
        together = hits if (order[1:] > order[:-1]).all() else hits[..., order]
        return np.add.reduceat(together, begins, axis=-1, dtype=np.float32)

    def draws(self, count: int, seed: int) -> Float32[np.ndarray, "draw document"]:
        """How often each document is in each bootstrap sample of as many documents, drawn with replacement."""
        number, generator = len(self), np.random.default_rng(seed)
        even = np.full(number, 1 / number)
        drawn = np.empty((count, number), dtype=np.float32)
        for begin in range(0, count, _BLOCK):  # the generator's own numbers take 64 bits each
            drawn[begin : begin + _BLOCK] = generator.multinomial(number, even, size=len(drawn[begin : begin + _BLOCK]))
        return drawn

    def halves(self, count: int, seed: int) -> Bool[np.ndarray, "split document"]:
        """Random splits in two: true for the documents of the first half, which holds the one more of an odd number."""
        order = np.random.default_rng(seed).random((count, len(self))).argsort(axis=1)
        return order.argsort(axis=1) < (len(self) + 1) // 2


def find_documents(settings: Mapping[str, Any], rows: int, given: Documents | str | Path | None = None) -> Documents:
    """The documents of the sentences that a result was made from.

    Args:
        settings: of the result; they name corpus and split.
        rows: sentences a language; where a run was limited, the first of the corpus.
        given: `sentences`, or a file with a header and one line a sentence whose first column, ended by a tab, names the document;
            None: the corpus's own file (FLORES-200's `metadata_dev.tsv`) in the data folder, else sentences.
            Documents that were found before are returned.

    Raises:
        AnalysisError: the file cannot be read, its columns are not separated by tabs, a sentence has no document, or its lines do not
            fit the number of sentences.
    """
    if isinstance(given, Documents):
        if len(given.labels) != rows:
            raise AnalysisError(
                f"documents of {len(given.labels)} sentences for a result of {rows}",
                "one label a sentence",
                "find the documents of this result",
            )
        return given
    if str(given) == "sentences":
        return Documents(np.arange(rows), f"{rows} sentences")
    path = Path(given) if given is not None else _own_file(settings)
    if path is None:
        return Documents(np.arange(rows), f"{rows} sentences (no documents known)")
    try:
        header, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(
            f"{path} cannot be read ({error.__class__.__name__})",
            "a UTF-8 file that names each sentence's document",
            "give --documents FILE, or --documents sentences",
        ) from None
    if "\t" not in header and any(separator in header for separator in ",;"):
        raise AnalysisError(
            f"{path} with the header {header[:60]!r}",
            "columns separated by tabs, the document first",
            "save it tab-separated, or give --documents sentences",
        )
    if len(lines) < rows or (len(lines) > rows and not _limited(settings, rows)):
        raise AnalysisError(
            f"{path} with {len(lines)} lines below its header",
            f"one for each of the {rows} sentences",
            "give the corpus's own file, or --documents sentences",
        )
    names = [line.split("\t")[0].strip() for line in lines[:rows]]
    if "" in names:
        raise AnalysisError(
            f"{path} line {names.index('') + 2} without a document",
            "the document's name in the first column of each line",
            "fill it in, or give --documents sentences",
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return Documents(np.array([numbers[name] for name in names]), f"{len(numbers)} documents ({path.name})")


def _limited(settings: Mapping[str, Any], rows: int) -> bool:
    """Whether the sentences are only the first of their corpus: limited on retrieval, or a named corpus cut on extraction."""
    corpus = settings.get("corpus") or {}
    name = corpus.get("name")
    whole = corpus_manifest(name).rows.get(str(corpus.get("split")), 0) if name in corpus_names() else 0
    return bool(settings.get("limit")) or rows < whole


def _own_file(settings: Mapping[str, Any]) -> Path | None:
    """The corpus's file of documents, where it has one and it is in the data folder."""
    corpus = settings.get("corpus") or {}
    name = corpus.get("name")
    if name not in corpus_names():
        return None
    template = corpus_manifest(name).documents
    path = local_data() / template.format(split=corpus.get("split")) if template else None
    return path if path is not None and path.is_file() else None
