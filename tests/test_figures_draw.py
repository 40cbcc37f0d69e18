"""Every input gives its figures under names that say what they are; inputs that do not fit are told in a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.accuracies import Accuracies
from analysis.choice import choose_layer
from analysis.compare import compare
from analysis.correlate import correlate
from analysis.report import Report, Table
from analysis.scores import read_scores
from data_manifests import language_sets
from figures.draw import _compared, _held, draw
from figures.save import save
from figures.scatter import scatter
from probe.errors import AnalysisError, RetrievalError
from probe.results import RetrievalResult

CODES = language_sets()["slots20"]


@pytest.fixture(scope="module")
def runs(simulate: Callable[..., RetrievalResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results and a report of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    simulate(languages=CODES, depth=4, rows=60).save(folder / "base")
    simulate(languages=CODES, depth=4, rows=60, lift=0.2, seed=1).save(folder / "aligned")
    accuracies = Accuracies.read(folder / "base")
    scores = read_scores("paper:llama3-sft")
    correlate(accuracies, scores, draws=100, permutations=100).save(folder / "one")
    correlate(accuracies, scores, layer="all", draws=100, permutations=100).save(folder / "every")
    compare(folder / "base", [folder / "aligned"], draws=100).save(folder / "comparison")
    choose_layer(folder / "base", draws=100).save(folder / "choice")
    table = Table(pd.DataFrame({"layer": [0, 1], "cka": [0.2, 0.4]}), "Means", {"layer": "layer", "cka": "CKA"})
    Report("measures", "Measures", {"layers": table}).save(folder / "measures")
    Report("audit", "Audit", {}).save(folder / "audit")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but only their numbers are written: that takes a tenth of the time."""

    def save(figure: Figure, frame: pd.DataFrame | Mapping[str, pd.DataFrame], path: Path) -> list[Path]:
        frames = frame.items() if isinstance(frame, Mapping) else [("", frame)]
        path.parent.mkdir(exist_ok=True)
        pd.concat([table.assign(part=part) for part, table in frames]).to_csv(path.with_name(f"{path.name}.csv"))
        return [path.with_name(f"{path.name}.{suffix}") for suffix in ("pdf", "png", "csv")]

    monkeypatch.setattr("figures.draw.save", save)


def names(paths: list[Path]) -> set[str]:
    """The figures, each of which has its three files."""
    stems = {path.with_suffix("") for path in paths}
    assert sorted(paths) == sorted(
        stem.with_name(f"{stem.name}.{end}") for stem in stems for end in ("pdf", "png", "csv")
    )
    return {stem.name for stem in stems}


def test_results_share_curves_and_have_a_heatmap_each(runs: Path, tmp_path: Path) -> None:
    drawn = draw([runs / "base", runs / "aligned"], tmp_path, draws=100)
    assert all(path.stat().st_size > 100 for path in drawn)
    assert names(drawn) == {
        "curves", "curves-script", "base-heatmap-layer2", "base-languages-by-layer", "aligned-heatmap-layer2",
        "aligned-languages-by-layer",
    }  # fmt: skip
    frame = pd.read_csv(tmp_path / "curves.csv")
    mean = frame[(frame["result"] == "aligned") & (frame["group"] == "mean") & (frame["series"] == "layers")]
    expected = RetrievalResult.load(runs / "aligned").curve()
    assert dict(zip(mean["layer"], mean["accuracy"], strict=True)) == pytest.approx(expected)
    cells = pd.read_csv(tmp_path / "base-heatmap-layer2.csv")
    assert cells["accuracy"].mean() == pytest.approx(RetrievalResult.load(runs / "base").curve()[2])


def test_the_same_inputs_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    """A scatter, whose names are placed by search; of the other figures `test_figures_save` says it of one."""
    frames = [
        Report.load(runs / "one").frame(part).query("layer == 'middle'") for part in ("points", "band", "correlation")
    ]
    first, second = (
        save(scatter(*frames, "accuracy", "F1"), frames[0], tmp_path / name / "scatter") for name in ("a", "b")
    )
    assert [path.name for path in first] == [path.name for path in second]
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(first, second, strict=True))


def test_a_comparison_gives_curves_gains_and_differences(runs: Path, tmp_path: Path, quick: None) -> None:
    drawn = draw([runs / "comparison"], tmp_path, layer="3")
    assert names(drawn) == {
        "comparison-curves", "comparison-curves-low", "comparison-gains-layer3", "comparison-difference-aligned-layer3"
    }  # fmt: skip
    cells = pd.read_csv(tmp_path / "comparison-difference-aligned-layer3.csv")
    base, aligned = (RetrievalResult.load(runs / name).accuracy(3) for name in ("base", "aligned"))
    assert cells["difference"].mean() == pytest.approx(np.nanmean(aligned) - np.nanmean(base))
    parts = pd.read_csv(tmp_path / "comparison-curves.csv")["part"]
    assert set(parts) == {"layers", "controls"}


def test_a_correlation_gives_scatters_and_r_by_layer_where_it_has_several(
    runs: Path, tmp_path: Path, quick: None
) -> None:
    assert names(draw([runs / "one"], tmp_path / "one")) == {"one-scatter-layer2", "one-scatter-char"}
    drawn = names(draw([runs / "every"], tmp_path / "every", layer="3"))
    assert drawn == {"every-scatter-layer3", "every-scatter-char", "every-by-layer"}
    frame = pd.read_csv(tmp_path / "every" / "every-scatter-layer3.csv", dtype={"layer": str})
    assert set(frame["part"]) == {"points", "band", "correlation"}
    assert set(frame["layer"]) == {"3"}
    assert (frame["part"] == "points").sum() == len(CODES)


def test_the_middle_layer_and_its_number_are_one(runs: Path) -> None:
    one, comparison = Report.load(runs / "one"), Report.load(runs / "comparison")
    for layer in ("2", "middle"):
        assert _held("one", layer, ["middle", "char"], one) == "middle"
        assert _held("every", layer, ["0", "1", "2"], one) == "2"
        assert _compared("comparison", comparison, layer) == 2
    assert _compared("comparison", comparison, None) == 2  # where the base is best


def test_the_block_that_was_aligned_is_marked(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Figure] = {}

    def keep(figure: Figure, frame: object, path: Path) -> list[Path]:
        drawn[path.name] = figure
        return []

    monkeypatch.setattr("figures.draw.save", keep)
    draw([runs / "comparison"], tmp_path, marks={"aligned": (1, 2)})
    for name in ("comparison-curves", "comparison-curves-low"):
        marked = [each.get_xdata() for axes in drawn[name].axes for each in axes.lines if each.get_marker() == "^"]
        assert (1, 2) in [tuple(blocks) for blocks in marked]
    with pytest.raises(AnalysisError, match="a mark for other, which no comparison holds; expected one of aligned"):
        draw([runs / "comparison"], tmp_path, marks={"other": (1,)})


def test_the_aggregate_can_be_drawn_of_a_result(runs: Path, tmp_path: Path, quick: None) -> None:
    drawn = draw([runs / "base"], tmp_path, layer="aggregate", order="cluster", draws=100)
    assert "base-heatmap-aggregate" in names(drawn)
    cells = pd.read_csv(tmp_path / "base-heatmap-aggregate.csv")
    assert cells["accuracy"].mean() == pytest.approx(RetrievalResult.load(runs / "base").aggregate())


def test_other_reports_and_bare_tables_are_drawn(runs: Path, tmp_path: Path, quick: None) -> None:
    table = runs / "base" / "accuracy.csv"
    drawn = draw([runs / "choice", runs / "measures", table], tmp_path, names=["choice", "measures", "Qwen2.5 (7B)/x"])
    assert names(drawn) == {
        "curves", "curves-script", "choice-curves", "choice-curves-script", "measures-measures",
        "Qwen2.5-7B-x-heatmap-layer2", "Qwen2.5-7B-x-languages-by-layer",
    }  # fmt: skip
    bare = pd.read_csv(tmp_path / "curves.csv")
    assert set(bare["result"]) == {"Qwen2.5 (7B)/x"}
    assert bare[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (["base", "base"], {}, "two inputs named base"),
        (["base", "aligned"], {"names": ["a b", "A/b"]}, "two figures named a-b-heatmap-layer2"),
        (["base"], {"names": ["a", "b"]}, "2 names for 1 inputs (--names a,b)"),
        ([], {}, "nothing to draw"),
        (["."], {}, "is no result and no report; expected a folder with summary.json"),
        (["audit"], {}, "audit, a report of kind audit, has no figure"),
        (["base"], {"layer": "9"}, "layer 9 of base; expected one of 0-4"),
        (["base"], {"layer": "best"}, "--layer best; expected a layer's number"),
        (["base"], {"layer": "²"}, "--layer ²; expected a layer's number"),
        (["comparison"], {"layer": "9"}, "layer 9, which comparison does not have; expected one of 0, 1, 2, 3, 4"),
        (["comparison"], {"layer": "aggregate"}, "--layer aggregate of the comparison"),
        (["one"], {"layer": "3"}, "layer 3, which one does not have; expected one of middle"),
        (["base"], {"order": "colour"}, "--order colour; expected family or cluster"),
    ],
)
def test_what_does_not_fit_is_told(runs: Path, tmp_path: Path, inputs: list[str], options: dict, message: str) -> None:
    with pytest.raises(AnalysisError) as caught:
        draw([runs / name for name in inputs], tmp_path / "out", draws=100, **options)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(caught.value)


def test_models_that_would_share_a_file_are_told(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any figure is drawn, which takes time."""

    def refuse(*arguments: object) -> Figure:
        raise AssertionError("drawn before the names were checked")

    for figure in ("tuned", "gains", "heatmap.difference"):
        monkeypatch.setattr(f"figures.draw.{figure}", refuse)
    paths = [runs / "base", runs / "aligned", runs / "aligned"]
    compare(paths[0], paths[1:], names=["base", "m 1", "m/1"], draws=100).save(tmp_path / "two")
    with pytest.raises(AnalysisError, match="two figures named two-difference-m-1-layer2"):
        draw([tmp_path / "two"], tmp_path / "out")


@pytest.fixture
def unlike(runs: Path, simulate: Callable[..., RetrievalResult]) -> Mapping[str, RetrievalResult]:
    """Results that cannot be compared with those of the runs, by what differs."""
    found = RetrievalResult.load(runs / "base")
    corpus = {"name": "other", "split": "dev"}
    return {
        "k": replace(found, settings={**found.settings, "k": 5}),
        "corpus": replace(found, settings={**found.settings, "corpus": corpus}),
        "rows": simulate(languages=CODES, depth=4, rows=50),
        "languages": simulate(languages=CODES[1:], depth=4, rows=60),
    }


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("k", "k 4 in base but 5 in x; expected results that searched the same sentences in the same way"),
        ("corpus", "corpus simulated in base but other in x"),
        ("rows", "rows 60 in base but 50 in x"),
        ("languages", f"{CODES[0]} only in base"),
    ],
)
def test_results_that_do_not_measure_the_same_share_no_axis(
    runs: Path, tmp_path: Path, unlike: Mapping[str, RetrievalResult], what: str, message: str
) -> None:
    unlike[what].save(tmp_path / "x")
    with pytest.raises(AnalysisError, match=message):
        draw([runs / "base", tmp_path / "x"], tmp_path / "out", draws=100)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("k", "k 4 in base but 5 in x"),  # though neither differs from the table in what that tells
        ("rows", "rows 60 in table but 50 in x"),
        ("languages", f"{CODES[0]} only in table"),
    ],
)
def test_a_bare_table_is_checked_for_what_it_tells(
    runs: Path, tmp_path: Path, unlike: Mapping[str, RetrievalResult], what: str, message: str
) -> None:
    unlike[what].save(tmp_path / "x")
    inputs = [runs / "aligned" / "accuracy.csv", runs / "base", tmp_path / "x"]
    with pytest.raises(AnalysisError, match=message):
        draw(inputs, tmp_path / "out", names=["table", "base", "x"], draws=100)


@pytest.mark.parametrize(("folder", "held"), [("base", "a retrieval result"), ("choice", "a report")])
def test_figures_have_a_folder_of_their_own(runs: Path, folder: str, held: str) -> None:
    before = sorted((runs / folder).iterdir())
    with pytest.raises(
        AnalysisError, match=f"--out .*{folder}, which holds {held}; expected a folder of its own for figures"
    ):
        draw([runs / "base"], runs / folder, draws=100)
    assert sorted((runs / folder).iterdir()) == before


def test_a_folder_that_cannot_be_written_is_told(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrievalError, match="file cannot be written"):
        draw([runs / "measures"], tmp_path / "file")
