"""Which sentences belong to one document: what a bootstrap draws, since sentences of one page are not independent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from data_manifests import corpus_manifest, corpus_names
from probe.errors import AnalysisError
from probe.sources import local_data


@dataclass(frozen=True)
class Documents:
    """The grouping of a corpus's sentences."""

    labels: Int[np.ndarray, " sentence"] = field(repr=False)
    """The document of each sentence, numbered from 0 in the order of their first sentences."""
    grouping: str
    """For people: what is drawn, `281 documents of metadata_dev.tsv` or `997 sentences`."""

    def __len__(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def sizes(self) -> Int[np.ndarray, " document"]:
        """Sentences a document."""
        return np.bincount(self.labels)

    def membership(self) -> Float32[np.ndarray, "sentence document"]:
        """1 where a sentence is of a document: `values @ membership` sums over the sentences of each."""
        return np.eye(len(self), dtype=np.float32)[self.labels]

    def sums(self, hits: np.ndarray) -> np.ndarray:
        """(..., sentence) bool or packed-free counts -> (..., document) float32 sums over the sentences of each document."""
        return hits.astype(np.float32) @ self.membership()

    def draws(self, count: int, seed: int) -> Float32[np.ndarray, "draw document"]:
        """How often each document is in each bootstrap sample of as many documents, drawn with replacement."""
        number = len(self)
        even = np.full(number, 1 / number)
        return np.random.default_rng(seed).multinomial(number, even, size=count).astype(np.float32)


def find_documents(settings: Mapping[str, Any], rows: int, given: str | Path | None = None) -> Documents:
    """The documents of the sentences that a result was made from.

    Args:
        settings: of the result; they name corpus and split.
        rows: sentences a language; where a run was limited, the first of the corpus.
        given: `sentences`, or a file with a header and one line a sentence whose first column names the document;
            None: the corpus's own file (FLORES-200's `metadata_dev.tsv`) in the data folder, else sentences.

    Raises:
        AnalysisError: the file cannot be read, or has fewer lines than there are sentences.
    """
    path = _own_file(settings) if given is None else (None if str(given) == "sentences" else Path(given))
    if path is None:
        return Documents(
            np.arange(rows), f"{rows} sentences (no documents known)" if given is None else f"{rows} sentences"
        )
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(
            f"{path} cannot be read ({error.__class__.__name__})",
            "a UTF-8 file that names each sentence's document",
            "give --documents FILE, or --documents sentences",
        ) from None
    if len(lines) < rows or (given is not None and len(lines) != rows and not settings.get("limit")):
        raise AnalysisError(
            f"{path} with {len(lines)} lines below its header",
            f"one for each of the {rows} sentences",
            "give the corpus's own file, or --documents sentences",
        )
    names = [line.split("\t")[0] for line in lines[:rows]]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return Documents(np.array([numbers[name] for name in names]), f"{len(numbers)} documents ({path.name})")


def _own_file(settings: Mapping[str, Any]) -> Path | None:
    """The corpus's file of documents, where it has one and it is in the data folder."""
    corpus = settings.get("corpus") or {}
    name = corpus.get("name")
    if name not in corpus_names():
        return None
    template = corpus_manifest(name).documents
    path = local_data() / template.format(split=corpus.get("split")) if template else None
    return path if path is not None and path.is_file() else None
