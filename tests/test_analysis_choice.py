"""The choice of the best layer: its rank under resampling, and the choice on one half tested on the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from analysis.choice import choose_layer, published_aggregate, ranks_of
from analysis.documents import Documents
from analysis.report import Report
from analysis.resample import Bootstrap, Means, hit_sums
from data_manifests import language_sets
from probe.errors import AnalysisError
from probe.results import RetrievalResult

CODES = ("eng_Latn", "deu_Latn", "rus_Cyrl", "zho_Hans", "jav_Latn", "khm_Khmr", "swh_Latn", "ukr_Cyrl")
DOCUMENTS = Documents(np.arange(60) // 3, "20 documents")


@pytest.fixture(scope="module")
def result(simulate: Callable[..., RetrievalResult]) -> RetrievalResult:
    return simulate(languages=CODES, depth=4, rows=60)


@pytest.fixture(scope="module")
def report(result: RetrievalResult) -> Report:
    return choose_layer(result, documents=DOCUMENTS, draws=1000)


def only(result: RetrievalResult, *layers: int) -> RetrievalResult:
    return replace(result, layers={layer: result.layers[layer] for layer in layers})


def test_the_best_layer_is_the_middle_of_a_middle_peak(report: Report, result: RetrievalResult) -> None:
    facts, table = report.facts, report.frame("layers").set_index("layer")
    assert (facts["best"], facts["inside"], facts["depth"]) == (2, True, 4)
    assert facts["accuracy"] == pytest.approx(result.curve()[2])
    assert facts["low"] < facts["accuracy"] < facts["high"]
    assert table["won"].sum() == pytest.approx(1)
    assert table["mean"].to_dict() == pytest.approx(result.curve())
    assert report.remarks[0].startswith("Best layer over all directions: 2 (rank 1 of 5 layers")


def test_the_table_holds_the_groups_and_controls_of_the_summary(report: Report, result: RetrievalResult) -> None:
    summary, table = result.summary(), report.frame("layers")
    for group in ("mean", "same_script", "cross_script", "to_english", "from_english", "high", "low"):
        assert table[group].tolist() == pytest.approx([row[group] for row in summary["layers"]])
    for control in ("char", "length"):
        assert table[control].tolist() == pytest.approx([summary["controls"][control]["mean"]] * 5)
    curves = report.frame("curves")
    assert set(curves["series"]) == {"layers", "char", "length"}


def test_wins_and_ranks_are_those_of_the_draws(simulate: Callable[..., RetrievalResult]) -> None:
    """Layers so near to each other that the ranks are open, and ranked here one draw after the other."""
    result = simulate(languages=CODES[:4], depth=2, rows=60)
    seeds = enumerate((0, 3, 4))
    near = replace(
        result, layers={k: simulate(languages=CODES[:4], depth=2, rows=60, seed=seed).layers[1] for k, seed in seeds}
    )
    table = choose_layer(near, documents=DOCUMENTS, draws=400, seed=9).frame("layers")
    means, bootstrap = Means.of_groups(CODES[:4]), Bootstrap.of(DOCUMENTS, 400, 9)
    drawn = np.stack(
        [bootstrap.shares(means.sums(hit_sums(near, k, DOCUMENTS)), means.directions)[0] for k in range(3)]
    )
    won, ranks = np.zeros(3), []
    for draw in drawn.T:
        best = np.flatnonzero(draw == draw.max())
        won[best] += 1 / len(best) / 400
        ranks.append([1 + sum(other > own for other in draw) for own in draw])
    np.testing.assert_allclose(table["won"], won)
    assert table["won"].max() < 0.97  # the ranks are open
    ordered = np.sort(np.array(ranks), axis=0)
    np.testing.assert_array_equal(table["rank_low"], ordered[9])  # the tenth of 400: 2.5 %
    np.testing.assert_array_equal(table["rank_high"], ordered[389])


def test_layers_that_tie_share_the_better_rank_and_the_win(result: RetrievalResult) -> None:
    twins = replace(result, layers={1: result.layers[2], 2: result.layers[2], 3: result.layers[0]})
    table = choose_layer(twins, documents=DOCUMENTS, draws=200).frame("layers")
    assert table["won"].tolist() == [0.5, 0.5, 0]
    assert table["rank_low"].tolist() == table["rank_high"].tolist() == [1, 1, 3]
    np.testing.assert_array_equal(ranks_of(np.array([[0.5], [0.7], [0.5], [0.1]]))[:, 0], [2, 1, 2, 4])
    outer = replace(result, layers={0: result.layers[2], 2: result.layers[2], 4: result.layers[0]})
    assert choose_layer(outer, documents=DOCUMENTS, draws=200).facts["inside_share"] == 0.5  # layer 0 shares every draw
    random = np.random.default_rng(0).integers(0, 4, (6, 50)) / 7
    np.testing.assert_array_equal(ranks_of(random)[:, 7], rankdata(-random[:, 7], method="min"))


def test_halves_are_those_of_a_loop(simulate: Callable[..., RetrievalResult]) -> None:
    near = simulate(languages=CODES[:4], depth=8, rows=60, lift=-0.5)
    report = choose_layer(near, documents=DOCUMENTS, draws=100, seed=2)
    frame, overall = report.frame("halves").set_index("layer"), report.facts["halves"]
    tried: list[tuple[int, float, float, float]] = []
    for split in DOCUMENTS.halves(overall["splits"], 2):
        for half in (split, ~split):
            within = half[DOCUMENTS.labels]
            accuracy = [
                [near.hits(layer)[~np.eye(4, dtype=bool)][:, chosen].mean() for layer in range(9)]
                for chosen in (within, ~within)
            ]
            layer = int(np.argmax(np.round(accuracy[0], 12)))
            tried.append((layer, accuracy[0][layer], accuracy[1][layer], max(accuracy[1])))
    layers, *columns = (np.array(column) for column in zip(*tried, strict=True))
    assert len(frame) > 1  # not all splits agree
    for layer, row in frame.iterrows():
        own = layers == layer
        assert row["chosen"] == own.mean()
        names = ("accuracy_chosen", "accuracy_tested", "best_tested")
        for name, column in zip(names, columns, strict=True):
            assert row[name] == pytest.approx(column[own].mean())
    assert [overall["chosen"], overall["tested"]] == pytest.approx([each.mean() for each in columns[:2]])
    assert overall["optimism"] == pytest.approx(overall["chosen"] - overall["tested"])
    assert overall["optimism"] > 0
    # The best layer of the other half is by construction as good as the chosen one on its own: no second finding.
    assert columns[2].mean() == pytest.approx(overall["chosen"])
    assert set(overall) == {"splits", "chosen", "tested", "optimism"}


@pytest.mark.parametrize("by", ["cross_script", "low"])
def test_another_group_chooses_by_its_own_accuracy(result: RetrievalResult, by: str) -> None:
    report = choose_layer(result, by=by, documents=DOCUMENTS, draws=200)
    table, summary = report.frame("layers"), result.summary()
    assert report.facts["best"] == table.loc[table[by].idxmax(), "layer"]
    assert (table[f"{by}_low"] <= table[by]).all()
    assert (table["mean_low"] <= table["mean"]).all()
    assert table["char"].tolist() == pytest.approx([summary["controls"]["char"][by]] * 5)
    assert report.facts["char"]["accuracy"] == pytest.approx(summary["controls"]["char"][by])


def test_below_the_control_is_said_with_the_difference(result: RetrievalResult, report: Report) -> None:
    assert not any("control" in remark for remark in report.remarks)
    weak = choose_layer(only(result, 0, 4), documents=DOCUMENTS, draws=200)
    expected = max(result.curve()[0], result.curve()[4]) - np.nanmean(result.accuracy("char"))
    assert weak.facts["char"]["above"] == pytest.approx(expected)
    assert weak.facts["char"]["low"] < expected < weak.facts["char"]["high"] < 0
    assert any(
        "below the `char` control" in remark and f"{100 * expected:+.1f} points" in remark for remark in weak.remarks
    )
    assert weak.facts["inside"] is False
    assert "It does not lie strictly inside" in weak.remarks[1]


@pytest.mark.parametrize("documents", [DOCUMENTS, "sentences"])
def test_what_was_drawn_is_told(result: RetrievalResult, documents: Documents | str) -> None:
    drawn = DOCUMENTS.grouping if isinstance(documents, Documents) else "60 sentences"
    report = choose_layer(result, documents=documents, draws=100)
    (halves,) = (remark for remark in report.remarks if remark.startswith("Chosen on one half"))
    for told in (halves, report.tables["halves"].caption):
        assert f"one half of the {drawn}" in told
        assert ("documents" in told) == isinstance(documents, Documents)


def test_the_ends_of_intervals_are_low_and_high(report: Report) -> None:
    assert {"low", "high", "rank low", "rank high"} <= {*report.tables["layers"].shown()}


def test_one_layer_alone_and_no_controls_are_said(result: RetrievalResult) -> None:
    report = choose_layer(replace(only(result, 3), controls={}), documents=DOCUMENTS, draws=200)
    assert "covers layer 3 alone" in report.remarks[0]
    assert any("no controls" in remark for remark in report.remarks)
    assert report.facts["char"] is None
    assert report.frame("layers")["won"].tolist() == [1]


def test_a_folder_gives_the_same_report_and_it_can_be_saved(
    result: RetrievalResult, report: Report, tmp_path: Path
) -> None:
    result.save(tmp_path / "run")
    read = choose_layer(tmp_path / "run", documents=DOCUMENTS, draws=1000)
    assert read.facts == {**report.facts, "result": "run"}
    read.save(tmp_path / "report")
    held = Report.load(tmp_path / "report")
    assert held.facts == read.facts
    np.testing.assert_array_equal(held.frame("layers")["won"], read.frame("layers")["won"])
    assert "| layer" in (tmp_path / "report" / "layers.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def as_published(simulate: Callable[..., RetrievalResult]) -> RetrievalResult:
    """A result of Llama 3 made as the paper's."""
    result = simulate(languages=language_sets()["mt9"], depth=2, rows=997)
    model = {"name": "meta-llama/Meta-Llama-3-8B-Instruct", "adapter": None}
    corpus = {"name": "flores200", "split": "dev"}
    return replace(result, settings={**result.settings, "model": model, "corpus": corpus})


def test_the_paper_s_aggregate_stands_beside_ours(as_published: RetrievalResult) -> None:
    report = choose_layer(as_published, documents="sentences", draws=100)
    assert report.facts["published_aggregate"]["value"] == 0.515
    assert any("the paper prints 51.5 % (Table 2)" in remark for remark in report.remarks)


@pytest.mark.parametrize(
    "change",
    [
        {"k": 8},
        {"margin": "distance"},
        {"pooling": "mean-nofirst"},
        {"centre": True},
        {"final_norm": "raw"},
        {"corpus": {"name": "flores200", "split": "devtest"}},
        {"corpus": {"name": "everyday", "split": "dev"}},
        {"corpus": None},
    ],
)
def test_the_paper_has_no_value_for_what_was_made_in_another_way(
    as_published: RetrievalResult, change: dict[str, Any]
) -> None:
    assert published_aggregate(replace(as_published, settings={**as_published.settings, **change})) is None


def test_the_paper_has_no_value_for_fewer_sentences(as_published: RetrievalResult) -> None:
    assert published_aggregate(as_published) is not None
    assert published_aggregate(replace(as_published, rows=996)) is None


@pytest.mark.parametrize(
    ("by", "codes", "message"),
    [("best", CODES, "--by best.*mean, same_script"), ("to_english", CODES[1:], "--by to_english.*no such direction")],
)
def test_a_group_that_is_not_there_is_refused(
    simulate: Callable[..., RetrievalResult], by: str, codes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(AnalysisError, match=message):
        choose_layer(simulate(languages=codes, depth=2, rows=30), by=by, draws=100)
