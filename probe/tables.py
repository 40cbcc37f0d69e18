"""Tables for people: percent, one decimal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

_COLUMNS = (
    ("mean", "all"),
    ("same_script", "same script"),
    ("cross_script", "cross script"),
    ("from_english", "en->x"),
    ("to_english", "x->en"),
    ("high", "high res."),
    ("low", "low res."),
    ("mexa_english", "MEXA en"),
)


def retrieval_table(summary: Mapping[str, Any]) -> Table:
    """The layer curve with the controls below it."""
    shown = [(key, title) for key, title in _COLUMNS if any(row[key] is not None for row in summary["layers"])]
    title = f"Retrieval accuracy (%), {len(summary['languages'])} languages, {summary['directions']:,} directions, {summary['rows']} sentences, {summary['margin']} margin, k = {summary['k']}"
    table = Table(title=title, title_justify="left", caption_justify="left", caption=_caption(summary))
    table.add_column("layer", justify="right")
    for _, heading in shown:
        table.add_column(heading, justify="right")
    for row in summary["layers"]:
        best = row["layer"] == summary["best_layer"] and len(summary["layers"]) > 1
        table.add_row(str(row["layer"]), *(_percent(row[key]) for key, _ in shown), style="bold" if best else None)
    if summary["controls"]:
        table.add_section()
    for name, row in summary["controls"].items():
        table.add_row(name, *(_percent(row[key]) for key, _ in shown), style="dim")
    return table


def _caption(summary: Mapping[str, Any]) -> str:
    lines = []
    if summary["aggregate"] is not None:
        lines.append(
            f"Aggregate (even layers but 0): {_percent(summary['aggregate'])} %. Best layer: {summary['best_layer']}."
        )
    if summary["controls"]:
        lines.append("char, length: what surface form alone retrieves from the same sentences.")
    else:
        lines.append("No controls: these vectors carry no text, so surface form alone cannot be judged.")
    if summary["duplicate_rows"]:
        repeated = ", ".join(f"{code} {count}" for code, count in summary["duplicate_rows"].items())
        lines.append(f"Warning: rows that repeat an earlier one, so cannot all be found: {repeated}.")
    if summary["nonpositive_denominators"]:
        layers = ", ".join(f"layer {layer} {count}" for layer, count in summary["nonpositive_denominators"].items())
        lines.append(f"Warning: margins with a denominator of zero or less: {layers}.")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
