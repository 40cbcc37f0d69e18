"""Tables for people: percent, one decimal, at most 80 columns wide."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_COLUMNS = (
    ("mean", "all"),
    ("same_script", "same\nscript"),
    ("cross_script", "cross\nscript"),
    ("from_english", "from\nEnglish"),
    ("to_english", "to\nEnglish"),
    ("high", "high\nresource"),
    ("low", "low\nresource"),
    ("mexa_english", "MEXA\nEnglish"),
)
"""Keys of a summary's rows, and headings broken where they should be, so that no narrow terminal breaks them elsewhere."""

_SCREEN_ROWS = 40
"""Of a longer table the screen says only where it is."""
_WHOLE = 16
"""Characters of a cell that is not wrapped."""
_NUMBER = re.compile(r"(< )?[+-]?[\d.,]*")
"""A cell that stands to the right; also an empty one."""
_UNLIMITED = 2**16
"""Columns of a page on which a table can be measured as it is."""


def retrieval_table(summary: Mapping[str, Any]) -> Group:
    """The layer curve with the controls below it, between a heading and remarks.

    These stand outside the table, since rich would wrap them at its width, which may be two columns.
    """
    return Group(Text(_title(summary), style="bold"), _curve(summary), Text(_remarks(summary)))


def report_tables(report: Any, saved: bool = True) -> Group:
    """A report of `analysis`: its title, the tables short enough for a screen, and its remarks.

    Args:
        saved: whether the report's files are there, to which a table that does not fit refers.
    """
    where = "" if saved else " (with --out)"
    parts: list[Any] = [Text(report.title, style="bold")]
    for name, table in report.tables.items():
        shown = table.shown()
        if 0 < len(shown) <= _SCREEN_ROWS:
            parts += [Text(f"\n{table.caption}"), _Fitting(shown, f"{name}.csv{where}")]
        elif len(shown):
            parts.append(Text(f"{name}.csv{where}: {len(shown):,} rows. {table.caption}"))
    return Group(*parts, Text(), *(Text(f"* {remark}") for remark in report.remarks))


def score_table(summary: Mapping[str, Any]) -> Group:
    """Scores of a task: a row a language, the main metric with its interval first; below, means and notes."""
    main = summary["main"]
    metrics = list(dict.fromkeys([main, *(each["metric"] for each in summary["scores"])]))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("language", no_wrap=True)
    for metric in metrics:
        heading = f"{metric}\n(95 % interval)" if metric == main else metric.replace("-", "\n", 1)
        table.add_column(heading, justify="right", no_wrap=True)
    rows: dict[str, dict[str, str]] = {}
    for each in summary["scores"]:
        drawn = each["metric"] == main and each["low"] is not None
        told = f" ({each['low']:.1f} to {each['high']:.1f})" if drawn else ""
        rows.setdefault(each["language"], {})[each["metric"]] = f"{each['value']:.1f}{told}"
    for name, cells in rows.items():
        if name == "(mean)":
            table.add_section()
        table.add_row(name, *(cells.get(metric, "-") for metric in metrics))
    counted = f"{sum(each['rows'] for each in summary['counts'].values()):,} rows"
    return Group(
        Text(f"{summary['task']}: {counted}", style="bold"), table, *(Text(f"* {note}") for note in summary["notes"])
    )


@dataclass(frozen=True)
class _Fitting:
    """As many columns of a table as the console is wide, from the left, and where the others are: rich would drop them without a word."""

    shown: Any
    """Data frame of text."""
    file: str
    """That holds all columns."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        kept = len(self.shown.columns)
        while kept > 1 and self._width(kept, console, options) > options.max_width:
            kept -= 1
        yield _report_table(self.shown.iloc[:, :kept])
        if left := len(self.shown.columns) - kept:
            yield Text(f"{left} more column{'s' * (left > 1)} in {self.file}")

    def _width(self, kept: int, console: Console, options: ConsoleOptions) -> int:
        """The least that the first columns need."""
        table = _report_table(self.shown.iloc[:, :kept])
        return Measurement.get(console, options.update(width=_UNLIMITED), table).minimum


def _report_table(shown: Any) -> Table:
    """Numbers and words stay whole; only headings and long texts are wrapped."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for heading in shown.columns:
        numeric = all(_NUMBER.fullmatch(cell) for cell in shown[heading])
        longest = max(map(len, (*heading.split(), *shown[heading])))
        whole = numeric or longest <= _WHOLE
        table.add_column(heading, justify="right" if numeric else "left", min_width=longest if whole else None)
    for row in shown.itertuples(index=False):
        table.add_row(*row)
    return table


def _curve(summary: Mapping[str, Any]) -> Table:
    rows = [*summary["layers"], *summary["controls"].values()]
    shown = [(key, heading) for key, heading in _COLUMNS if any(row[key] is not None for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column("layer", justify="right", no_wrap=True)
    for _, heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in summary["layers"]:
        best = row["layer"] == summary["best_layer"] and len(summary["layers"]) > 1
        table.add_row(str(row["layer"]), *(_percent(row[key]) for key, _ in shown), style="bold" if best else None)
    if summary["controls"]:
        table.add_section()
    for name, row in summary["controls"].items():
        table.add_row(name, *(_percent(row[key]) for key, _ in shown), style="dim")
    return table


def _title(summary: Mapping[str, Any]) -> str:
    size = f"{len(summary['languages'])} languages, {summary['directions']:,} directions, {summary['rows']:,} sentences"
    made = summary["settings"]
    centred = "vectors centred by language, " if made.get("centre") else ""
    return f"Retrieval accuracy in %: {size}\n{centred}{made['margin']} margin, k = {made['k']}, {made['backend']} on {made['device']}"


def _remarks(summary: Mapping[str, Any]) -> str:
    lines = [f"Chance: {_percent(1 / summary['rows'])}."]
    if len(summary["layers"]) > 1:
        lines.append(f"Best layer: {summary['best_layer']}.")
    if summary["aggregate"] is not None:
        lines.append(f"Aggregate (mean of the even layers, 0 left out): {_percent(summary['aggregate'])}.")
    if summary["controls"]:
        lines.append("char, length: what surface form alone retrieves from the same sentences.")
        best, char = (max(row["mean"] for row in rows) for rows in (summary["layers"], [summary["controls"]["char"]]))
        if char >= best:
            lines.append("No layer is above the char control: surface form alone retrieves more.")
    else:
        lines.append(f"No controls ({summary['settings']['controls_missing']}): surface form alone cannot be judged.")
    if summary["duplicate_rows"]:
        repeated = ", ".join(f"{code} {count}" for code, count in summary["duplicate_rows"].items())
        lines.append(f"Warning: rows that repeat an earlier one, so cannot all be found: {repeated}.")
    if summary["nonpositive_denominators"]:
        candidates = summary["directions"] * summary["rows"] * summary["settings"]["k"]
        counts = [f"{count:,} at layer {layer}" for layer, count in summary["nonpositive_denominators"].items()]
        lines.append(
            f"Warning: a ratio means little where its denominator is zero or less: {', '.join(counts)} (of {candidates:,} candidates each); --margin distance has none."
        )
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
