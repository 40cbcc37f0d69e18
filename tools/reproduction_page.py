"""The results in docs/reproduction.md, from what `probe reproduce` left in OUT: of each recipe its table, differences, figure and time.

    python tools/reproduction_page.py OUT docs/reproduction.md

Everything between the page's two marks is replaced; figures go to images/reproduction beside the page.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.report import Report
from data_manifests.reproduction import reproduction_names

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
    """Of each recipe that has been run, in the paper's order."""
    seconds = dict(times(out / "steps"))
    assert set(ORDER) == set(reproduction_names())
    done: set[str] = set()
    for name in ORDER:
        if not (out / name / "report.json").is_file():
            continue
        report = Report.load(out / name)
        steps = set(report.facts["steps"].values())
        own = sum(seconds.get(step, 0.0) for step in steps - done)
        shared = sum(seconds.get(step, 0.0) for step in steps & done)
        done |= steps
        yield f"### {report.title}\n"
        yield f"`probe reproduce {name} --seeds {len(report.facts['seeds'])}`: {told_time(own, shared)}. {data(report)}\n"
        yield beside(report.frame("beside"), report.tables["beside"].digits)
        if "changes" in report.tables and len(report.tables["changes"].shown()):
            yield report.tables["changes"].markdown()
        for figure in sorted(each for shown in SHOWN for each in (out / name / "figures").glob(shown)):
            images.mkdir(parents=True, exist_ok=True)
            kept = images / (figure.name if figure.stem == name else f"{name}-{figure.name}")
            shutil.copyfile(figure, kept)
            yield f"![{report.title}](images/reproduction/{kept.name})\n"
        yield "".join(f"* {remark}\n" for remark in report.remarks)


def times(steps: Path) -> Iterator[tuple[str, float]]:
    """Digest and seconds of each finished step."""
    for path in steps.glob("*.json"):
        noted = json.loads(path.read_text(encoding="utf-8"))
        yield noted["digest"], noted["seconds"]


def told_time(own: float, shared: float) -> str:
    beside_others = f", and {shared / 60:.0f} of steps that it shares with recipes above" if shared else ""
    return f"{own / 60:.0f} minutes{beside_others}"


def data(report: Report) -> str:
    return f"Data: {'; '.join(report.facts['data'].values())}."


def beside(frame: pd.DataFrame, digits: int) -> str:
    """Ours over the paper's, a system a pair of rows; a recipe with a single system has a row a quantity."""
    systems, quantities = list(dict.fromkeys(frame["system"])), list(dict.fromkeys(frame["quantity"]))
    cells = {(row["system"], row["quantity"]): row for _, row in frame.iterrows()}

    def own(system: str, quantity: str) -> str:
        return ours(cells.get((system, quantity), {}), digits)

    def theirs(system: str, quantity: str) -> str:
        return papers(cells.get((system, quantity), {}), digits)

    if len(systems) == 1:
        rows = [[quantity, own(systems[0], quantity), theirs(systems[0], quantity)] for quantity in quantities]
        return table(["", "ours", "paper"], rows)
    rows = []
    for system in systems:
        rows.append([system, *(own(system, quantity) for quantity in quantities)])
        if any(said := [theirs(system, quantity) for quantity in quantities]):
            rows.append(["*paper*", *(f"*{each}*" if each else "" for each in said)])
    return table(["", *quantities], rows)


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


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
