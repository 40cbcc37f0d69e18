"""Every figure that results and reports allow, written into one folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.accuracies import AGGREGATE, MIDDLE, Accuracies, labelled, layer_number, middle_layer
from analysis.compare import check_alike
from analysis.curves import curve_of
from analysis.dashboard import metric_name
from analysis.orders import best_layer, by_cluster, by_family, directions, families, group_means, language_layers
from analysis.report import Report, refuse_other_folder
from figures import heatmap
from figures.correlation import by_layer
from figures.curves import curves
from figures.gains import gains
from figures.measures import measures
from figures.save import save
from figures.scatter import scatter
from figures.tuned import tuned
from probe.errors import AnalysisError
from probe.results import RetrievalResult

ORDERS = ("family", "cluster")
Frames: TypeAlias = pd.DataFrame | Mapping[str, pd.DataFrame]


class Drawing(NamedTuple):
    """A figure that can be drawn, the numbers in it, and its file's name without a suffix."""

    name: str
    draw: Callable[[], Figure]
    frames: Frames


def draw(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    names: Sequence[str] | None = None,
    layer: str | None = None,
    order: str = "family",
    documents: str | Path | None = None,
    draws: int = 10_000,
    seed: int = 0,
    marks: Mapping[str, Sequence[int]] | None = None,
) -> list[Path]:
    """Draw what the inputs allow: PDF, PNG and CSV of each figure.

    Results share `curves` and `curves-script` and have a heatmap of directions and one of languages by layer each. A
    comparison gives curves over their differences, gains by group, and heatmaps beside their difference; a correlation a
    scatter, and r by layer where it has several; a choice of layers its curves; measures a panel each.

    Args:
        inputs: folders of results and reports, and bare accuracy tables (CSV), in any mixture.
        out: the folder to write into.
        names: what to call the inputs, one each; None: the names of their folders or files.
        layer: of heatmaps, gains and scatters: a number, `middle`, or `aggregate`. None: the best layer of a result, the base's
            best of a comparison, the one shown of a correlation.
        order: of languages in heatmaps: by `family`, or by `cluster`.
        documents, draws, seed: of the curves' intervals, as in `analysis.curves`.
        marks: model of a comparison -> the blocks that its training aligned, marked on the comparison's curves.

    Returns:
        The files that were written.

    Raises:
        AnalysisError: an input that is none of these, results that do not measure the same thing (the rules are those of `compare`,
            as far as a bare table tells), names that are not distinct, a layer that an input lacks, a mark of a model that no
            comparison holds, an output folder that holds something else; nothing is written then.
        RetrievalError: a damaged result, or a folder that cannot be written.
    """
    if order not in ORDERS:
        raise AnalysisError(f"--order {order}", " or ".join(ORDERS), "give one of them")
    if not inputs:
        raise AnalysisError("nothing to draw", "a result or a report", "give the folder of one")
    refuse_other_folder(Path(out), figures=True)
    loaded = {label: _load(Path(path), label) for label, path in zip(labelled(inputs, names), inputs, strict=True)}
    results = {name: found for name, found in loaded.items() if not isinstance(found, Report)}
    reports = {name: found for name, found in loaded.items() if isinstance(found, Report)}
    _check_marks(marks or {}, reports)
    _check_alike(results)
    drawings = [
        *(drawing for name, found in results.items() for drawing in _of_result(name, found, layer, order)),
        *(
            drawing
            for name, report in reports.items()
            for drawing in _of_report(name, report, layer, order, marks or {})
        ),
        *_shared_curves(results, documents, draws, seed),
    ]
    files = [_slug(drawing.name) for drawing in drawings]
    twice = next((file for file in files if [each.casefold() for each in files].count(file.casefold()) > 1), None)
    if twice is not None:
        raise AnalysisError(
            f"two figures named {twice}", "a name of its own for each input and model", "give other --names"
        )
    figures = [drawing.draw() for drawing in drawings]
    return [
        path
        for drawing, figure, file in zip(drawings, figures, files, strict=True)
        for path in save(figure, drawing.frames, Path(out) / file)
    ]


def _check_alike(results: Mapping[str, RetrievalResult | Accuracies]) -> None:
    """Results share the axes of their curves; every pair is checked, since a bare table says little of its own making."""
    for one, other in combinations(results, 2):
        if (reason := check_alike(one, results[one], other, results[other])) is not None:
            raise AnalysisError(*reason)


def _check_marks(marks: Mapping[str, Sequence[int]], reports: Mapping[str, Report]) -> None:
    compared = {
        other["name"] for report in reports.values() if report.kind == "comparison" for other in report.facts["others"]
    }
    unknown = [name for name in marks if name not in compared]
    if unknown:
        raise AnalysisError(
            f"a mark for {unknown[0]}, which no comparison holds",
            f"one of {', '.join(sorted(compared)) or 'the models of a comparison'}",
            "give the name that the comparison has",
        )


def _load(path: Path, name: str) -> RetrievalResult | Accuracies | Report:
    if (path / "report.json").is_file():
        return Report.load(path)
    if (path / "summary.json").is_file():
        return RetrievalResult.load(path)
    if path.is_file():
        return replace(Accuracies.read(path), name=name)
    raise AnalysisError(
        f"{path} is no result and no report",
        "a folder with summary.json or report.json, or a CSV file of accuracies",
        "give what `probe retrieve`, `correlate`, `compare`, `layers` or `measure` wrote",
    )


def _slug(name: str) -> str:
    """A file's name."""
    return re.sub(r"[^\w.+]+", "-", name).strip("-.") or "unnamed"


# ---- results -------------------------------------------------------------------------------------------------


def _shared_curves(
    results: Mapping[str, RetrievalResult | Accuracies], documents: str | Path | None, draws: int, seed: int
) -> Iterator[Drawing]:
    """All results in one figure; over relative depth where their models differ in depth."""
    if not results:
        return
    frame = pd.concat(
        [
            group_means(found) if isinstance(found, Accuracies) else curve_of(name, found, documents, draws, seed)
            for name, found in results.items()
        ],
        ignore_index=True,
    )
    depths = {
        name: found.depth if isinstance(found, Accuracies) else found.settings.get("depth")
        for name, found in results.items()
    }
    known = {name: depth for name, depth in depths.items() if depth}
    relative = len(known) == len(depths) and len(set(known.values())) > 1
    yield from _curve_figures("", frame, known if relative else None)


def _curve_figures(prefix: str, frame: pd.DataFrame, depths: Mapping[str, int] | None = None) -> Iterator[Drawing]:
    for name, groups in (("curves", ("mean", "low")), ("curves-script", ("same_script", "cross_script"))):
        drawn = frame[frame["group"].isin(groups)].dropna(subset="accuracy")
        if len(drawn):
            yield Drawing(f"{prefix}{name}", partial(curves, drawn, groups, depths), drawn)


def _of_result(name: str, found: RetrievalResult | Accuracies, layer: str | None, order: str) -> Iterator[Drawing]:
    accuracies = found if isinstance(found, Accuracies) else Accuracies.of_result(found, name)
    chosen, told, file = _place(accuracies, layer)
    ordered, parted = _ordered(order, accuracies.languages, accuracies.at(chosen))
    frame = directions(accuracies, chosen)
    whole = partial(heatmap.heatmap, frame, ordered, f"{name}, {told}", parted)
    yield Drawing(f"{name}-heatmap-{file}", whole, frame)
    means = language_layers(accuracies, ordered)
    yield Drawing(f"{name}-languages-by-layer", partial(heatmap.layers, means, ordered, name, parted), means)


def _place(accuracies: Accuracies, layer: str | None) -> tuple[int | str, str, str]:
    """The layer, what a title calls it, and what a file's name calls it."""
    if layer == AGGREGATE:
        return AGGREGATE, "mean of even layers", AGGREGATE
    if layer is None:
        best = best_layer(accuracies)
        return best, f"layer {best} (its best)", f"layer{best}"
    number = accuracies.middle() if layer == MIDDLE else _number(layer)
    return number, f"layer {number}", f"layer{number}"


def _number(layer: str) -> int:
    number = layer_number(layer)
    if number is None:
        raise AnalysisError(f"--layer {layer}", "a layer's number, middle or aggregate", "give another --layer")
    return number


def _ordered(order: str, codes: Sequence[str], table: np.ndarray) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """The languages as heatmaps show them, and their families where these stand together."""
    return (by_family(codes), families(codes)) if order == "family" else (by_cluster(table, codes), None)


# ---- reports -------------------------------------------------------------------------------------------------


def _of_report(
    name: str, report: Report, layer: str | None, order: str, marks: Mapping[str, Sequence[int]]
) -> Iterator[Drawing]:
    if report.kind == "correlation":
        yield from _of_correlation(name, report, layer)
    elif report.kind == "comparison":
        yield from _of_comparison(name, report, layer, order, marks)
    elif report.kind == "layers":
        yield from _curve_figures(f"{name}-", report.frame("curves"))
    elif report.kind == "measures":
        table = report.tables["layers"]
        panels = partial(measures, table.frame, table.columns, table.percent)
        yield Drawing(f"{name}-measures", panels, table.frame)
    else:
        raise AnalysisError(
            f"{name}, a report of kind {report.kind}, has no figure",
            "one of kind correlation, comparison, layers or measures",
            "leave it out",
        )


def _of_correlation(name: str, report: Report, layer: str | None) -> Iterator[Drawing]:
    """A scatter at one layer and one of the `char` control; r by layer where there are several."""
    frames = {part: report.frame(part).astype({"layer": str}) for part in ("points", "band", "correlation")}
    scores, relation = report.facts["scores"], report.facts["relation"]
    measured = " ".join(filter(None, (scores["task"], metric_name(scores["metric"])))) or scores["name"]
    directed = "" if relation == "all" else f" ({relation})"
    held = list(dict.fromkeys(frames["points"]["layer"]))
    shown = str(report.tables["points"].where["layer"]) if layer is None else _held(name, layer, held, report)
    for place in dict.fromkeys([shown, *(each for each in held if each == "char")]):
        own = {part: table[table["layer"] == place] for part, table in frames.items()}
        number = report.facts["middle"] if place == MIDDLE else place
        told = {AGGREGATE: "mean accuracy of even layers", "char": "accuracy of the char control"}.get(
            place, f"retrieval accuracy at layer {number}"
        )
        file = place if place in (AGGREGATE, "char") else f"layer{number}"
        dots = partial(scatter, own["points"], own["band"], own["correlation"], told + directed, measured)
        yield Drawing(f"{name}-scatter-{file}", dots, own)
    several = frames["correlation"]["layer"].str.isdigit()
    if frames["correlation"].loc[several, "layer"].nunique() > 1:
        yield Drawing(f"{name}-by-layer", partial(by_layer, frames["correlation"]), frames["correlation"])


def _held(name: str, layer: str, held: Sequence[str], report: Report) -> str:
    """The report's own word for a layer: `middle` may stand for its number, and the number for it."""
    middle = str(report.facts["middle"])
    words = [layer, *([middle] if layer == MIDDLE else []), *([MIDDLE] if layer == middle else [])]
    found = next((word for word in words if word in held), None)
    if found is None:
        raise AnalysisError(
            f"layer {layer}, which {name} does not have",
            f"one of {', '.join(held)}",
            "give another --layer, or run `probe correlate` with that one",
        )
    return found


def _of_comparison(
    name: str, report: Report, layer: str | None, order: str, marks: Mapping[str, Sequence[int]]
) -> Iterator[Drawing]:
    """Curves over their differences, gains at one layer, and a heatmap beside the base's for each model."""
    table, controls, base = report.frame("layers"), report.frame("controls"), report.facts["base"]["name"]
    for group in ("mean", "low"):
        own = table[table["group"] == group].dropna(subset=["base", "other"])
        if own["layer"].nunique() > 1:
            level = controls[controls["group"] == group]
            trained = {model: marks[model] for model in own["model"].unique() if model in marks}
            blocks = [(model, block) for model, aligned in trained.items() for block in aligned]
            marked = {"marks": pd.DataFrame(blocks, columns=["model", "block"])} if blocks else {}
            yield Drawing(
                f"{name}-curves{'' if group == 'mean' else f'-{group}'}",
                partial(tuned, own, level, base, group, trained),
                {"layers": own, "controls": level, **marked},
            )
    chosen = _compared(name, report, layer)
    yield Drawing(f"{name}-gains-layer{chosen}", partial(gains, table, chosen), table[table["layer"] == chosen])
    cells = report.frame("directions")
    for model, own in cells[cells["layer"] == chosen].groupby("model", sort=False):
        square = own.pivot(index="src", columns="tgt", values="base")
        ordered, parted = _ordered(order, list(square.index), square.to_numpy())
        maps = partial(heatmap.difference, own, ordered, base, str(model), f"layer {chosen}", parted)
        yield Drawing(f"{name}-difference-{model}-layer{chosen}", maps, own)


def _compared(name: str, report: Report, layer: str | None) -> int:
    depth = report.facts["base"]["depth"]
    if layer is None:
        return int(report.facts["layer"])
    if layer == AGGREGATE or (layer == MIDDLE and not depth):
        raise AnalysisError(f"--layer {layer} of the comparison {name}", "a layer's number", "give another --layer")
    number = middle_layer(depth) if layer == MIDDLE else _number(layer)
    if number not in report.facts["layers"]:
        raise AnalysisError(
            f"layer {number}, which {name} does not have",
            f"one of {', '.join(map(str, report.facts['layers']))}",
            "give another --layer, or run `probe compare` with that one",
        )
    return number
