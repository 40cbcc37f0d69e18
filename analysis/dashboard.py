"""Everything a report page shows, computed: accuracies and their intervals by cell and by group, from the results of a run."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from analysis.accuracies import Accuracies, language_means, short_name
from analysis.association import CONFIDENCE
from analysis.compare import check_alike, digest_of
from analysis.documents import find_documents
from analysis.report import Report
from analysis.resample import GROUPS, Bootstrap, Means, hit_sums
from data_manifests import language, language_sets
from probe.errors import AnalysisError
from probe.results import RetrievalResult, script_of

UNIT = 10_000
"""Interval ends are stored as whole multiples of 1 / UNIT: a hundredth of a percent point."""
_METRICS = {name.casefold(): name for name in ("F1", "BLEU", "COMET", "chrF")}
_RESULT, _REPORT = "summary.json", "report.json"


# ---- what a folder holds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a folder holds that a page can show."""

    folder: Path
    results: Mapping[str, RetrievalResult] = field(repr=False)
    """Name -> result; the first is the one that the others are compared with."""
    reports: Mapping[str, Report] = field(default_factory=dict)
    """Folder's name -> report."""
    compared: bool = False
    """Whether a comparison says which result is the base."""
    omitted: tuple[str, ...] = ()
    """Results that the folder or its comparisons hold and that are not among `results`, by name, or by path where another has that
    name."""


class _Side(NamedTuple):
    """A result that a comparison compared."""

    name: str
    path: Path
    digest: str


def read_run(folder: str | Path) -> Run:
    """Read a result folder, a comparison, or a folder that holds results and reports one level down.

    Of several comparisons in a folder the base is that of the one whose base a correlation was made from, else of the first by name;
    comparisons with the same base add their results, and the results beside them follow.

    Raises:
        AnalysisError: nothing to show there, or a comparison whose results are not found or are not those it compared.
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
        return Run(folder, _compared(_sides(report, folder), folder), {folder.resolve().name: report}, True)
    children = sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []
    found = {child.name: RetrievalResult.load(child) for child in children if (child / _RESULT).is_file()}
    reports = {child: Report.load(child) for child in children if (child / _REPORT).is_file()}
    run = _together(folder, found, reports)
    if not run.results:
        raise AnalysisError(
            f"{folder} with no retrieval result",
            f"a folder with {_RESULT}, a comparison, or a folder of such folders",
            "run `probe retrieve`, or give its --out folder",
        )
    return run


def _together(folder: Path, found: Mapping[str, RetrievalResult], reports: Mapping[Path, Report]) -> Run:
    """The results of the comparisons with one base, then those beside them; results are the same where their digests are."""
    comparisons = {child: _sides(report, child) for child, report in reports.items() if report.kind == "comparison"}
    base = _base([sides[0] for sides in comparisons.values()], list(reports.values()))
    shown: dict[str, RetrievalResult] = {}
    told: set[str] = set()  # digests: a result may have one name in a comparison and another as a folder
    for child, sides in comparisons.items():
        if sides[0].digest == base:
            new = [side for side in sides if side.digest not in told and side.name not in shown]
            shown |= _compared(new, child)
            told |= {side.digest for side in new}
    own = [_Side(name, folder / name, digest_of(result)) for name, result in found.items()]
    beside = [side for side in own if side.name not in shown and side.digest not in told]
    shown |= {side.name: found[side.name] for side in beside}
    told |= {side.digest for side in beside}
    missing = {side.digest: side for side in chain(own, *comparisons.values()) if side.digest not in told}
    omitted = tuple(str(side.path) if side.name in shown else side.name for side in missing.values())
    return Run(folder, shown, {child.name: report for child, report in reports.items()}, bool(comparisons), omitted)


def _base(bases: Sequence[_Side], reports: Sequence[Report]) -> str | None:
    """The digest of the base to show, of the bases of the comparisons; None where there is no comparison."""
    correlated = {report.facts.get("result") for report in reports if report.kind == "correlation"}
    preferred = (side.digest for side in bases if correlated & {side.name, side.path.name})
    return next(preferred, bases[0].digest if bases else None)


def _sides(report: Report, folder: Path) -> list[_Side]:
    """What a comparison compared, base first."""
    try:
        sides = [report.facts["base"], *report.facts["others"]]
        return [_Side(side["name"], Path(side["path"]), side["digest"]) for side in sides]
    except (KeyError, TypeError):
        raise AnalysisError(
            f"{folder}, whose report names no base and others",
            "a comparison that `probe compare` wrote",
            "run `probe compare` again",
        ) from None


def _compared(sides: Sequence[_Side], folder: Path) -> dict[str, RetrievalResult]:
    """The results of a comparison: those that it compared, and not what took their place since."""
    return {side.name: _found(side.path, folder, side.digest) for side in sides}


def _found(path: Path, report: Path, digest: str) -> RetrievalResult:
    """A compared result: beside the comparison, since both may have been moved or copied, or where it was given.

    A folder beside the comparison may have the same name by chance, so its digest decides.
    """
    places = (report.parent / path.name, path, report / path, report / path.name)
    held = [place for place in places if (place / _RESULT).is_file()]
    for place in held:
        result = RetrievalResult.load(place)
        if digest_of(result) == digest:
            return result
    if held:
        raise AnalysisError(
            f"{path if path in held else held[0]}, which changed since the comparison {report}",
            "the result that was compared",
            "run `probe compare` again",
        )
    raise AnalysisError(
        f"{report} compares {path}, which is not there",
        f"that folder with its {_RESULT}, as given or beside the comparison",
        "run the command from the folder where you compared, or run `probe compare` again",
    )


# ---- intervals of one direction ------------------------------------------------------------------------------


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
    sums: Float[np.ndarray, "*cell document"], sizes: np.ndarray
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "*cell"]]:
    """95 % interval of a share: Wilson's, with the effective sample size of the clustered sample.

    n_eff = p (1 - p) / variance, with the t quantile of D - 1 degrees of freedom, as compared by Franco, Little, Louis and Slud
    (2019), Comparative study of confidence intervals for proportions in complex sample surveys, J. Survey Statistics and Methodology
    7(3). Where nothing varies (p = 0 or 1) n_eff = n, so that a direction without a single hit has a width, which no bootstrap gives
    it; n_eff is never more than n. A mean over directions is no proportion of n sentences: its intervals are those of `Bootstrap`.

    Returns:
        Lower and upper ends, shares in 0..1.
    """
    total = sizes.sum()
    share, variance = clustered(sums, sizes)
    varies = variance > 0
    effective = np.minimum(np.where(varies, share * (1 - share) / np.where(varies, variance, 1), total), total)
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
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, len(sizes) - 1))


# ---- the payload ---------------------------------------------------------------------------------------------


def dashboard(run: Run, documents: str | Path | None = None) -> dict[str, Any]:
    """Everything the page's script needs, as JSON values; arrays as base64 of little-endian numbers.

    Args:
        run: what to show.
        documents: as in `find_documents`: None for the corpus's own grouping, `sentences`, or a file.

    The intervals of single directions are those of `proportion_interval` and `difference_interval`; those of means over directions
    the bootstrap's, with the draws and the seed that reports and figures have by default.

    Raises:
        AnalysisError: a file of documents that does not fit, or with a single document.
    """
    base, *given = run.results.values()
    first, *names = run.results
    reasons = [_difference_refused(first, base, name, other) for name, other in zip(names, given, strict=True)]
    others = [
        other if reason else _ordered(other, base.languages) for other, reason in zip(given, reasons, strict=True)
    ]
    results = [base, *others]
    bootstraps = _bootstraps(results, documents)
    own, paired = _intervals(results, bootstraps, [reason is None for reason in reasons])
    scores = _scores(run.reports)
    relations = {"all", *(each["directions"] for each in scores)}
    present = {name for ends in own for name in ends.means.names}
    return {
        "unit": UNIT,
        "draws": bootstraps[0].draws,
        "groups": {name: told for name, told in GROUPS.items() if name in present},
        "compared": run.compared,
        "results": [
            _result(name, result, ends, relations) for name, result, ends in zip(run.results, results, own, strict=True)
        ],
        "pairs": [
            {"refused": reason} if reason else ends.told("int16") for reason, ends in zip(reasons, paired, strict=True)
        ],
        "languages": _languages(results),
        "sets": _sets(results),
        "scores": scores,
        "chosen": _chosen(first, run.reports.values()),
    }


def _bootstraps(results: Sequence[RetrievalResult], given: str | Path | None) -> list[Bootstrap]:
    """One a result; results of the same documents share it."""
    made: list[Bootstrap] = []
    for result in results:
        found = find_documents(result.settings, result.rows, given)
        held = (each for each in made if each.documents.grouping == found.grouping)
        same = next((each for each in held if np.array_equal(each.documents.labels, found.labels)), None)
        made.append(same or Bootstrap.of(found))
    return made


def _difference_refused(base_name: str, base: RetrievalResult, name: str, other: RetrievalResult) -> str | None:
    """Why two results have no paired difference; None where they have: the rules are those of `compare`."""
    reason = check_alike(base_name, base, name, other)
    if reason is not None:
        return f"No difference: {reason.given}."
    return None if set(base.layers) & set(other.layers) else f"No difference: {base_name} and {name} share no layer."


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


@dataclass
class _Ends:
    """Intervals gathered layer by layer: of every cell, and of the means over groups with their values."""

    means: Means
    bootstrap: Bootstrap
    paired: bool
    layers: list[int] = field(default_factory=list)
    cells: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """(source, target) lower and upper ends, a layer each."""
    sums: list[np.ndarray] = field(default_factory=list)
    """(group, document), a layer each."""

    def add(self, layer: int, sums: Float[np.ndarray, "source target document"]) -> None:
        interval = difference_interval if self.paired else proportion_interval
        self.layers.append(layer)
        self.cells.append(interval(sums, self.bootstrap.documents.sizes))
        self.sums.append(self.means.sums(sums))

    def told(self, kind: str) -> dict[str, Any]:
        """For the page; the ends of the cells' intervals as integers of a kind."""
        low, high = np.stack(self.cells, axis=1)  # (layer, source, target) each
        sums, counted = np.stack(self.sums), self.means.directions
        value = sums.sum(axis=-1) / (self.bootstrap.sentences * counted)
        curves = value, *self.bootstrap.interval(sums, counted)  # (layer, group) each
        return {
            "layers": self.layers,
            "low": _packed(np.rint(low * UNIT), kind),
            "high": _packed(np.rint(high * UNIT), kind),
            "groups": {
                name: {
                    key: _packed(table[:, number], "float64")
                    for key, table in zip(("value", "low", "high"), curves, strict=True)
                }
                for number, name in enumerate(self.means.names)
            },
        }


def _intervals(
    results: Sequence[RetrievalResult], bootstraps: Sequence[Bootstrap], comparable: Sequence[bool]
) -> tuple[list[_Ends], list[_Ends]]:
    """Of each result, and of the differences of each result but the first to the first; one layer of hits in memory at a time."""
    means = [Means.of_groups(result.languages) for result in results]
    own = [_Ends(*each, paired=False) for each in zip(means, bootstraps, strict=True)]
    paired = [_Ends(means[0], bootstraps[0], paired=True) for _ in comparable]
    for layer in sorted({layer for result in results for layer in result.layers}):
        sums = [
            hit_sums(result, layer, bootstrap.documents).astype(np.float64) if layer in result.layers else None
            for result, bootstrap in zip(results, bootstraps, strict=True)
        ]
        for ends, counted in zip(own, sums, strict=True):
            if counted is not None:
                ends.add(layer, counted)
        for ends, counted, asked in zip(paired, sums[1:], comparable, strict=True):
            if asked and counted is not None and sums[0] is not None:
                ends.add(layer, counted - sums[0])
    return own, paired


def _result(name: str, result: RetrievalResult, ends: _Ends, relations: set[str]) -> dict[str, Any]:
    accuracies = Accuracies.of_result(result, name)
    kind = "uint16" if result.rows < 2**16 else "uint32"
    return {
        **ends.told("uint16"),
        "name": name,
        "languages": list(result.languages),
        "rows": result.rows,
        "grouping": ends.bootstrap.documents.grouping,
        "aggregate": result.aggregate(),
        "counts": _packed(np.stack([result.cells(layer).correct() for layer in accuracies.layers]), kind),
        "controls": {
            control: {
                "counts": _packed(cells.correct(), kind),
                "groups": ends.means.shares(result.accuracy(control)),
            }
            for control, cells in result.controls.items()
        },
        "means": _means(accuracies, relations),
        "tokens": dict(result.tokens),
    }


def _means(accuracies: Accuracies, relations: set[str]) -> dict[str, Any]:
    """Relation (its names expanded) -> (layer, language) accuracies; one to languages that the result lacks is left out."""
    return {
        relation: _packed(language_means(accuracies.values, accuracies.languages, relation), "float64")
        for relation in sorted(relations)
        if {*filter(None, relation.partition(":")[2].split(","))} <= {*accuracies.languages}
    }


def _chosen(name: str, reports: Iterable[Report]) -> int | None:
    """The best layer of a result by the report on its layers; None where there is none."""
    own = (each for each in reports if each.kind == "layers" and each.facts["result"] == name)
    return next((each.facts["best"] for each in own), None)


def metric_name(metric: str | None) -> str | None:
    """As papers write it, though a file may be called f1.csv; another metric's name is as given."""
    return _METRICS.get(metric.casefold(), metric) if metric else metric


def _scores(reports: Mapping[str, Report]) -> list[dict[str, Any]]:
    """The scores of each correlation; a name that several have is told apart by the report's folder."""
    told = {folder: _scores_of(report) for folder, report in reports.items() if report.kind == "correlation"}
    names = [each["name"] for each in told.values()]
    return [
        each | {"label": each["name"] if names.count(each["name"]) == 1 else f"{each['name']} ({folder})"}
        for folder, each in told.items()
    ]


def _scores_of(report: Report) -> dict[str, Any]:
    """What a correlation report says of scores: group -> language -> score, and where they are from."""
    points = report.frame("points").drop_duplicates(["group", "language"])
    scores = report.facts["scores"]
    return {
        "name": scores["name"],
        "metric": metric_name(scores["metric"]) or "score",
        "source": scores["source"],
        "of": report.facts["result"],
        "directions": report.facts["directions"],
        "groups": {
            str(group): dict(zip(rows["language"], rows["score"].astype(float), strict=True))
            for group, rows in points.groupby("group", sort=False)
        },
    }


def _languages(results: Sequence[RetrievalResult]) -> dict[str, dict[str, Any]]:
    """Code -> what the page tells of a language; facts that are not known are null."""
    told = {}
    for code in dict.fromkeys(code for result in results for code in result.languages):
        known = language(code)
        if known is None:
            told[code] = {"name": code, "short": code, "autonym": None, "lang": "und", "script": script_of(code) or None,
                          "family": None, "level": None}  # fmt: skip
        else:
            told[code] = {
                "name": known.name,
                "short": short_name(code),
                "autonym": known.autonym,
                "lang": f"{known.iso639_1 or known.iso639_3}-{known.script}",
                "script": script_of(code),
                "family": known.family,
                "level": known.level,
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
