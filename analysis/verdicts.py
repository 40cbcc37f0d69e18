"""What a correlation says in plain sentences: what was found, beside what surface form gives, and what limits it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.accuracies import MIDDLE, Accuracies
from analysis.samples import FEWEST, Sample
from analysis.scores import Scores

CHAR = "char"
"""The control whose accuracy is that of surface form."""
FEWEST_BOOTSTRAPPED = 8
"""Languages a bootstrap interval needs."""

_ALPHA = 0.05


def remarks_on(
    correlation: pd.DataFrame,
    partial: pd.DataFrame,
    samples: Sequence[Sample],
    labels: Sequence[str],
    listed: str,
    accuracies: Accuracies,
    scores: Scores,
    directions: str,
) -> Iterator[str]:
    """The sentences on the tables `correlation` and `partial`, the findings first; of what is missing tells `not_computed`.

    Args:
        labels: the rows' layers, the control aside.
        listed: the one of them whose partial correlations people are shown.
        directions: the relation, its names expanded.
    """
    yield from _untrained(accuracies)
    yield from _verdicts(correlation, samples, labels, accuracies)
    yield from _surface(correlation, samples, accuracies)
    yield from _remaining(correlation, partial, samples, listed, accuracies)
    if len(labels) > 1:
        yield (
            "The p to cite where one of several layers is named is p (all layers): that of the largest absolute r among all layers under "
            "permutation, which regards that layers go together. Holm's does not, and is stricter."
        )
    yield from _pooled(samples, scores)
    yield from _limits(accuracies, directions)


def not_computed(
    correlation: pd.DataFrame, samples: Sequence[Sample], labels: Sequence[str], accuracies: Accuracies
) -> Iterator[str]:
    """Correlations, intervals and ranges that are missing or rest on fewer draws, and why."""
    for sample in samples:
        rows = correlation[correlation["group"] == sample.name]
        of_layers = rows[rows["layer"].isin(labels)]
        if constant_at := [place(label, accuracies) for label in of_layers.loc[of_layers["pearson"].isna(), "layer"]]:
            yield f"{sample}: one accuracy for all of them at {', '.join(constant_at)}, where r is undefined."
        yield from _uncertain(rows, sample)


def score_name(scores: Scores) -> str:
    """What is measured, and of which model, as far as the scores say."""
    named = " ".join(filter(None, (scores.task, scores.metric))) or "the score"
    return f"{named} of {scores.model}" if scores.model else named


def place(label: str, accuracies: Accuracies) -> str:
    """A row's label in a sentence."""
    if label == MIDDLE:
        return f"the middle layer ({accuracies.middle()})"
    return f"layer {label}" if label.isdigit() else f"the {label} over layers"


def _verdicts(
    correlation: pd.DataFrame, samples: Sequence[Sample], labels: Sequence[str], accuracies: Accuracies
) -> Iterator[str]:
    """One plain sentence a group: what was found, or that nothing was."""
    several = len(labels) > 1
    for sample in samples:
        rows = correlation[(correlation["group"] == sample.name) & correlation["layer"].isin(labels)]
        if rows["pearson"].isna().all():
            continue
        row = rows.loc[rows["pearson"].abs().idxmax()]
        where, p = place(row["layer"], accuracies), row["max_p" if several else "permutation_p"]
        numbers = f"r = {row['pearson']:.2f} (95 % interval {row['fisher_low']:.2f} to {row['fisher_high']:.2f})"
        if several:  # the interval is that of one layer, the p that of the choice
            numbers = (
                f"of {len(rows)} layers {where} has the largest |r|, by itself {numbers}; p = {_p(p)} over all layers"
            )
        else:
            numbers = f"{where}: {numbers}, permutation p = {_p(p)}"
        yield f"{sample}{':' if several else ','} {numbers}: {_finding(row['pearson'], p, len(sample.languages))}"


def _finding(r: float, p: float, n: int) -> str:
    if p < _ALPHA:
        few = f" {n} languages are few: there is no bootstrap interval below {FEWEST_BOOTSTRAPPED}, and one language more may turn it."
        return (
            f"languages that are retrieved better score {'higher' if r > 0 else 'lower'}."
            f"{few if n < FEWEST_BOOTSTRAPPED else ''}"
        )
    t = stats.t.ppf(1 - _ALPHA / 2, n - 2)
    return f"no correlation was found (with {n} languages a single |r| below {t / np.sqrt(n - 2 + t**2):.2f} cannot be told from 0)."


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "below 0.001"


def _untrained(accuracies: Accuracies) -> Iterator[str]:
    if (accuracies.settings.get("model") or {}).get("name") == "builtin:tiny":
        yield (
            "builtin:tiny is not trained: it knows no language, so that no correlation is expected, and any that is found is of "
            "surface form."
        )


def _surface(correlation: pd.DataFrame, samples: Sequence[Sample], accuracies: Accuracies) -> Iterator[str]:
    """What surface form alone gives, beside each verdict."""
    if CHAR not in accuracies.controls:
        yield f"{accuracies.name} has no char control: what surface form alone gives is not known."
        return
    for sample in samples:
        row = correlation[(correlation["group"] == sample.name) & (correlation["layer"] == CHAR)].iloc[0]
        if np.isnan(row["pearson"]):
            yield f"{sample}, char control: one accuracy for all of them, r is undefined."
        else:
            numbers = f"r = {row['pearson']:.2f}, permutation p = {_p(row['permutation_p'])}"
            yield f"{sample}, char control: {numbers}; this much surface form gives without any model."


def _remaining(
    correlation: pd.DataFrame, partial: pd.DataFrame, samples: Sequence[Sample], listed: str, accuracies: Accuracies
) -> Iterator[str]:
    """What is left of each correlation given controls, which can also be more than there was."""
    alone = correlation.set_index(["group", "layer"])["pearson"]
    for sample in samples:
        rows = partial[(partial["group"] == sample.name) & (partial["layer"] == listed)]
        told = [f"{row.controls} r = {row.pearson:.2f} (p = {_p(row.p)})" for row in rows.itertuples()]
        if told:
            yield (
                f"{sample}, {place(listed, accuracies)}: partial correlation given {'; '.join(told)}; without controls r = "
                f"{alone[sample.name, listed]:.2f}. These p are not adjusted for one another."
            )


def counted(dropped: Mapping[str, str]) -> Iterator[str]:
    """How many languages are left out for each reason."""
    for reason, count in Counter(dropped.values()).items():
        yield f"{count} language{'s' * (count > 1)} not counted: {reason} (table `dropped`)."


def _pooled(samples: Sequence[Sample], scores: Scores) -> Iterator[str]:
    """A warning where languages of several groups may be one sample."""
    for sample in samples:
        kinds = {scores.groups.get(code) for code in sample.languages}
        if sample.name == "all":
            yield (
                f"{scores.name} names no supervised and transfer languages: where there are both, pooling them inflates r. Choose "
                "with --langs, or give the scores a column `group`."
            )
        elif sample.name == "chosen" and len(kinds - {None}) > 1:
            yield f"{sample}: {' and '.join(sorted(filter(None, kinds)))} languages are pooled, which inflates r."


def _limits(accuracies: Accuracies, directions: str) -> Iterator[str]:
    partners = len(accuracies.languages)
    role, _, related = directions.partition(":")
    which = (
        f"{2 * (partners - 1)} directions that touch it, among all {partners} languages of the result, with a score or not"
        if role == "all"
        else f"directions {role} {related.replace(',', ', ')}, itself left out"
    )
    yield f"Accuracy of a language: the mean over the {which}."
    yield (
        "Languages share directions, so their accuracies are not independent; the p-values hold for languages that are exchangeable."
    )


def _uncertain(rows: pd.DataFrame, sample: Sample) -> Iterator[str]:
    if len(sample.languages) < FEWEST_BOOTSTRAPPED:
        yield f"{sample}: no bootstrap interval, which needs {FEWEST_BOOTSTRAPPED} languages."
    elif (rows["bca_low"].isna() & rows["pearson"].notna()).any():
        yield f"{sample}: no bootstrap interval where without some one language r is undefined."
    if rows["undefined"].max() > 0:
        yield f"{sample}: up to {rows['undefined'].max()} resamples had an undefined r and were left out (column `undefined`)."
    families = sample.families()
    few = sorted({name for name in families if len(families) - families.count(name) < FEWEST})
    if few:
        yield f"{sample}: without {' or '.join(few)} fewer than {FEWEST} languages remain, so no r without it is in the range."
