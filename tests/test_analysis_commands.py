"""The commands of the analysis as functions: lists are read alike, reports land where they should, and options that would change
nothing are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.report import Report
from data_manifests import language_sets
from probe import cli
from probe.errors import ProbeError
from probe.results import RetrievalResult


@pytest.fixture(scope="module")
def results(simulate: Callable[..., RetrievalResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the results `base` and `other`."""
    folder = tmp_path_factory.mktemp("results")
    for name, lift in (("base", 0.0), ("other", 0.2)):
        simulate(languages=language_sets()["slots20"], depth=4, rows=60, lift=lift).save(folder / name)
    return folder


def test_names_are_stripped_and_an_empty_one_is_refused(results: Path, tmp_path: Path) -> None:
    base, other, refused = results / "base", results / "other", tmp_path / "refused"
    cli.compare(base, [other], tmp_path / "report", names="Llama 3, aligned ", draws=100)
    report = Report.load(tmp_path / "report")
    assert (report.facts["base"]["name"], report.facts["others"][0]["name"]) == ("Llama 3", "aligned")
    with pytest.raises(ProbeError, match=r"an empty name \(--names ,b\)"):
        cli.compare(base, [other], refused, names=" ,b")
    with pytest.raises(ProbeError, match=r"an empty name \(--names a,\)"):
        cli.figures([base, other], refused, names="a, ")
    with pytest.raises(ProbeError, match="two inputs named a"):
        cli.figures([base, other], refused, names=" a , a")
    assert not refused.exists()


def test_controls_are_listed_as_names_are(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"draws": 100, "permutations": 100, "as_json": True}
    cli.correlate(results / "base", "paper:llama3-sft", tmp_path / "report", given="char , level", **options)
    report = json.loads(capsys.readouterr().out)
    assert report["facts"]["given"] == ["char", "level"]
    assert {row["controls"] for row in report["tables"]["partial"]} == {"char", "level", "char + level"}
    with pytest.raises(ProbeError, match="--given ; expected one or two"):
        cli.correlate(results / "base", "paper:llama3-sft", tmp_path / "none", given="", **options)


def test_the_choice_of_a_layer_is_shown_and_saved(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.layers(results / "base", tmp_path / "report", by="to_english", draws=100)
    assert "Best layer over directions to English: 2" in capsys.readouterr().out
    assert Report.load(tmp_path / "report").facts["best"] == 2


@pytest.mark.parametrize(
    "command",
    [
        lambda absent, out: cli.correlate(absent, "paper:llama3-sft", out),
        lambda absent, out: cli.compare(absent, [absent], out),
        lambda absent, out: cli.layers(absent, out),
        lambda absent, out: cli.measure(absent, out),
        lambda absent, out: cli.figures([absent], out),
        lambda absent, out: cli.report("paper-audit", out),
    ],
    ids=["correlate", "compare", "layers", "measure", "figures", "paper-audit"],
)
def test_the_folder_of_a_result_is_refused_before_anything_is_computed(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path, Path], None]
) -> None:
    """Even before the inputs are read, which are not there."""

    def audit() -> Report:
        raise AssertionError("computed first")

    monkeypatch.setattr("analysis.audit.audit", audit)
    with pytest.raises(ProbeError, match=r"--out .*base, which holds a retrieval result; .*; give another --out"):
        command(tmp_path / "absent", results / "base")


def test_the_page_is_built(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    cli.report(str(results), page, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["page"], told["bytes"]) == (str(page), page.stat().st_size)
    assert {told["base"], *told["others"]} == {"base", "other"}
    assert told["omitted"] == []


def test_the_audit_takes_no_documents(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProbeError, match=r"--documents sentences with paper-audit; .*leave --documents out"):
        cli.report("paper-audit", documents="sentences")
    cli.report("paper-audit", as_json=True)
    assert json.loads(capsys.readouterr().out)["kind"] == "audit"
