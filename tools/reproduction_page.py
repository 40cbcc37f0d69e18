"""The results in docs/reproduction.md, from what `probe reproduce` left in OUT: of each recipe its table, differences, figure and time.

    python tools/reproduction_page.py OUT docs/reproduction.md

Everything between the page's two marks is replaced; figures go to images/reproduction beside the page.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from align.card import table
from analysis.report import Report
from data_manifests.reproduction import reproduction, reproduction_names

BEGIN, END = "<!-- results, by tools/reproduction_page.py -->", "<!-- end of the results -->"
ORDER = (
    "fig1a", "fig1b", "fig3", "fig4", "table2-slots", "table2-mt", "table3", "table4", "table5", "table6", "table7", "table8",
    "table9", "table13", "temperature", "zero-shot", "published-adapters",
)  # fmt: skip
SHOWN = ("curves.png", "seed1-correlation-scatter-*.png", "fig*.png", "published-adapters.png")
"""Names of the figures that are shown: of one seed, where each has its own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("page", type=Path)
    given = parser.parse_args()
    before, _, rest = given.page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    told = "\n".join(sections(given.out, given.page.parent / "images" / "reproduction"))
    given.page.write_text(f"{before}{BEGIN}\n\n{told}\n{END}{after}", encoding="utf-8")


def sections(out: Path, images: Path) -> Iterator[str]:
    """What all recipes were made from and how long each took; then each that has been run, in the paper's order."""
    assert set(ORDER) == set(reproduction_names())
    reports = {name: Report.load(out / name) for name in ORDER if (out / name / "report.json").is_file()}
    if not reports:
        return
    models = dict.fromkeys(f"{each.facts['model']}, constants `{each.facts['constants']}`" for each in reports.values())
    data = dict.fromkeys(told for each in reports.values() for told in each.facts["data"].values())
    yield f"Ours: {'; '.join(models)}. Data: {'; '.join(data)}.\n"
    yield markdown(["recipe", "seeds", "minutes", "of shared steps"], list(costs(out, reports)))
    for name, report in reports.items():
        yield f"### {report.title}\n"
        yield beside(report.frame("beside"), report.tables["beside"].digits, list(reproduction(name)["columns"]))
        if "changes" in report.tables and len(report.tables["changes"].shown()):
            yield report.tables["changes"].markdown()
        for figure in sorted(each for shown in SHOWN for each in (out / name / "figures").glob(shown)):
            images.mkdir(parents=True, exist_ok=True)
            kept = images / (figure.name if figure.stem == name else f"{name}-{figure.name}")
            shutil.copyfile(figure, kept)
            yield f"![{report.title}](images/reproduction/{kept.name})\n"
        if report.remarks:
            yield "".join(f"* {remark}\n" for remark in report.remarks)


def costs(out: Path, reports: Mapping[str, Report]) -> Iterator[list[str]]:
    """Of each recipe: its own steps, and those that it shares with one above."""
    seconds = dict(times(out / "steps"))
    done: set[str] = set()
    for name, report in reports.items():
        steps = set(report.facts["steps"].values())
        own, shared = (sum(seconds.get(step, 0.0) for step in part) for part in (steps - done, steps & done))
        done |= steps
        seeds = str(len(report.facts["seeds"])) if "runs" in report.tables else "nothing trained"
        yield [f"`{name}`", seeds, f"{own / 60:.0f}", f"{shared / 60:.0f}"]


def times(steps: Path) -> Iterator[tuple[str, float]]:
    """Digest and seconds of each finished step."""
    for path in steps.glob("*.json"):
        noted = json.loads(path.read_text(encoding="utf-8"))
        yield noted["digest"], noted["seconds"]


def beside(frame: pd.DataFrame, digits: int, order: Sequence[str] = ()) -> str:
    """Ours over the paper's, a system a pair of rows; a recipe with a single system has a row a quantity.

    What no run has measured, such as COMET without its environment, is left out.

    Args:
        order: of quantities; others follow.
    """
    frame = frame[frame.groupby("quantity")["ours"].transform("count") > 0]
    systems, found = list(dict.fromkeys(frame["system"])), dict.fromkeys(frame["quantity"])
    quantities = [each for each in dict.fromkeys([*order, *found]) if each in found]
    cells = {(row["system"], row["quantity"]): row for _, row in frame.iterrows()}

    def own(system: str, quantity: str) -> str:
        return ours(cells.get((system, quantity), {}), digits)

    def theirs(system: str, quantity: str) -> str:
        return papers(cells.get((system, quantity), {}), digits)

    if len(systems) == 1:
        rows = [[quantity, own(systems[0], quantity), theirs(systems[0], quantity)] for quantity in quantities]
        return markdown(["", "ours", "paper"], rows)
    rows = []
    for system in systems:
        rows.append([system, *(own(system, quantity) for quantity in quantities)])
        if any(said := [theirs(system, quantity) for quantity in quantities]):
            rows.append(["*paper*", *(f"*{each}*" if each else "" for each in said)])
    return markdown(["", *quantities], rows)


def ours(cell: Mapping[str, object], digits: int) -> str:
    """The mean, with its interval where there is one."""
    value, low, high = (_number(cell, name, digits) for name in ("ours", "low", "high"))
    return f"{value} ({low} to {high})" if low else value


def papers(cell: Mapping[str, object], digits: int) -> str:
    said = cell.get("says")
    return _number(cell, "paper", digits) or (said if isinstance(said, str) else "")


def _number(cell: Mapping[str, object], name: str, digits: int) -> str:
    value = cell.get(name)
    return f"{value:.{digits}f}" if isinstance(value, float) and np.isfinite(value) else ""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return table([dict(zip(head, row, strict=True)) for row in rows]) + "\n"


if __name__ == "__main__":
    main()
