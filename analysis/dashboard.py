"""Everything a report page shows, computed: accuracies and their intervals by cell and by group, from the results of a run."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from analysis.accuracies import Accuracies, language_means, short_name
from analysis.documents import Documents, find_documents
from analysis.report import Report
from data_manifests import language_sets
from data_manifests import languages as known_languages
from probe.errors import AnalysisError, ProbeError
from probe.results import RetrievalResult, direction_groups, resource_groups, script_of

UNIT = 10_000
"""Interval ends are stored as whole multiples of 1 / UNIT: a hundredth of a percent point."""
_RESULT, _REPORT = "summary.json", "report.json"


# ---- what a folder holds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a folder holds that a page can show."""

    folder: Path
    results: Mapping[str, RetrievalResult] = field(repr=False)
    """Name -> result; the first is the one that the others are compared with."""
    reports: tuple[Report, ...] = ()
    compared: bool = False
    """Whether a comparison says which result is the base."""


def read_run(folder: str | Path) -> Run:
    """Read a result folder, a comparison, or a folder that holds results and reports one level down.

    Raises:
        AnalysisError: nothing to show there, or a comparison whose results are not found.
        RetrievalError: a damaged result.
    """
    folder = Path(folder)
    if (folder / _RESULT).is_file():
        return Run(folder, {folder.resolve().name: RetrievalResult.load(folder)})
    if (folder / _REPORT).is_file():
        report = Report.load(folder)
        if report.kind != "comparison":
            raise AnalysisError(
                f"{folder}, a {report.kind} report",
                "a result, a comparison, or a folder that holds results and reports",
                "put the report beside its result in one folder and give that folder",
            )
        return Run(folder, _compared(report, folder), (report,), True)
    children = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    found = {child.name: RetrievalResult.load(child) for child in children if (child / _RESULT).is_file()}
    reports = {child: Report.load(child) for child in children if (child / _REPORT).is_file()}
    compared: dict[str, RetrievalResult] = {}
    for child, report in reports.items():
        if report.kind == "comparison" and (not compared or report.facts["base"]["name"] == next(iter(compared))):
            compared |= _compared(report, child)
    told = {name: result for name, result in found.items() if name not in compared}
    if not compared and not told:
        raise AnalysisError(
            f"{folder} with no retrieval result",
            f"a folder with {_RESULT}, a comparison, or a folder of such folders",
            "run `probe retrieve`, or give its --out folder",
        )
    return Run(folder, compared | told, tuple(reports.values()), bool(compared))


def _compared(report: Report, folder: Path) -> dict[str, RetrievalResult]:
    """The results of a comparison, base first."""
    try:
        sides = [report.facts["base"], *report.facts["others"]]
        named = {side["name"]: Path(side["path"]) for side in sides}
    except (KeyError, TypeError):
        raise AnalysisError(
            f"{folder}, whose report names no base and others",
            "a comparison that `probe compare` wrote",
            "run `probe compare` again",
        ) from None
    return {name: RetrievalResult.load(_located(path, folder)) for name, path in named.items()}


def _located(path: Path, report: Path) -> Path:
    """Where a compared result lies: as it was given, or, after a move, near the comparison."""
    for place in (path, report / path, report.parent / path.name, report / path.name):
        if (place / _RESULT).is_file():
            return place
    raise AnalysisError(
        f"{report} compares {path}, which is not there",
        f"that folder with its {_RESULT}, as given or beside the comparison",
        "run the command from the folder where you compared, or run `probe compare` again",
    )


# ---- intervals over documents --------------------------------------------------------------------------------


def clustered(
    sums: Float[np.ndarray, "*cell document"], sizes: np.ndarray
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "*cell"]]:
    """The share of right sentences and its variance, documents being what is sampled.

    The variance of a ratio by linearisation: with c_d right of n_d sentences in document d of D,
    sum_d (c_d - p n_d)^2 D / (D - 1) / n^2 (Cochran 1977, Sampling Techniques, section 9A.1).

    Args:
        sums: float64, right sentences (or differences of two such counts) a document.
        sizes: sentences a document.
    """
    total, documents = sizes.sum(), len(sizes)
    share = sums.sum(axis=-1) / total
    residuals = sums - share[..., None] * sizes
    squares = np.einsum("...d,...d->...", residuals, residuals)
    return share, squares * documents / (documents - 1) / total**2


def proportion_interval(
    sums: Float[np.ndarray, "*cell document"], sizes: np.ndarray, *, mean: bool = False
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "*cell"]]:
    """95 % interval of a share: Wilson's, with the effective sample size of the clustered sample.

    n_eff = p (1 - p) / variance, with the t quantile of D - 1 degrees of freedom, as compared by Franco, Little, Louis and Slud
    (2019), Comparative study of confidence intervals for proportions in complex sample surveys, J. Survey Statistics and Methodology
    7(3). Where nothing varies (p = 0 or 1) n_eff = n. A cell's n_eff is at most n; that of a mean over directions (`mean`) may be
    more, since its directions do not fail on the same sentences.

    Returns:
        Lower and upper ends, shares in 0..1.
    """
    total = sizes.sum()
    share, variance = clustered(sums, sizes)
    varies = variance > 1e-20  # below: rounding of a weighted mean of zeros or ones
    effective = np.where(varies, share * (1 - share) / np.where(varies, variance, 1), total)
    if not mean:
        effective = np.minimum(effective, total)
    square = _quantile(sizes) ** 2 / effective
    centre = (share + square / 2) / (1 + square)
    half = np.sqrt(square * np.clip(share * (1 - share), 0, None) + square**2 / 4) / (1 + square)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def difference_interval(
    sums: Float[np.ndarray, "*cell document"], sizes: np.ndarray
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "*cell"]]:
    """95 % interval of a paired difference of shares: difference +- t (D - 1 degrees of freedom) x clustered standard error.

    Args:
        sums: float64, of each document the right sentences of the second result less those of the first.
        sizes: sentences a document.
    """
    share, variance = clustered(sums, sizes)
    half = _quantile(sizes) * np.sqrt(variance)
    return np.clip(share - half, -1, 1), np.clip(share + half, -1, 1)


def _quantile(sizes: np.ndarray) -> float:
    return float(stats.t.ppf(0.975, len(sizes) - 1))


def document_sums(
    hits: Bool[np.ndarray, "source target sentence"], documents: Documents
) -> Float[np.ndarray, "source target document"]:
    """Right sentences of every document, in float64. Segments are added in place of a product with the membership matrix, which is
    mostly zeros.
    """
    order = np.argsort(documents.labels, kind="stable")
    starts = np.searchsorted(documents.labels[order], np.arange(len(documents)))
    together = np.array_equal(order, np.arange(len(order)))
    counted = hits.view(np.uint8) if together else hits[..., order].view(np.uint8)
    return np.add.reduceat(counted, starts, axis=-1, dtype=np.uint16).astype(np.float64)


# ---- the payload ---------------------------------------------------------------------------------------------


def dashboard(run: Run, documents: str | Path | None = None) -> dict[str, Any]:
    """Everything the page's script needs, as JSON values; arrays as base64 of little-endian numbers.

    Args:
        run: what to show.
        documents: as in `find_documents`: None for the corpus's own grouping, `sentences`, or a file.

    Raises:
        AnalysisError: a file of documents that does not fit, or with a single document.
    """
    base, *given = run.results.values()
    reasons = [_difference_refused(base, other) for other in given]
    others = [
        other if reason else _ordered(other, base.languages) for other, reason in zip(given, reasons, strict=True)
    ]
    results = [base, *others]
    groupings = [_documents(result, documents) for result in results]
    own, paired = _intervals(results, groupings, [reason is None for reason in reasons])
    scores = [_scores(report) for report in run.reports if report.kind == "correlation"]
    relations = {"all", *(each["relation"] for each in scores)}
    return {
        "unit": UNIT,
        "compared": run.compared,
        "results": [
            _result(name, result, grouping.grouping, ends, relations)
            for name, result, grouping, ends in zip(run.results, results, groupings, own, strict=True)
        ],
        "pairs": [
            {"refused": reason} if reason else ends.told("int16") for reason, ends in zip(reasons, paired, strict=True)
        ],
        "languages": _languages(results),
        "sets": _sets(results),
        "scores": scores,
        "chosen": next((report.facts.get("best") for report in run.reports if report.kind == "layers"), None),
    }


def _documents(result: RetrievalResult, given: str | Path | None) -> Documents:
    grouping = find_documents(result.settings, result.rows, given)
    if len(grouping) < 2:
        raise AnalysisError(
            f"{grouping.grouping} for {result.rows} sentences",
            "two documents at least, for the intervals",
            "give --documents sentences",
        )
    return grouping


def _difference_refused(base: RetrievalResult, other: RetrievalResult) -> str | None:
    """Why two results have no paired difference; None where they have."""
    checks = {
        "languages": (set(base.languages), set(other.languages)),
        "number of sentences": (base.rows, other.rows),
        **{key: (base.settings.get(key), other.settings.get(key)) for key in ("k", "margin", "limit")},
        "sentences": tuple((each.settings.get("corpus") or {}).get("digests") for each in (base, other)),
    }
    different = [name for name, (first, second) in checks.items() if first != second]
    if not set(base.layers) & set(other.layers):
        different.append("layers")
    return f"no difference: the two differ in their {', '.join(different)}" if different else None


def _ordered(result: RetrievalResult, codes: Sequence[str]) -> RetrievalResult:
    """The same result with its languages in another order."""
    if result.languages == tuple(codes):
        return result
    square = np.ix_(*2 * [[result.languages.index(code) for code in codes]])

    def ordered(tables: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: type(cells)(cells.hits[square], cells.mexa[square]) for key, cells in tables.items()}

    return RetrievalResult(
        tuple(codes), result.rows, ordered(result.layers), ordered(result.controls),
        result.tokens, result.duplicates, result.settings,
    )  # fmt: skip


def group_weights(codes: Sequence[str]) -> dict[str, Float[np.ndarray, "source target"]]:
    """Group of directions or languages -> the weight of every direction in its mean, as in a result's summary.

    `high` and `low` are means over languages of the mean over all directions that touch one. A group with no member is left out.
    """
    weights = {name: mask / mask.sum() for name, mask in direction_groups(codes).items() if mask.any()}
    for name, members in resource_groups(codes).items():
        if members.any():
            touched = (members[:, None].astype(float) + members[None, :]) * ~np.eye(len(codes), dtype=bool)
            weights[name] = touched / touched.sum()
    return weights


@dataclass
class _Ends:
    """Intervals gathered layer by layer: of every cell, and of the means over groups with their values."""

    weights: Mapping[str, np.ndarray]
    sizes: np.ndarray
    paired: bool
    layers: list[int] = field(default_factory=list)
    cells: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    groups: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, layer: int, sums: Float[np.ndarray, "source target document"]) -> None:
        by_group = np.tensordot(np.stack(list(self.weights.values())), sums, axes=2)  # (group, document)
        self.layers.append(layer)
        if self.paired:
            self.cells.append(difference_interval(sums, self.sizes))
            ends = difference_interval(by_group, self.sizes)
        else:
            self.cells.append(proportion_interval(sums, self.sizes))
            ends = proportion_interval(by_group, self.sizes, mean=True)
        self.groups.append((clustered(by_group, self.sizes)[0], *ends))

    def told(self, kind: str) -> dict[str, Any]:
        """For the page; the ends of the cells' intervals as integers of a kind."""
        low, high = np.stack(self.cells, axis=1)  # (layer, source, target) each
        curves = np.stack(self.groups, axis=2)  # (value | low | high, group, layer)
        return {
            "layers": self.layers,
            "low": _packed(np.rint(low * UNIT), kind),
            "high": _packed(np.rint(high * UNIT), kind),
            "groups": {
                name: {key: _packed(curves[at, number], "float64") for at, key in enumerate(("value", "low", "high"))}
                for number, name in enumerate(self.weights)
            },
        }


def _intervals(
    results: Sequence[RetrievalResult], groupings: Sequence[Documents], comparable: Sequence[bool]
) -> tuple[list[_Ends], list[_Ends]]:
    """Of each result, and of the differences of each result but the first to the first; one layer of hits in memory at a time."""
    weights = [group_weights(result.languages) for result in results]
    own = [_Ends(*each, False) for each in zip(weights, (each.sizes for each in groupings), strict=True)]
    paired = [_Ends(weights[0], groupings[0].sizes, True) for _ in comparable]
    for layer in sorted({layer for result in results for layer in result.layers}):
        sums = [
            document_sums(result.hits(layer), documents) if layer in result.layers else None
            for result, documents in zip(results, groupings, strict=True)
        ]
        for ends, counted in zip(own, sums, strict=True):
            if counted is not None:
                ends.add(layer, counted)
        for ends, counted, asked in zip(paired, sums[1:], comparable, strict=True):
            if asked and counted is not None and sums[0] is not None:
                ends.add(layer, counted - sums[0])
    return own, paired


def _result(name: str, result: RetrievalResult, grouping: str, ends: _Ends, relations: set[str]) -> dict[str, Any]:
    accuracies = Accuracies.of_result(result, name)
    kind = "uint16" if result.rows < 2**16 else "uint32"
    return {
        **ends.told("uint16"),
        "name": name,
        "languages": list(result.languages),
        "rows": result.rows,
        "depth": accuracies.depth,
        "grouping": grouping,
        "aggregate": result.aggregate(),
        "counts": _packed(np.stack([result.cells(layer).correct() for layer in accuracies.layers]), kind),
        "controls": {
            control: {
                "counts": _packed(cells.correct(), kind),
                "groups": {
                    group: float((weight * cells.correct()).sum() / result.rows)
                    for group, weight in ends.weights.items()
                },
            }
            for control, cells in result.controls.items()
        },
        "means": _means(accuracies, relations),
        "tokens": dict(result.tokens),
    }


def _means(accuracies: Accuracies, relations: set[str]) -> dict[str, Any]:
    """Relation -> (layer, language) accuracies; a relation to languages that the result lacks is left out."""
    means = {}
    for relation in sorted(relations):
        with contextlib.suppress(ProbeError):
            means[relation] = _packed(language_means(accuracies.values, accuracies.languages, relation), "float64")
    return means


def _scores(report: Report) -> dict[str, Any]:
    """What a correlation report says of scores: group -> language -> score, and where they are from."""
    points = report.frame("points").drop_duplicates(["group", "language"])
    told = report.facts.get("scores")
    scores = told if isinstance(told, Mapping) else {"name": told}
    return {
        "name": str(scores.get("name") or report.title),
        "metric": str(scores.get("metric") or report.facts.get("metric") or "score"),
        "source": str(scores.get("source") or report.facts.get("source") or ""),
        "of": str(report.facts.get("result") or ""),
        "relation": str(report.facts.get("relation") or "all"),
        "groups": {
            str(group): dict(zip(rows["language"], rows["score"].astype(float), strict=True))
            for group, rows in points.groupby("group", sort=False)
        },
    }


def _languages(results: Sequence[RetrievalResult]) -> dict[str, dict[str, Any]]:
    """Code -> what the page tells of a language; facts that are not known are null."""
    told = {}
    for code in dict.fromkeys(code for result in results for code in result.languages):
        language = known_languages().get(code)
        if language is None:
            told[code] = {"name": code, "short": code, "autonym": None, "lang": "und", "script": script_of(code) or None,
                          "family": None, "level": None}  # fmt: skip
        else:
            told[code] = {
                "name": language.name,
                "short": short_name(code),
                "autonym": language.autonym,
                "lang": f"{language.iso639_1 or language.iso639_3}-{language.script}",
                "script": script_of(code),
                "family": language.family,
                "level": language.level,
            }
    return told


def _sets(results: Sequence[RetrievalResult]) -> dict[str, list[str]]:
    """The named sets that pick some, but not all, of the results' languages."""
    present = {code for result in results for code in result.languages}
    chosen = {name: [code for code in codes if code in present] for name, codes in language_sets().items()}
    return {name: codes for name, codes in chosen.items() if 1 < len(codes) < len(present)}


def _packed(values: np.ndarray, kind: str) -> dict[str, str]:
    """An array as text: the kind of its numbers, and the base64 of their little-endian bytes in C order."""
    little = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    return {"kind": kind, "data": base64.b64encode(little.tobytes()).decode("ascii")}
