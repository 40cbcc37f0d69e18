"""Does retrieval accuracy predict transfer: the correlation, over languages, of accuracy with a downstream score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from analysis.accuracies import AGGREGATE, MIDDLE, Accuracies, language_means, layer_number, middle_layer
from analysis.association import (
    EXACT_LIMIT,
    bca_intervals,
    constant,
    fisher_interval,
    holm,
    partial_correlation,
    permutation_test,
    regression_band,
    weighted_correlation,
)
from analysis.report import Report, Table
from analysis.resample import FEWEST as FEWEST_DRAWS
from analysis.resample import MOST as MOST_DRAWS
from analysis.samples import FEWEST, Sample, expanded_relation, join, samples_of
from analysis.scores import Scores
from analysis.verdicts import CHAR, FEWEST_BOOTSTRAPPED, counted, not_computed, place, remarks_on, score_name
from data_manifests import language
from probe.errors import AnalysisError
from probe.results import script_of

CONTROLS = ("tokens", "script", "level", "char")
"""What a partial correlation can be given: mean tokens a sentence, Latin or other script, high or low resource level, and
the accuracy of character n-grams."""

_FEWEST_DF = 5
"""Degrees of freedom a partial correlation needs."""
_BAND_POINTS = 50

_HEADINGS = {
    "group": "languages",
    "layer": "layer",
    "n": "n",
    "pearson": "Pearson r",
    "fisher_low": "low",
    "fisher_high": "high",
    "permutation_p": "p (permutation)",
    "max_p": "p (all layers)",
    "holm_p": "p (Holm)",
    "bca_low": "BCa low",
    "bca_high": "BCa high",
    "family_low": "r without a family, low",
    "family_high": "r without a family, high",
    "pearson_p": "p (t)",
    "spearman": "Spearman rho",
    "spearman_p": "p (rho)",
    "kendall": "Kendall tau",
    "kendall_p": "p (tau)",
}


def correlate(
    accuracies: Accuracies,
    scores: Scores,
    *,
    layer: str = MIDDLE,
    relation: str = "all",
    langs: str | None = None,
    exclude: str | None = None,
    given: Sequence[str] = (),
    draws: int = 10_000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Report:
    """Correlate the accuracy of languages with their downstream score, supervised and transfer languages apart.

    Args:
        layer: a block's number, `middle`, `aggregate`, or `all`: every layer, with p-values adjusted for their number.
        relation: which directions count for a language, as in `language_means`; `to:` and `from:` also take `supervised` and
            `transfer` where the scores name groups.
        langs: the languages of one correlation over all of them: codes, aliases, sets, `supervised`, `transfer` or `all`.
            None: one correlation a group of the scores.
        exclude: languages left out, named in the same way.
        given: one or two of `CONTROLS` for partial correlations: each singly, and both jointly. Empty: each there is, singly.
        draws: bootstrap resamples of languages.
        permutations: random orders of the scores where there are more than 8 languages.

    Returns:
        A report of kind `correlation` with the tables `correlation`, `partial`, `points`, `band` and `dropped`. Accuracies are
        shares in 0..1, scores percent points. The `char` control has a row beside the layers wherever there is one.

    Raises:
        AnalysisError: fewer than 4 shared languages, a constant score or accuracy, a layer that was not retrieved, or options
            that name nothing.
        CorpusError: an unknown language.
    """
    _check(draws, permutations, given)
    labels = _labels(accuracies, layer)
    char = [CHAR] if CHAR in accuracies.controls else []
    directions = expanded_relation(relation, scores, accuracies)
    means = {
        label: language_means(
            accuracies.at(label if (number := layer_number(label)) is None else number),
            accuracies.languages,
            directions,
        )
        for label in [*labels, *char]
    }
    joined = join(accuracies, scores, relation, means[labels[0]], langs, exclude)
    samples, dropped, left_out = samples_of(accuracies, scores, means, joined, chosen=langs is not None)
    rows = [
        row
        for sample in samples
        for block in (labels, char)
        for row in _rows(sample, block, draws, permutations, np.random.default_rng(seed))
    ]
    correlation = pd.DataFrame(rows)
    if correlation.loc[correlation["layer"].isin(labels), "pearson"].isna().all():
        raise AnalysisError(
            f"{accuracies.name} at {place(labels[0], accuracies)}: one accuracy for all languages",
            "accuracies that differ, since a correlation with a constant is undefined",
            "give another --layer",
        )
    controls, unknown = _controls(accuracies, means, samples, given)
    partial, refused = _partial(samples, labels, controls, given)
    listed = _listed_layer(labels, accuracies)
    return Report(
        "correlation",
        f"Retrieval accuracy of {accuracies.name} against {scores.name}",
        _tables(correlation, partial, samples, dropped, labels, listed, accuracies, scores),
        (
            *remarks_on(correlation, partial, samples, labels, listed, accuracies, scores, directions),
            *counted(dropped),
            *(note if note.startswith(scores.name) else f"{scores.name}: {note}" for note in scores.notes),
            *left_out,
            *not_computed(correlation, samples, labels, accuracies),
            *unknown,
            *refused,
        ),
        {
            "result": accuracies.name,
            "settings": dict(accuracies.settings),
            "scores": {
                key: getattr(scores, key) for key in ("name", "task", "metric", "model", "source", "defect", "digest")
            },
            "layer": layer,
            "middle": middle_layer(accuracies.depth) if accuracies.depth else None,
            "relation": relation,
            "directions": directions,
            "languages": {sample.name: list(sample.languages) for sample in samples},
            "langs": langs,
            "exclude": exclude,
            "given": list(given),
            "draws": draws,
            "permutations": permutations,
            "seed": seed,
        },
    )


# ---- what was asked for --------------------------------------------------------------------------------------


def _check(draws: int, permutations: int, given: Sequence[str]) -> None:
    for option, value in (("--draws", draws), ("--permutations", permutations)):
        if not FEWEST_DRAWS <= value <= MOST_DRAWS:
            raise AnalysisError(
                f"{option} {value}", f"{FEWEST_DRAWS} to {MOST_DRAWS}", "leave it out, which means 10,000"
            )
    wrong = [name for name in given if name not in CONTROLS]
    if wrong or len(given) > 2 or len(set(given)) < len(given):
        raise AnalysisError(
            f"--given {','.join(given)}", f"one or two different ones of {', '.join(CONTROLS)}", "give others, or none"
        )


def _labels(accuracies: Accuracies, layer: str) -> list[str]:
    """What the rows are called: layers' numbers as text, `middle` or `aggregate`."""
    if layer == "all":
        return [str(each) for each in accuracies.layers]
    if layer in (MIDDLE, AGGREGATE):
        return [layer]
    if (number := layer_number(layer)) is not None:
        return [str(number)]
    raise AnalysisError(f"--layer {layer}", "a layer's number, middle, aggregate or all", "give another --layer")


# ---- the numbers ---------------------------------------------------------------------------------------------


def _rows(
    sample: Sample, labels: Sequence[str], draws: int, permutations: int, generator: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """One row a label; several are adjusted for one another. The same draws serve all of them."""
    if not labels:
        return
    y, n = sample.score, len(sample.languages)
    x = np.column_stack([sample.accuracy[label] for label in labels])
    permuted = permutation_test(x, y, permutations, generator)
    bootstrapped = bca_intervals(x, y, draws, generator) if n >= FEWEST_BOOTSTRAPPED else None
    r = weighted_correlation(np.ones((1, n)), x, y)[0]
    without = weighted_correlation(_without_families(sample), x, y)
    several = len(labels) > 1
    adjusted = holm(permuted.p)
    for i, label in enumerate(labels):
        defined = bool(np.isfinite(r[i]))
        low, high = fisher_interval(float(r[i]), n)
        yield {
            "layer": label,
            "group": sample.name,
            "n": n,
            "pearson": r[i],
            "pearson_p": stats.pearsonr(x[:, i], y).pvalue if defined else np.nan,
            "fisher_low": low,
            "fisher_high": high,
            "permutation_p": permuted.p[i],
            "permutations": permuted.permutations,
            "exact": permuted.exact,
            "bca_low": bootstrapped.low[i] if bootstrapped else np.nan,
            "bca_high": bootstrapped.high[i] if bootstrapped else np.nan,
            "undefined": int(bootstrapped.undefined[i]) if bootstrapped else 0,
            **_ranked(x[:, i], y, defined),
            "max_p": permuted.max_p[i] if several else np.nan,
            "holm_p": adjusted[i] if several else np.nan,
            "family_low": np.fmin.reduce(without[:, i], initial=np.nan),
            "family_high": np.fmax.reduce(without[:, i], initial=np.nan),
        }


def _ranked(x: Float[np.ndarray, " language"], y: Float[np.ndarray, " language"], defined: bool) -> dict[str, float]:
    """Spearman's rho and Kendall's tau-b with scipy's two-sided p.

    Up to 8 languages rho's is that of all orders: scipy's t distribution has 0 for two rankings of four languages that agree, where
    2 orders of 24 do. (Kendall's is exact in scipy.)
    """
    if not defined:
        return dict.fromkeys(("spearman", "spearman_p", "kendall", "kendall_p"), np.nan)
    x = np.round(x, 12)  # equal means differ in the last bit, which would break ties
    spearman, kendall = stats.spearmanr(x, y), stats.kendalltau(x, y)
    ranks = stats.rankdata(x)[:, None], stats.rankdata(y)
    exact = permutation_test(*ranks, 0, np.random.default_rng(0)) if len(x) <= EXACT_LIMIT else None
    return {
        "spearman": float(spearman.statistic),
        "spearman_p": float(exact.p[0] if exact else spearman.pvalue),
        "kendall": float(kendall.statistic),
        "kendall_p": float(kendall.pvalue),
    }


def _without_families(sample: Sample) -> Float[np.ndarray, "family language"]:
    """1 for the languages that stay when a family is left out, 0 for its own; families that leave too few are not there."""
    families = np.array(sample.families())
    masks = families[None, :] != np.unique(families)[:, None]
    return masks[masks.sum(axis=1) >= FEWEST].astype(float)


def _points(sample: Sample) -> Iterator[dict[str, Any]]:
    for label, column in sample.accuracy.items():
        for code, accuracy, score in zip(sample.languages, column, sample.score, strict=True):
            yield {"group": sample.name, "layer": label, "language": code, "accuracy": accuracy, "score": score}


def _band(sample: Sample) -> Iterator[dict[str, Any]]:
    for label, column in sample.accuracy.items():
        if constant(column):
            continue
        at = np.linspace(column.min(), column.max(), _BAND_POINTS)
        for x, fit, low, high in zip(at, *regression_band(column, sample.score, at), strict=True):
            yield {"group": sample.name, "layer": label, "x": x, "fit": fit, "low": low, "high": high}


# ---- given other things --------------------------------------------------------------------------------------


def _controls(
    accuracies: Accuracies,
    means: Mapping[str, Float[np.ndarray, " language"]],
    samples: Sequence[Sample],
    given: Sequence[str],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Control -> language -> value, of the controls asked for (else of all that are known), and a remark on the others."""
    codes = accuracies.languages
    levels = {code: known.level if (known := language(code)) else None for code in codes}
    values = {
        "tokens": dict(accuracies.tokens),
        "script": {code: float(script_of(code) == "Latn") for code in codes if script_of(code)},
        "level": {code: float(level == "high") for code, level in levels.items() if level},
        CHAR: dict(zip(codes, means[CHAR].tolist(), strict=True)) if CHAR in means else {},
    }
    used = [code for sample in samples for code in sample.languages]
    unknown = {name: [code for code in used if code not in values[name]] for name in given or CONTROLS}
    for name, lacking in unknown.items():
        if lacking and given:
            raise AnalysisError(
                f"--given {name}, which {accuracies.name} does not know for {lacking[0]}",
                "a result folder whose languages all have it",
                "leave the control or the language out",
            )
    remarks = [
        f"No partial correlation given {name}: it is not known for {', '.join(lacking[:3])}{', ...' * (len(lacking) > 3)}."
        for name, lacking in unknown.items()
        if lacking
    ]
    return {name: values[name] for name, lacking in unknown.items() if not lacking}, remarks


def _partial(
    samples: Sequence[Sample], labels: Sequence[str], controls: Mapping[str, Mapping[str, float]], given: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A row a group, layer and set of controls, and remarks on those that cannot be had."""
    sets = [(name,) for name in controls] + ([tuple(given)] if len(given) > 1 else [])
    rows, remarks = [], []
    for sample in samples:
        n = len(sample.languages)
        refused: dict[str, list[str]] = {}
        for names in sets:
            told, df = " + ".join(names), n - 2 - len(names)
            if df < _FEWEST_DF:
                refused.setdefault(f"n - 2 - k = {df} is below {_FEWEST_DF}", []).append(told)
                continue
            values = np.array([[controls[name][code] for name in names] for code in sample.languages])
            for label in labels:
                found = partial_correlation(sample.accuracy[label], sample.score, values)
                if np.isfinite(found.r):
                    rows.append((sample.name, label, told, n, len(names), found.df, found.r, found.p))
                elif constant(values).any():
                    refused.setdefault("the same for all these languages", []).append(told)
                elif not constant(sample.accuracy[label]):
                    refused.setdefault("collinear, or all there is in accuracy or score", []).append(told)
        remarks += [
            f"{sample}: no partial correlation given {' or '.join(dict.fromkeys(told))} ({reason})."
            for reason, told in refused.items()
        ]
    return pd.DataFrame(rows, columns=["group", "layer", "controls", "n", "k", "df", "pearson", "p"]), remarks


# ---- for people ----------------------------------------------------------------------------------------------


def _tables(
    correlation: pd.DataFrame,
    partial: pd.DataFrame,
    samples: Sequence[Sample],
    dropped: Mapping[str, str],
    labels: Sequence[str],
    listed: str,
    accuracies: Accuracies,
    scores: Scores,
) -> dict[str, Table]:
    """The tables of the report; of partial correlations and points people are shown one layer."""
    where = place(listed, accuracies)
    return {
        "correlation": _correlation_table(correlation, scores, several=len(labels) > 1),
        "partial": Table(
            partial,
            f"Partial Pearson correlation of accuracy at {where} with the score given controls; p by t with df = n - 2 - k, not "
            "adjusted for the number of tests.",
            {"group": "languages", "controls": "given", "n": "n", "df": "df", "pearson": "r", "p": "p"},
            where={"layer": listed},
        ),
        "points": Table(
            pd.DataFrame([row for sample in samples for row in _points(sample)]),
            f"Languages at {where}: accuracy (%) and {score_name(scores)}.",
            {"group": "group", "language": "language", "accuracy": "accuracy", "score": "score"},
            percent=("accuracy",),
            where={"layer": listed},
            digits=1,
        ),
        "band": Table(
            pd.DataFrame([row for sample in samples for row in _band(sample)]),
            "Regression of the score on accuracy with the 95 % confidence band of the mean: drawn, not listed.",
            where={"layer": None},  # no row has that: people are shown the line in a figure
        ),
        "dropped": Table(
            pd.DataFrame(sorted(dropped.items()), columns=["language", "reason"]), "Languages left out, and why."
        ),
    }


def _correlation_table(frame: pd.DataFrame, scores: Scores, several: bool) -> Table:
    adjusted = ", adjusted for all layers by the largest absolute r and by Holm" if several else ""
    return Table(
        frame,
        f"Correlation over languages of retrieval accuracy with {score_name(scores)}. 95 % intervals of r (low, high) by Fisher's z and by BCa "
        f"bootstrap over languages; p two-sided, by permutation{adjusted}; the range of r when one language family is left out.",
        {name: heading for name, heading in _HEADINGS.items() if several or name not in ("max_p", "holm_p")},
    )


def _listed_layer(labels: Sequence[str], accuracies: Accuracies) -> str:
    """The layer whose points people are shown: the only one, else the middle one."""
    if accuracies.depth and str(accuracies.middle()) in labels:
        return str(accuracies.middle())
    return labels[len(labels) // 2]
