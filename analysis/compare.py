"""What changed against a base: paired differences of accuracies a layer, group, direction and language, with their intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.accuracies import Accuracies, labelled, language_means, layer_number, named_languages
from analysis.association import CONFIDENCE
from analysis.choice import published_aggregate
from analysis.documents import Documents, find_documents
from analysis.report import Report, Table
from analysis.resample import GROUPS, Bootstrap, Means, hit_sums, load_result
from data_manifests import language_sets
from probe.errors import AnalysisError
from probe.results import RetrievalResult, resource_groups

_IDENTITY = ("store", "versions", "command", "limit")
"""Settings that tell a run and not a way of measuring; what a limit left is compared by its rows and digests."""


def compare(
    base: str | Path,
    others: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    layer: int | str = "all",
    aligned: str | None = None,
    documents: Documents | str | Path | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Report:
    """Compare results with a base, sentence by sentence.

    Args:
        base: the folder of the base's result.
        others: the folders of the results to compare with it.
        names: what to call them, the base first; None: the names of their folders.
        layer: `all`, or one layer's number.
        aligned: codes, aliases or sets of the languages whose alignment was trained, as of `aligned_masks`; None: they are not
            told apart.
        documents: as of `find_documents`.
        draws: bootstrap draws over documents, the same for all layers, directions and results.
        seed: of the draws.

    Returns:
        A report of kind `comparison`; accuracies and differences (other - base) are shares. Tables: `layers` (a group of
        directions or languages a row, the intervals of base, other and difference), `directions`, `languages` (a
        language's accuracy is its mean over the directions that touch it), `spread` (mean and sample standard deviation,
        ddof = 1, of the languages' differences), `controls`, `aggregate` (the paper's section 4.2, with the value it printed
        of the same model and languages).

    Raises:
        AnalysisError: results that do not measure the same thing (the difference is named), a bare table, a layer that one of
            them lacks, names that do not fit.
        RetrievalError: a folder holds no readable result.
    """
    if not others:
        raise AnalysisError(f"{base} alone", "a base and one result or more", "give the results to compare with it")
    labels = labelled([base, *others], names)
    first, *rest = (load_result(path) for path in (base, *others))
    for name, other in zip(labels[1:], rest, strict=True):
        if (reason := check_alike(labels[0], first, name, other)) is not None:
            raise AnalysisError(*reason)
    layers = _chosen_layers(layer, dict(zip(labels, (first, *rest), strict=True)))
    bootstrap = Bootstrap.of(find_documents(first.settings, first.rows, documents), draws, seed)
    trained = aligned_masks(aligned, first.languages)
    groups = Means.of_groups(first.languages, trained)
    measured = _Measured.of(first, rest, layers, groups, bootstrap)

    differs = {name: _differing(first.settings, other.settings) for name, other in zip(labels[1:], rest, strict=True)}
    curve = measured.groups[0, :, groups.names.index("mean")].sum(axis=-1)
    shown = layers[int(curve.argmax())]
    tables = {
        "layers": _layers(labels, layers, measured, groups, bootstrap),
        "directions": _directions(labels, layers, measured, first.languages, bootstrap),
        "languages": _languages(labels, layers, measured, first.languages, bootstrap),
        "controls": _controls(first, groups),
        "aggregate": _aggregate(labels, (first, *rest), bootstrap),
    }
    _put_controls_beside(tables, first)
    tables["spread"] = _spread(tables["languages"], {**resource_groups(first.languages), **trained})
    facts = {
        "base": _source(labels[0], base, first),
        "others": [_source(*each) for each in zip(labels[1:], others, rest, strict=True)],
        "differs": differs,
        "layer": shown,
        "layers": layers,
        "languages": list(first.languages),
        "aligned": [code for code, own in zip(first.languages, trained["aligned"], strict=True) if own]
        if trained
        else None,
        "rows": first.rows,
        "grouping": bootstrap.documents.grouping,
        "draws": draws,
        "seed": seed,
        "confidence": CONFIDENCE,
    }
    remarks = [
        *(_told_change(name, tables["layers"], shown) for name in labels[1:]),
        *(_told_settings(labels[0], name, found) for name, found in differs.items()),
        *_told_controls(labels, (first, *rest)),
        *_told_corpus((first, *rest)),
        *_told_layer(labels[0], layers, shown),
        *_told_absent(aligned, first.languages),
        *(told for each in zip(labels, (first, *rest), strict=True) for told in _told_aggregate(*each)),
        f"Intervals are percentiles of {draws} bootstrap draws of {bootstrap.documents.grouping}, the same for all; each is "
        "its own 95 %, without a correction for their number. Differences are paired, sentence by sentence.",
    ]
    title = f"{', '.join(labels[1:])} against {labels[0]}"
    return Report("comparison", title, _shown(tables, labels[0], shown, first.languages), tuple(remarks), facts)


# ---- what may be compared ----------------------------------------------------------------------------------------


class Unlike(NamedTuple):
    """Why two results cannot be compared, as an `AnalysisError` tells it."""

    given: str
    expected: str
    next_step: str


def check_alike(
    base_name: str, base: RetrievalResult | Accuracies, name: str, other: RetrievalResult | Accuracies
) -> Unlike | None:
    """The first reason why two results did not search the same sentences in the same way; None where they did.

    Sentences are the same where the texts of the result's languages are, however many languages the corpus had, and whether
    or not a limit left them. A bare table has no settings, so that its languages and rows alone are compared.
    """
    only = sorted({*base.languages} ^ {*other.languages})
    if only:
        having = base_name if only[0] in base.languages else name
        return Unlike(
            f"{base_name} and {name} have other languages: {', '.join(only[:5])}{' …' if only[5:] else ''} ({only[0]} only in {having})",
            "the same languages in both",
            "run `probe retrieve` with the same --langs",
        )
    left, right = base.settings.get("corpus") or {}, other.settings.get("corpus") or {}
    measured: dict[str, tuple[Any, Any]] = {"rows": (base.rows, other.rows)}
    if base.settings and other.settings:
        measured |= {key: (base.settings.get(key), other.settings.get(key)) for key in ("k", "margin")}
    texts = left.get("digests") or {}, right.get("digests") or {}
    told_by_text = all(code in digests for digests in texts for code in base.languages)
    if left and right and not told_by_text:  # the same text by another name is the same corpus
        measured |= {"corpus": (left.get("name"), right.get("name")), "split": (left.get("split"), right.get("split"))}
    for what, (one, another) in measured.items():
        if one != another:
            return Unlike(
                f"{what} {one} in {base_name} but {another} in {name}",
                "results that searched the same sentences in the same way",
                f"run `probe retrieve` again with the same {what}",
            )
    for code in base.languages:
        if all(code in digests for digests in texts) and texts[0][code] != texts[1][code]:
            return Unlike(
                f"{code} has another text in {base_name} than in {name}",
                "results that searched the same sentences",
                "run `probe extract` and `probe retrieve` again on one corpus",
            )
    return None


def _chosen_layers(layer: int | str, results: Mapping[str, RetrievalResult]) -> list[int]:
    """The layers to compare, each of which all results have."""
    (base_name, base), *others = results.items()
    if str(layer) == "all":
        for name, other in others:
            only = sorted({*base.layers} ^ {*other.layers})
            if only:
                having = base_name if only[0] in base.layers else name
                raise AnalysisError(
                    f"layers {', '.join(map(str, only[:5]))}{' …' if only[5:] else ''} only in {having}",
                    f"the same layers in {base_name} and {name}",
                    "retrieve the same --layers of both, or compare one with --layer N",
                )
        return sorted(base.layers)
    for name, result in results.items():
        if layer_number(str(layer)) not in result.layers:
            raise AnalysisError(
                f"layer {layer}, which {name} does not have",
                f"all, or one of {', '.join(map(str, sorted(result.layers)))}",
                "give another --layer, or retrieve that one",
            )
    return [int(layer)]


def aligned_masks(aligned: str | None, codes: Sequence[str]) -> dict[str, np.ndarray]:
    """The languages whose alignment was trained and the others.

    Args:
        aligned: codes, aliases or sets; of a set those count that are there. None: they are not told apart.
        codes: the languages of the result.

    Returns:
        `aligned` and `not_aligned` -> (language,) bool; nothing where none were named.

    Raises:
        AnalysisError: a language that is named by itself is absent, or none is there.
        CorpusError: a name that is no language.
    """
    if aligned is None:
        return {}
    named = [code for _, members in _parts(aligned) for code in members if code in codes or len(members) == 1]
    chosen = np.isin(codes, named_languages(",".join(named) or aligned, f"--aligned {aligned}", codes))
    return {"aligned": chosen, "not_aligned": ~chosen}


def _parts(aligned: str) -> list[tuple[str, tuple[str, ...]]]:
    """What was named, each with what it stands for: a set with its members, anything else with itself."""
    return [(part, language_sets().get(part, (part,))) for part in map(str.strip, aligned.split(",")) if part]


def _differing(base: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Setting -> [of base, of other], where they differ; one that is absent in an older result is taken for off."""
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys((*base, *other)):
        left, right = base.get(key), other.get(key)
        if key in _IDENTITY and not prefix:
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= _differing(left, right, f"{prefix}{key}.")
        elif (left or None) != (right or None):
            found[f"{prefix}{key}"] = [left, right]
    return found


def _source(name: str, path: str | Path, result: RetrievalResult) -> dict[str, Any]:
    return {
        "name": name,
        "path": str(path),
        "digest": digest_of(result),
        "store": result.settings.get("store"),
        "model": result.settings.get("model"),
        "depth": result.settings.get("depth"),
    }


def digest_of(result: RetrievalResult) -> str:
    """What a result found, as sha256 of its languages, rows and hits at every layer and control; another run's is another."""
    digest = hashlib.sha256(f"{','.join(result.languages)} {result.rows}".encode())
    keys: list[int | str] = [*sorted(result.layers), *sorted(result.controls)]
    for key in keys:
        digest.update(f"\n{key}\n".encode() + np.ascontiguousarray(result.cells(key).hits).tobytes())
    return digest.hexdigest()


# ---- what is counted ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """Hits a document of the base (0) and of the others (1, 2, …), and the intervals of the directions, which are many."""

    groups: np.ndarray
    """(result, layer, group, document) float64."""
    languages: np.ndarray
    """(result, layer, language, document) float64."""
    correct: np.ndarray
    """(result, layer, source, target) float64."""
    low: np.ndarray
    """(other, layer, source, target): of the difference of a direction."""
    high: np.ndarray

    @classmethod
    def of(
        cls,
        base: RetrievalResult,
        others: Sequence[RetrievalResult],
        layers: list[int],
        groups: Means,
        bootstrap: Bootstrap,
    ) -> _Measured:
        codes, documents = base.languages, bootstrap.documents
        single = Means.of_languages(codes)
        count, size = 1 + len(others), len(codes)
        by_group = np.empty((count, len(layers), len(groups.names), len(documents)))
        by_language = np.empty((count, len(layers), size, len(documents)))
        correct = np.empty((count, len(layers), size, size))
        ends = np.empty((2, len(others), len(layers), size, size))
        for i, layer in enumerate(layers):
            reference = hit_sums(base, layer, documents)
            for j, result in enumerate((base, *others)):
                sums = reference if j == 0 else hit_sums(result, layer, documents, codes)
                by_group[j, i], by_language[j, i] = groups.sums(sums), single.sums(sums)
                correct[j, i] = sums.sum(axis=-1, dtype=np.float64)
                if j:
                    ends[:, j - 1, i] = bootstrap.interval(sums - reference)
        return cls(by_group, by_language, correct, *ends)


def _layers(
    labels: list[str], layers: list[int], measured: _Measured, groups: Means, bootstrap: Bootstrap
) -> pd.DataFrame:
    counted = groups.directions
    accuracy = measured.groups.sum(axis=-1) / (bootstrap.sentences * counted)
    alone = [bootstrap.interval(sums, counted) for sums in measured.groups]
    index = _rows_of({"layer": layers, "group": list(groups.names)})
    frames = []
    for j, name in enumerate(labels[1:], start=1):
        low, high = bootstrap.interval(measured.groups[j] - measured.groups[0], counted)
        frames.append(
            _differences(name, index, accuracy[0], accuracy[j], low, high).assign(
                base_low=alone[0][0].ravel(),
                base_high=alone[0][1].ravel(),
                other_low=alone[j][0].ravel(),
                other_high=alone[j][1].ravel(),
            )
        )
    return pd.concat(frames, ignore_index=True)


def _languages(
    labels: list[str], layers: list[int], measured: _Measured, codes: Sequence[str], bootstrap: Bootstrap
) -> pd.DataFrame:
    counted = Means.of_languages(codes).directions
    accuracy = measured.languages.sum(axis=-1) / (bootstrap.sentences * counted)
    index = _rows_of({"layer": layers, "language": list(codes)})
    frames = []
    for j, name in enumerate(labels[1:], start=1):
        ends = bootstrap.interval(measured.languages[j] - measured.languages[0], counted)
        frames.append(_differences(name, index, accuracy[0], accuracy[j], *ends))
    return pd.concat(frames, ignore_index=True)


def _directions(
    labels: list[str], layers: list[int], measured: _Measured, codes: Sequence[str], bootstrap: Bootstrap
) -> pd.DataFrame:
    index = _rows_of({"layer": layers, "src": list(codes), "tgt": list(codes)})
    accuracy = measured.correct / bootstrap.sentences
    frames = [
        _differences(name, index, accuracy[0], accuracy[j], measured.low[j - 1], measured.high[j - 1])
        for j, name in enumerate(labels[1:], start=1)
    ]
    table = pd.concat(frames, ignore_index=True)
    return table[table["src"] != table["tgt"]].reset_index(drop=True)


def _differences(
    name: str, index: pd.DataFrame, base: np.ndarray, other: np.ndarray, low: np.ndarray, high: np.ndarray
) -> pd.DataFrame:
    """One row each of the index, in the arrays' order."""
    columns = {"base": base, "other": other, "difference": other - base, "low": low, "high": high}
    frame = index.assign(**{column: values.ravel() for column, values in columns.items()})
    frame.insert(0, "model", name)
    return frame


def _rows_of(axes: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Every combination, the last axis running fastest."""
    return pd.MultiIndex.from_product(list(axes.values()), names=list(axes)).to_frame(index=False)


def _spread(languages: pd.DataFrame, members: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """How evenly the difference falls on the languages of each group: mean and sample standard deviation over them."""
    codes = languages["language"].unique()
    chosen = {"all": codes} | {group: codes[mask] for group, mask in members.items() if mask.any()}
    frames = []
    for group, own in chosen.items():
        gains = languages[languages["language"].isin(own)].groupby(["model", "layer"], sort=False)["difference"]
        frames.append(gains.agg(n="size", mean="mean", sd="std").reset_index().assign(group=group))
    order = {model: number for number, model in enumerate(languages["model"].unique())}
    table = pd.concat(frames).sort_values(["model", "layer"], key=lambda own: own.replace(order), kind="stable")
    return table[["model", "layer", "group", "n", "mean", "sd"]].reset_index(drop=True)


def _controls(base: RetrievalResult, groups: Means) -> pd.DataFrame:
    rows = [
        (name, group, share) for name in base.controls for group, share in groups.shares(base.accuracy(name)).items()
    ]
    return pd.DataFrame(rows, columns=["control", "group", "accuracy"])


def _put_controls_beside(tables: Mapping[str, pd.DataFrame], base: RetrievalResult) -> None:
    """In place: a column a control, so that no accuracy is read without what surface form alone retrieves."""
    found = tables["controls"]
    position = {code: number for number, code in enumerate(base.languages)}
    for control in base.controls:
        share = base.accuracy(control)
        by_group = found[found["control"] == control].set_index("group")["accuracy"]
        by_language = dict(zip(base.languages, language_means(share, base.languages), strict=True))
        tables["layers"][control] = tables["layers"]["group"].map(by_group)
        tables["languages"][control] = tables["languages"]["language"].map(by_language)
        directions = tables["directions"]
        directions[control] = share[directions["src"].map(position), directions["tgt"].map(position)]
        tables["aggregate"][control] = by_group["mean"]


def _aggregate(labels: list[str], results: Sequence[RetrievalResult], bootstrap: Bootstrap) -> pd.DataFrame:
    """The paper's aggregate accuracies; missing where a result lacks a layer that they need."""
    values = [result.aggregate() for result in results]
    hits = [
        None if value is None else _aggregate_hits(each, bootstrap.documents)
        for value, each in zip(values, results, strict=True)
    ]
    published = [published_aggregate(result) for result in results]

    def rows() -> Iterator[tuple]:
        for j, name in enumerate(labels[1:], start=1):
            low = high = difference = None
            if hits[0] is not None and hits[j] is not None:
                low, high = bootstrap.interval(hits[j] - hits[0])
                difference = (hits[j] - hits[0]).sum() / bootstrap.sentences
            paper = (each.value if each else None for each in (published[0], published[j]))
            yield name, values[0], values[j], difference, low, high, *paper

    columns = ["model", "base", "other", "difference", "low", "high", "published_base", "published_other"]
    return pd.DataFrame(rows(), columns=columns).astype(dict.fromkeys(columns[1:], float))


def _aggregate_hits(result: RetrievalResult, documents: Documents) -> np.ndarray:
    """(document,) float64: hits a direction, averaged over directions and even-numbered layers, layer 0 left out."""
    layers = range(2, result.settings["depth"] + 1, 2)
    hits = sum(result.hits(layer).sum(axis=(0, 1), dtype=np.int64) for layer in layers)
    directions = len(result.languages) * (len(result.languages) - 1)
    return np.bincount(documents.labels, weights=hits) / (directions * len(layers))


# ---- what people are told ----------------------------------------------------------------------------------------


def _told_change(name: str, table: pd.DataFrame, shown: int) -> str:
    own = table[(table["model"] == name) & (table["group"] == "mean")].set_index("layer")
    here, most = own.loc[shown], own["difference"].abs().idxmax()
    clear = int(((own["low"] > 0) | (own["high"] < 0)).sum())
    told = (
        f"{name}: mean accuracy {100 * here['difference']:+.2f} points at layer {shown} (95 % interval "
        f"{100 * here['low']:+.2f} to {100 * here['high']:+.2f}), from {100 * here['base']:.1f} to {100 * here['other']:.1f} %"
    )
    if len(own) == 1:
        return f"{told}."
    return (
        f"{told}; largest change {100 * own.loc[most, 'difference']:+.2f} at layer {most}; at {clear} of {len(own)} layers the interval "
        "leaves out 0."
    )


def _told_layer(base: str, layers: list[int], shown: int) -> list[str]:
    """Why that layer, which a choice by the differences would make too good."""
    if len(layers) == 1:
        return []
    return [
        f"Groups, languages and directions are shown at layer {shown}, the best of {base} over all directions, so that it is not chosen "
        "by the differences; the data of `layers`, `languages` and `directions` hold every layer."
    ]


def _told_absent(aligned: str | None, codes: Sequence[str]) -> list[str]:
    """What the named sets hold and the result does not."""
    remarks = []
    for name, members in _parts(aligned or ""):
        if absent := [code for code in members if code not in codes and len(members) > 1]:
            remarks.append(
                f"Of the {len(members)} languages of {name} the results lack {', '.join(absent)}: these are not among the aligned ones here."
            )
    return remarks


def _told_aggregate(name: str, result: RetrievalResult) -> list[str]:
    """Why there is no aggregate accuracy."""
    if result.aggregate() is not None:
        return []
    depth = result.settings.get("depth")
    absent = [layer for layer in range(2, (depth or 0) + 1, 2) if layer not in result.layers]
    why = (
        f"not retrieved: {', '.join(map(str, absent))}"
        if absent
        else "its model has none"
        if depth
        else "the number of its model's blocks is not known"
    )
    return [f"{name} has no aggregate accuracy, which is over all even layers without layer 0 ({why})."]


def _told_settings(base: str, name: str, differs: Mapping[str, list[Any]]) -> str:
    if not differs:
        return f"{name} and {base} were made with the same settings."
    told = ", ".join(f"{key} ({_short(left)} / {_short(right)})" for key, (left, right) in differs.items())
    return f"{base} / {name} differ in {told}."


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a digest


def _told_controls(labels: list[str], results: Sequence[RetrievalResult]) -> list[str]:
    """Controls depend on the text alone; rounding of another backend may move a tie."""
    base = results[0]
    if not base.controls:
        return [f"{labels[0]} has no controls: what surface form alone would retrieve is not known."]
    remarks = []
    for name, other in zip(labels[1:], results[1:], strict=True):
        order = [other.languages.index(code) for code in base.languages]
        for control in base.controls.keys() & other.controls.keys():
            apart = np.nanmax(abs(other.accuracy(control)[np.ix_(order, order)] - base.accuracy(control)))
            if apart > 0:
                remarks.append(
                    f"The control {control} of {name} differs from that of {labels[0]} by up to {100 * apart:.1f} points a direction, "
                    "though it depends on the text alone; the base's is shown."
                )
    return sorted(remarks)


def _told_corpus(results: Sequence[RetrievalResult]) -> list[str]:
    recorded = [(result.settings.get("corpus") or {}).get("digests") or {} for result in results]
    if all(code in digests for digests in recorded for code in results[0].languages):
        return []
    return [
        "Not every result records the digests of its text: that they searched the same sentences is taken on trust."
    ]


def _labelled_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The same with a column `over`: what people are told of the group."""
    return table.assign(over=table["group"].map({**GROUPS, "all": "all languages"}))


def _shown(tables: Mapping[str, pd.DataFrame], base: str, shown: int, codes: Sequence[str]) -> dict[str, Table]:
    """The tables with what people see of them: the rows of one layer where there are many."""
    controls = {control: control for control in tables["controls"]["control"].unique()}
    change = {"base": base, "other": "other", "difference": "difference", "low": "low", "high": "high", **controls}
    fine = ("difference", "low", "high")
    percent = ("base", "other", *fine, *controls)
    source = "eng_Latn" if "eng_Latn" in codes else codes[0]
    published = tables["aggregate"][["published_base", "published_other"]].notna().any(axis=None)
    beside = "; beside it the paper's" if published else ""
    unit = f"(%), difference from {base} in points with its 95 % interval"
    return {
        "layers": Table(
            tables["layers"],
            f"Mean accuracy over all directions by layer {unit}.",
            {"model": "model", "layer": "layer", **change},
            (*percent, "base_low", "base_high", "other_low", "other_high"),
            {"group": "mean"},
            fine=fine,
        ),
        "groups": Table(
            _labelled_groups(tables["layers"][tables["layers"]["layer"] == shown].reset_index(drop=True)),
            f"Accuracy at layer {shown} by group {unit}.",
            {"model": "model", "over": "over", **change},
            (*percent, "base_low", "base_high", "other_low", "other_high"),
            fine=fine,
        ),
        "spread": Table(
            _labelled_groups(tables["spread"]),
            f"Difference at layer {shown} over the languages of a group (points): mean and sample standard deviation.",
            {"model": "model", "over": "over", "n": "n", "mean": "mean", "sd": "SD"},
            ("mean", "sd"),
            {"layer": shown},
            fine=("mean", "sd"),
        ),
        "aggregate": Table(
            tables["aggregate"],
            f"Aggregate accuracy, the mean over directions and even layers without layer 0 {unit}{beside}.",
            {"model": "model", **change, "published_base": "paper, base", "published_other": "paper, other"},
            (*percent, "published_base", "published_other"),
            fine=fine,
        ),
        "languages": Table(
            tables["languages"],
            f"Accuracy of each language at layer {shown}, over the directions that touch it {unit}.",
            {"model": "model", "language": "language", **change},
            percent,
            {"layer": shown},
            fine=fine,
        ),
        "directions": Table(
            tables["directions"],
            f"Accuracy of the directions from {source} at layer {shown} {unit}.",
            {"model": "model", "src": "source", "tgt": "target", **change},
            percent,
            {"layer": shown, "src": source},
            fine=fine,
        ),
        "controls": Table(
            tables["controls"],
            "What the controls retrieve over all directions (%), of the text alone and so the same for all.",
            {"control": "control", "accuracy": "accuracy"},
            ("accuracy",),
            {"group": "mean"},
        ),
    }
