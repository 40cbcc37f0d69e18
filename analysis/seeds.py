"""Runs that differ in their seed, as one: the change that training made at each layer, with the interval of the mean over these runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.compare import aligned_masks
from analysis.documents import find_documents
from analysis.resample import Bootstrap, Means, mean_sums
from probe.results import RetrievalResult


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of `(run,)`; NaN of fewer than two."""
    if len(values) < 2:
        return np.nan, np.nan
    mean, half = (
        values.mean(),
        stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5,
    )
    return float(mean - half), float(mean + half)


def over_seeds(
    base: RetrievalResult,
    runs: Mapping[str, Sequence[RetrievalResult]],
    aligned: str | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The mean over the runs of each model beside the base.

    Hits of all runs are added up before documents are drawn, so an interval is of the mean over these very runs: it tells of
    the choice of sentences, not of seeds.

    Args:
        runs: model -> its runs.
        aligned: languages that were aligned, for their own means.

    Returns:
        Rows of (model, layer, group, base, other, difference, low, high, runs) and of (control, group, accuracy), shares in 0..1.
    """
    documents = find_documents(base.settings, base.rows, None)
    means = Means.of_groups(base.languages, aligned_masks(aligned, base.languages))
    bootstrap = Bootstrap.of(documents, draws, seed)
    held = mean_sums(base, documents, means)
    every = means.directions * bootstrap.sentences
    rows = []
    for model, results in runs.items():
        each = [mean_sums(result, documents, means) for result in results]
        for layer in sorted(base.layers):
            together = np.sum([sums[layer] for sums in each], axis=0)
            low, high = bootstrap.interval(together - len(each) * held[layer], means.directions * len(each))
            own, other = held[layer].sum(axis=-1) / every, together.sum(axis=-1) / (every * len(each))
            rows += [
                {
                    "model": model, "layer": layer, "group": group, "base": own[place], "other": other[place],
                    "difference": other[place] - own[place], "low": low[place], "high": high[place], "runs": len(each),
                }
                for place, group in enumerate(means.names)
            ]  # fmt: skip
    controls = [
        {"control": name, "group": group, "accuracy": held[name][place].sum() / every[place]}
        for name in base.controls
        for place, group in enumerate(means.names)
    ]
    return pd.DataFrame(rows), pd.DataFrame(controls)
