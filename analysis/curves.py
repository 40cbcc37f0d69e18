"""Accuracy by layer with its intervals, over groups of directions, the controls beside the layers: what figures draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.documents import Documents, find_documents
from analysis.resample import Bootstrap, Means, mean_sums
from probe.results import RetrievalResult


def curve_of(
    name: str,
    result: RetrievalResult,
    documents: Documents | str | Path | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """The curves of a result under a name.

    Args:
        documents: as of `find_documents`.
        draws, seed: of the bootstrap; results of the same documents and seed share their draws.

    Returns:
        Columns result, layer (NaN for controls), series (`layers`, `char`, `length`), group (`mean`, `same_script`,
        `cross_script`, `to_english`, `from_english`, `high`, `low`, where the languages have such), accuracy, low, high:
        shares in 0..1 and their 95 % intervals.

    Raises:
        AnalysisError: documents that do not fit, or too few of them.
    """
    found, means = find_documents(result.settings, result.rows, documents), Means.of_groups(result.languages)
    return curve(name, mean_sums(result, found, means), means, Bootstrap.of(found, draws, seed))


def curve(name: str, sums: Mapping[int | str, np.ndarray], means: Means, bootstrap: Bootstrap) -> pd.DataFrame:
    """The frame of one result, from its hits a mean and document at every layer and control."""
    stacked = np.stack(list(sums.values()))
    accuracy = stacked.sum(axis=-1) / (bootstrap.sentences * means.directions)
    low, high = bootstrap.interval(stacked, means.directions)

    def rows() -> Iterator[tuple]:
        for i, key in enumerate(sums):
            layer, series = (float("nan"), key) if isinstance(key, str) else (float(key), "layers")
            for j, group in enumerate(means.names):
                yield name, layer, series, group, accuracy[i, j], low[i, j], high[i, j]

    return pd.DataFrame(rows(), columns=["result", "layer", "series", "group", "accuracy", "low", "high"])
