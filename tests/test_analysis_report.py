"""Reports: what is saved can be read back unrounded, and what people are shown is formatted as told."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.report import PAGE_ROWS, Report, Table
from probe.errors import AnalysisError, RetrievalError


@pytest.fixture
def report() -> Report:
    frame = pd.DataFrame(
        {
            "layer": [1, 2, 2],
            "group": ["all", "all", "low_resource"],
            "place": ["16", "NA", "17"],
            "sure": [True, False, True],
            "accuracy": [1 / 3, np.nan, 0.5],
            "r": [-0.12345, 0.1, 0.2],
            "spearman_p": [0.04567, 0.0001, 1.0],
        }
    )
    columns = {"layer": "layer", "accuracy": "accuracy (%)", "r": "r", "spearman_p": "p"}
    shown = Table(frame, "Means & others, 50 % of_all", columns, percent=("accuracy",), where={"group": "all"})
    long = Table(pd.DataFrame({"row": np.arange(PAGE_ROWS + 1)}), "Too long for a page")
    return Report("layers", "A title", {"means": shown, "long": long}, ("One remark.",), {"seed": 0, "of": {"k": 4}})


def test_people_are_shown_the_chosen_rows_and_columns_rounded(report: Report) -> None:
    shown = report.tables["means"].shown()
    assert shown.to_dict("list") == {
        "layer": ["1", "2"],
        "accuracy (%)": ["33.3", ""],
        "r": ["-0.123", "0.100"],
        "p": ["0.046", "< 0.001"],
    }


def test_a_rounded_zero_has_no_sign() -> None:
    table = Table(pd.DataFrame({"share": [-0.0001], "r": [-0.0001]}), "", percent=("share",))
    assert table.shown().to_dict("records") == [{"share": "0.0", "r": "0.000"}]


def test_a_saved_report_is_read_back_unrounded(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    again = Report.load(tmp_path)
    pd.testing.assert_frame_equal(again.frame("means"), report.frame("means"), check_exact=True, check_dtype=False)
    assert again.frame("means")["accuracy"][0] == 1 / 3
    assert again.frame("means")["place"].tolist() == ["16", "NA", "17"]
    assert again.frame("means")["sure"].tolist() == [True, False, True]
    assert (again.kind, again.title, again.remarks, again.facts) == (
        "layers",
        "A title",
        ("One remark.",),
        report.facts,
    )
    pd.testing.assert_frame_equal(again.tables["means"].shown(), report.tables["means"].shown())


def test_the_page_holds_title_remarks_and_the_tables_that_fit(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# A title\n\n* One remark.\n")
    assert "33.3" in page
    assert "Too long" not in page
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.json", "report.md"),
        *("means.csv", "means.md", "means.tex"),
        "long.csv",
    }


def test_json_has_every_row_and_null_for_what_is_missing(report: Report) -> None:
    told = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert told["tables"]["means"][1]["accuracy"] is None
    assert told["tables"]["means"][0]["accuracy"] == 1 / 3
    assert len(told["tables"]["long"]) == PAGE_ROWS + 1


def test_latex_is_booktabs_with_special_signs_escaped(report: Report) -> None:
    latex = report.tables["means"].latex()
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert r"\caption{Means \& others, 50 \% of\_all}" in latex
    assert r"accuracy (\%)" in latex
    assert r"$<$ 0.001" in latex
    assert r"\begin{tabular}{rrrr}" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX")
def test_latex_compiles(report: Report, tmp_path: Path) -> None:
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}%s\end{document}"
    (tmp_path / "page.tex").write_text(document % report.tables["means"].latex())
    done = subprocess.run(["pdflatex", "-halt-on-error", "page.tex"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-500:]


def test_a_folder_without_a_report_or_with_a_damaged_one_is_refused(report: Report, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="no readable report"):
        Report.load(tmp_path)
    report.save(tmp_path)
    (tmp_path / "means.csv").unlink()
    with pytest.raises(AnalysisError, match=r"means\.csv"):
        Report.load(tmp_path)
    report.save(tmp_path)
    described = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**described, "schema": 99}))
    with pytest.raises(AnalysisError, match="schema 99"):
        Report.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrievalError, match="cannot be written"):
        report.save(tmp_path / "file")
