"""Tables of reports on a screen of any width, and piped to a file: no column is lost without a word."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from analysis.report import Report, Table
from probe import cli
from probe.tables import report_tables

NAMES = tuple(f"column{number}" for number in range(20))


@pytest.fixture
def report() -> Report:
    """Wider than a terminal, with a text that wraps."""
    frame = pd.DataFrame([(f"text {'words ' * 8}{row}", *(row + 0.125 for _ in NAMES)) for row in range(3)])
    frame.columns = ["text", *NAMES]
    return Report("audit", "Wide", {"wide": Table(frame, "A caption. " * 20)}, ("A remark. " * 20,))


def printed(report: Report, width: int, saved: bool = True) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(report_tables(report, saved))
    return stream.getvalue()


@pytest.mark.parametrize("width", [30, 60, 80, 120, 190])
def test_columns_that_do_not_fit_are_counted(report: Report, width: int) -> None:
    shown = printed(report, width)
    assert max(map(len, shown.splitlines())) <= width
    there = [name for name in NAMES if name in shown.split()]
    assert tuple(there) == NAMES[: len(there)]
    assert shown.count("2.125") == len(there)
    left = len(NAMES) - len(there)
    assert f"{left} more column{'s' * (left > 1)} in wide.csv\n" in shown
    assert shown.count("words") == 3 * 8


def test_a_report_without_a_folder_says_how_to_see_the_others(report: Report) -> None:
    assert " in wide.csv (with --out)" in printed(report, 80, saved=False)


def test_all_columns_are_shown_where_they_fit(report: Report) -> None:
    shown = printed(report, 400)
    assert "more column" not in shown
    assert shown.count("2.125") == len(NAMES)


def test_elsewhere_than_on_a_terminal_nothing_is_lost(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    cli._finish_report(report, None, as_json=False)
    shown = capsys.readouterr().out
    assert "more column" not in shown
    for text in (
        *NAMES,
        "text " + "words " * 8 + "2",
        report.remarks[0].strip(),
        report.tables["wide"].caption.strip(),
    ):
        assert text in shown
