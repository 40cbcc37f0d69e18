"""Reports: what is saved can be read back unrounded, and what people are shown is formatted as told."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.report import PAGE_ROWS, Report, Table, refuse_other_folder
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


def test_a_fine_share_is_shown_with_two_decimals_and_stays_so(report: Report, tmp_path: Path) -> None:
    """One decimal would round away the sign of an interval that leaves out 0."""
    frame = pd.DataFrame({"difference": [0.0004], "base": [0.5]})
    table = Table(frame, "", percent=("base", "difference"), fine=("difference",))
    assert table.shown().to_dict("records") == [{"difference": "0.04", "base": "50.0"}]
    replace(report, tables={"one": table}).save(tmp_path)
    assert Report.load(tmp_path).tables["one"].shown().equals(table.shown())
    described = json.loads((tmp_path / "report.json").read_text())
    described["tables"]["one"]["fine"] = None
    (tmp_path / "report.json").write_text(json.dumps(described))
    with pytest.raises(AnalysisError, match="null as fine"):
        Report.load(tmp_path)
    del described["tables"]["one"]["fine"]  # of before it was kept
    (tmp_path / "report.json").write_text(json.dumps(described))
    assert Report.load(tmp_path).tables["one"].shown()["difference"].tolist() == ["0.0"]


def test_a_column_without_anything_to_read_is_not_shown() -> None:
    frame = pd.DataFrame({"group": ["a", "b"], "n": [1, 2], "note": ["", ""], "p": [np.nan, 0.5]})
    table = Table(frame, "Empty columns")
    assert list(table.shown()) == ["group", "n", "p"]
    first = replace(table, where={"group": "a"})
    assert list(first.shown()) == ["group", "n"]  # what other rows hold does not count
    assert "note" not in first.latex() + first.markdown()
    assert list(replace(table, where={"group": "c"}).shown()) == ["group", "n", "note", "p"]
    assert list(table.frame) == ["group", "n", "note", "p"]


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
    table = replace(report.tables["means"], caption="|r| & others, 50 % of_all")
    replace(report, tables={"the_means": table}).save(tmp_path / "report")
    latex = (tmp_path / "report" / "the_means.tex").read_text()
    assert r"\caption{$|$r$|$ \& others" in latex  # a bare | prints as a dash
    assert r"\label{tab:layers-the_means}" in latex
    (tmp_path / "page.tex").write_text(document % f"{latex} Table~\\ref{{tab:layers-the_means}}")
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


# ---- folders of something else -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("summary.json", "a retrieval result"),
        ("hits.h5", "a retrieval result"),
        ("partial/settings.json", "an unfinished retrieval result"),
        ("manifest.json", "a store"),
    ],
)
def test_a_report_is_not_written_over_something_else(report: Report, tmp_path: Path, name: str, told: str) -> None:
    """A result has a controls.csv and a languages.csv too, and so have comparisons."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("held")
    (tmp_path / "means.csv").write_text("theirs")
    for refused in (lambda: report.save(tmp_path), lambda: refuse_other_folder(tmp_path)):
        with pytest.raises(AnalysisError, match=f"--out .*, which holds {told}; .*; give another --out"):
            refused()
    assert (tmp_path / "means.csv").read_text() == "theirs"
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("out", ["", ".", "./", "inner/.."])
def test_a_report_is_not_written_into_the_current_folder(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AnalysisError, match="the current folder; expected a folder of its own"):
        report.save(out)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]
    refuse_other_folder(Path("new"))  # a folder that is not there yet may be made


# ---- one report after another --------------------------------------------------------------------------------


def test_the_tables_of_an_earlier_report_go_and_other_files_stay(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    (tmp_path / "notes.csv").write_text("mine")
    described = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps({**described, "schema": 0}))  # of an earlier version, even
    short = replace(report, tables={"means": replace(report.tables["means"], where={"group": "none"})})
    short.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "means.csv", "notes.csv"}
    assert list(Report.load(tmp_path).tables) == ["means"]


def test_a_table_whose_name_leads_elsewhere_is_not_removed(report: Report, tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("theirs")
    report.save(tmp_path / "report")
    described = json.loads((tmp_path / "report" / "report.json").read_text())
    described["tables"]["../theirs"] = described["tables"]["means"]
    (tmp_path / "report" / "report.json").write_text(json.dumps(described))
    report.save(tmp_path / "report")
    assert (tmp_path / "theirs.csv").exists()


def test_a_report_that_fails_leaves_the_earlier_one(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("analysis.report.write_json", full)
    with pytest.raises(RetrievalError, match="the disk is full"):
        replace(report, title="Another", tables={"long": report.tables["long"]}).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_kill_while_files_are_replaced_leaves_no_report_of_two(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same tables, rows and columns, other numbers: only the absence of report.json can tell."""
    report.save(tmp_path)
    frame = report.frame("means").assign(accuracy=0.9)
    other = replace(report, tables={**report.tables, "means": replace(report.tables["means"], frame=frame)})
    rename, done = Path.replace, []

    def killed(path: Path, target: Path) -> Path:
        if target.parent == tmp_path:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        other.save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(AnalysisError, match="no readable report"):
        Report.load(tmp_path)
    other.save(tmp_path)
    assert Report.load(tmp_path).frame("means")["accuracy"].tolist() == [0.9] * 3


# ---- half-copied reports -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: "".join(text.splitlines(keepends=True)[:-1]), r"means\.csv has 2 rows, not 3"),
        (lambda text: text[:-3], r"means\.csv is cut in its last line"),
        (lambda text: text.replace("accuracy", "share", 1), r"means\.csv has the columns layer, .*share.*, not layer"),
        (lambda text: "", "no readable report"),
    ],
)
def test_a_table_of_which_a_part_is_missing_is_refused(
    report: Report, tmp_path: Path, change: Callable[[str], str], told: str
) -> None:
    report.save(tmp_path)
    (tmp_path / "means.csv").write_text(change((tmp_path / "means.csv").read_text()))
    with pytest.raises(AnalysisError, match=told):
        Report.load(tmp_path)


def test_a_report_from_before_rows_were_told_is_read(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    described = json.loads((tmp_path / "report.json").read_text())
    for shown in described["tables"].values():
        del shown["rows"], shown["fields"]
    (tmp_path / "report.json").write_text(json.dumps(described))
    pd.testing.assert_frame_equal(Report.load(tmp_path).frame("long"), report.frame("long"))
    text = (tmp_path / "means.csv").read_text()
    (tmp_path / "means.csv").write_text(text.replace("accuracy", "share", 1))
    with pytest.raises(AnalysisError, match="lacks the column accuracy"):
        Report.load(tmp_path)


@pytest.mark.parametrize("key", ["schema", "kind", "title", "remarks", "facts", "tables"])
def test_a_key_that_is_missing_or_null_is_named_in_one_line(report: Report, tmp_path: Path, key: str) -> None:
    report.save(tmp_path)
    described = json.loads((tmp_path / "report.json").read_text())
    for changed in ({**described, key: None}, {name: value for name, value in described.items() if name != key}):
        (tmp_path / "report.json").write_text(json.dumps(changed))
        with pytest.raises(AnalysisError, match=key) as caught:
            Report.load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["caption", "columns", "percent", "where", "digits", "text"])
def test_a_key_of_a_table_that_is_missing_or_null_is_named(report: Report, tmp_path: Path, key: str) -> None:
    report.save(tmp_path)
    described = json.loads((tmp_path / "report.json").read_text())
    shown = described["tables"]["long"]
    for changed in ({**shown, key: None}, {name: value for name, value in shown.items() if name != key}):
        described["tables"]["long"] = changed
        (tmp_path / "report.json").write_text(json.dumps(described))
        with pytest.raises(AnalysisError, match=key):
            Report.load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", "{}", "{"])
def test_a_report_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(AnalysisError, match="expected a folder that `probe correlate`") as caught:
        Report.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_fact_that_is_not_there_is_told_when_it_is_asked_for(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    facts = Report.load(tmp_path).facts
    assert (facts["seed"], facts["of"]["k"], facts.get("base")) == (0, 4, None)
    for asked in (lambda: facts["base"], lambda: facts["of"]["name"]):
        with pytest.raises(AnalysisError, match=r"report\.json names no (base|name); .*run that command again"):
            asked()
