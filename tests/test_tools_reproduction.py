"""The results page: ours over the paper's, times of shared steps once, and nothing but the part between its marks changed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from reproduction_page import BEGIN, END, beside, sections

from analysis.report import Report, Table

ROWS = pd.DataFrame(
    {
        "system": ["base", "align", "align"], "quantity": ["f1", "f1", "change"], "ours": [1.0, 2.25, 1.25], "low": [None, 2.0, None],
        "high": [None, 2.5, None], "paper": [60.2, 61.7, None], "says": [None, None, "about 0"],
    }
)  # fmt: skip


def test_the_papers_row_stands_below_ours() -> None:
    assert beside(ROWS, 1).splitlines() == [
        "|  | f1 | change |",
        "| --- | --- | --- |",
        "| base | 1.0 |  |",
        "| *paper* | *60.2* |  |",
        "| align | 2.2 (2.0 to 2.5) | 1.2 |",
        "| *paper* | *61.7* | *about 0* |",
    ]
    unmeasured = ROWS.iloc[:1].assign(quantity="comet", ours=None, paper=81.5)
    assert beside(pd.concat([ROWS, unmeasured]), 1) == beside(ROWS, 1)
    assert beside(ROWS[ROWS["system"] == "align"], 1).splitlines()[2:] == [
        "| f1 | 2.2 (2.0 to 2.5) | 61.7 |",
        "| change | 1.2 | about 0 |",
    ]


def test_a_step_of_two_recipes_is_timed_once_and_figures_are_copied(tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    for digest, seconds in (("one", 120.0), ("two", 300.0)):
        (tmp_path / "steps" / f"{digest}.json").write_text(json.dumps({"digest": digest, "seconds": seconds}))
    for name, steps in (("fig4", {"a": "one"}), ("table2-slots", {"a": "one", "b": "two"})):
        facts = {
            "steps": steps,
            "seeds": [1],
            "data": {"massive": "MASSIVE"},
            "model": "builtin:lab",
            "constants": "small",
        }
        tables = {"beside": Table(ROWS, "", digits=1)} | ({"runs": Table(ROWS, "")} if name == "fig4" else {})
        Report("reproduction", name, tables, ("A remark.",), facts).save(tmp_path / name)
    (tmp_path / "fig4" / "figures").mkdir()
    (tmp_path / "fig4" / "figures" / "fig4.png").touch()
    told = "\n".join(sections(tmp_path, tmp_path / "images"))
    assert told.startswith("Ours: builtin:lab, constants `small`. Data: MASSIVE.\n")
    assert "| `fig4` | 1 | 2 | 0 |\n| `table2-slots` | nothing trained | 5 | 2 |\n" in told
    assert "![fig4](images/reproduction/fig4.png)" in told
    assert "* A remark." in told
    assert (tmp_path / "images" / "fig4.png").is_file()


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reproduction_page import main

    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr("sys.argv", ["reproduction_page", str(tmp_path), str(page)])
    for _ in range(2):
        main()
        assert page.read_text() == f"before\n{BEGIN}\n\n\n{END}\nafter\n"
