"""Paired differences against a base: oracles by direct resampling, invariances, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.compare import aligned_masks, compare, digest_of
from analysis.documents import Documents
from analysis.report import Report
from analysis.resample import Bootstrap
from data_manifests import language_sets
from probe.errors import AnalysisError, CorpusError
from probe.results import Cells, RetrievalResult

CODES = ("eng_Latn", "deu_Latn", "rus_Cyrl", "zho_Hans", "jav_Latn", "khm_Khmr", "swh_Latn", "ukr_Cyrl")
DOCUMENTS = Documents(np.repeat(np.arange(20), np.tile([1, 2, 4, 5], 5)), "20 documents")
DRAWS = 200

Simulate = Callable[..., RetrievalResult]


@pytest.fixture(scope="module")
def base(simulate: Simulate) -> RetrievalResult:
    return simulate(languages=CODES, depth=4, rows=60)


@pytest.fixture(scope="module")
def lifted(simulate: Simulate) -> RetrievalResult:
    return simulate(languages=CODES, depth=4, rows=60, lift=0.2, seed=1, adapter="align2")


@pytest.fixture(scope="module")
def folder(base: RetrievalResult, lifted: RetrievalResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the results `base` and `lifted`."""
    place = tmp_path_factory.mktemp("results")
    base.save(place / "base")
    lifted.save(place / "lifted")
    return place


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return compare(folder / "base", [folder / "lifted"], aligned="jv,sw", documents=DOCUMENTS, draws=DRAWS, seed=4)


def reordered(result: RetrievalResult, order: list[int]) -> RetrievalResult:
    """The same with its languages in another order."""
    square = np.ix_(order, order)

    def turn(cells: Cells) -> Cells:
        return Cells(cells.hits[square], cells.mexa[square], cells.nonpositive)

    return replace(
        result,
        languages=tuple(result.languages[i] for i in order),
        layers={layer: turn(cells) for layer, cells in result.layers.items()},
        controls={name: turn(cells) for name, cells in result.controls.items()},
    )


def drawn_accuracy(result: RetrievalResult, layer: int) -> np.ndarray:
    """(draw, source, target): the accuracy among the sentences of each draw, gathered one by one."""
    number = len(DOCUMENTS)
    weights = np.random.default_rng(4).multinomial(number, np.full(number, 1 / number), size=DRAWS)
    hits = result.hits(layer)
    tables = np.stack(
        [hits[..., np.repeat(np.arange(60), weight[DOCUMENTS.labels])].mean(axis=-1) for weight in weights]
    )
    tables[:, np.arange(8), np.arange(8)] = np.nan
    return tables


def row(table: pd.DataFrame, **values: Any) -> pd.Series:
    """The one row with these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


@pytest.mark.parametrize("layer", [0, 2])
def test_differences_and_intervals_are_those_of_direct_paired_resampling(
    report: Report, base: RetrievalResult, lifted: RetrievalResult, layer: int
) -> None:
    difference = drawn_accuracy(lifted, layer) - drawn_accuracy(base, layer)
    language = np.nanmean(np.concatenate([difference, difference.swapaxes(1, 2)], axis=2), axis=2)
    aligned = [4, 6]
    expected = {
        ("layers", "group", "mean"): np.nanmean(difference, axis=(1, 2)),
        ("layers", "group", "to_english"): np.nanmean(difference[:, :, 0], axis=1),
        ("layers", "group", "aligned"): language[:, aligned].mean(axis=1),
        ("layers", "group", "not_aligned"): np.delete(language, aligned, axis=1).mean(axis=1),
        ("languages", "language", "rus_Cyrl"): language[:, 2],
    }
    for (table, column, name), drawn in expected.items():
        found = row(report.frame(table), layer=layer, **{column: name})
        assert [found["low"], found["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-12)
    found = row(report.frame("directions"), layer=layer, src="jav_Latn", tgt="deu_Latn")
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(difference[:, 4, 1], [0.025, 0.975]), abs=1e-7)
    accuracy = [result.accuracy(layer)[4, 1] for result in (base, lifted)]
    assert [found["base"], found["other"], found["difference"]] == [*accuracy, accuracy[1] - accuracy[0]]


def test_groups_are_those_of_the_summaries(report: Report, base: RetrievalResult, lifted: RetrievalResult) -> None:
    summaries = base.summary(), lifted.summary()
    for layer in range(5):
        for group in ("mean", "same_script", "cross_script", "to_english", "from_english", "high", "low"):
            found = row(report.frame("layers"), layer=layer, group=group)
            expected = [summary["layers"][layer][group] for summary in summaries]
            assert [found["base"], found["other"]] == pytest.approx(expected)
            assert found["difference"] == pytest.approx(expected[1] - expected[0])
            assert found["base_low"] <= found["base"] <= found["base_high"]
            assert found["other_low"] <= found["other"] <= found["other_high"]
    for control in ("char", "length"):
        found = row(report.frame("controls"), control=control, group="low")
        assert found["accuracy"] == pytest.approx(summaries[0]["controls"][control]["low"])
        assert (report.frame("layers").query("group == 'low'")[control] == found["accuracy"]).all()


def test_a_result_against_itself_differs_by_nothing(folder: Path, base: RetrievalResult, tmp_path: Path) -> None:
    reordered(base, [3, 1, 0, 7, 2, 6, 5, 4]).save(tmp_path / "again")
    same = compare(folder / "base", [tmp_path / "again"], documents=DOCUMENTS, draws=DRAWS)
    for table in ("layers", "directions", "languages", "aggregate"):
        assert (same.frame(table)[["difference", "low", "high"]] == 0).all(axis=None)
    assert (same.frame("spread")[["mean", "sd"]] == 0).all(axis=None)
    assert same.facts["differs"] == {"again": {}}
    assert "again and base were made with the same settings." in same.remarks
    assert "at 0 of 5 layers the interval leaves out 0" in same.remarks[0]
    assert not any("control" in remark for remark in same.remarks)  # none that differ


def test_pairing_narrows_the_interval(report: Report, base: RetrievalResult, lifted: RetrievalResult) -> None:
    """Two results share their hard sentences: draws of their own for each would not know that."""
    found = row(report.frame("layers"), layer=2, group="mean")
    first, second = Bootstrap.of(DOCUMENTS, 2000, 1), Bootstrap.of(DOCUMENTS, 2000, 2)
    off_diagonal = ~np.eye(8, dtype=bool)
    drawn = [
        bootstrap.shares(DOCUMENTS.sums(result.hits(2))[off_diagonal].sum(axis=0, dtype=np.float64), 56.0)
        for bootstrap, result in ((first, base), (second, lifted))
    ]
    low, high = np.quantile(drawn[1] - drawn[0], [0.025, 0.975])
    assert found["high"] - found["low"] < 0.9 * (high - low)


def test_order_of_languages_changes_nothing(
    folder: Path, lifted: RetrievalResult, report: Report, tmp_path: Path
) -> None:
    reordered(lifted, [3, 1, 0, 7, 2, 6, 5, 4]).save(tmp_path / "lifted")
    turned = compare(folder / "base", [tmp_path / "lifted"], aligned="jv,sw", documents=DOCUMENTS, draws=DRAWS, seed=4)
    for name in report.tables:
        pd.testing.assert_frame_equal(turned.frame(name), report.frame(name))
    assert turned.remarks == report.remarks


def test_spread_is_over_the_languages(report: Report) -> None:
    languages = report.frame("languages")
    for layer in range(5):
        gains = languages[languages["layer"] == layer].set_index("language")["difference"]
        for group, members in {
            "all": CODES,
            "low": ("jav_Latn", "khm_Khmr"),
            "aligned": ("jav_Latn", "swh_Latn"),
        }.items():
            found = row(report.frame("spread"), layer=layer, group=group)
            own = gains[list(members)].to_numpy()
            assert found["n"] == len(members)
            assert [found["mean"], found["sd"]] == pytest.approx([own.mean(), np.std(own, ddof=1)])


def test_aggregate_is_over_even_layers_with_its_paired_interval(
    report: Report, base: RetrievalResult, lifted: RetrievalResult
) -> None:
    found = report.frame("aggregate").iloc[0]
    assert [found["base"], found["other"]] == pytest.approx([base.aggregate(), lifted.aggregate()])
    drawn = [np.nanmean([drawn_accuracy(each, layer) for layer in (2, 4)], axis=(0, 2, 3)) for each in (base, lifted)]
    low, high = np.quantile(drawn[1] - drawn[0], [0.025, 0.975])
    assert [found["difference"], found["low"], found["high"]] == pytest.approx(
        [lifted.aggregate() - base.aggregate(), low, high], abs=1e-12
    )
    assert found[["published_base", "published_other"]].isna().all()


def test_several_results_share_base_and_draws(
    folder: Path, base: RetrievalResult, report: Report, tmp_path: Path
) -> None:
    replace(base, layers=dict(base.layers), settings={**base.settings, "pooling": "last"}).save(tmp_path / "last")
    both = compare(
        folder / "base",
        [tmp_path / "last", folder / "lifted"],
        aligned="jv,sw",
        documents=DOCUMENTS,
        draws=DRAWS,
        seed=4,
    )
    for name in ("layers", "directions", "languages", "spread", "aggregate"):
        own = both.frame(name)
        pd.testing.assert_frame_equal(
            own[own["model"] == "lifted"].reset_index(drop=True), report.frame(name), check_dtype=False
        )
    assert both.facts["differs"] == {
        "last": {"pooling": ["mean", "last"]},
        "lifted": {"model.adapter": [None, "align2"]},
    }
    assert [other["name"] for other in both.facts["others"]] == ["last", "lifted"]
    assert "base / lifted differ in model.adapter (None / align2)." in both.remarks


def test_the_first_remark_tells_the_change(report: Report) -> None:
    at = row(report.frame("layers"), layer=2, group="mean")
    assert report.facts["layer"] == 2  # where the base is best
    assert report.remarks[0].startswith(
        f"lifted: mean accuracy {100 * at['difference']:+.2f} points at layer 2 "
        f"(95 % interval {100 * at['low']:+.2f} to {100 * at['high']:+.2f})"
    )
    means = report.frame("layers").query("group == 'mean'")
    clear = ((means["low"] > 0) | (means["high"] < 0)).sum()
    assert f"at {clear} of 5 layers" in report.remarks[0]


def test_the_largest_change_may_be_a_loss(folder: Path) -> None:
    report = compare(folder / "lifted", [folder / "base"], draws=100)
    means = report.frame("layers").query("group == 'mean'").set_index("layer")["difference"]
    layer = means.abs().idxmax()
    assert means[layer] < -0.01
    assert f"; largest change {100 * means[layer]:+.2f} at layer {layer}; " in report.remarks[0]


def test_the_digest_is_of_what_was_found(base: RetrievalResult, lifted: RetrievalResult) -> None:
    assert digest_of(replace(base, settings={}, tokens={})) == digest_of(base)
    turned = dict(sorted(base.layers.items(), reverse=True))
    assert digest_of(replace(base, layers=turned)) == digest_of(base)
    others = [lifted, replace(base, controls={}), reordered(base, [1, 0, *range(2, len(base.languages))])]
    assert len({digest_of(base), *map(digest_of, others)}) == 4


def test_one_layer_alone(folder: Path, report: Report) -> None:
    one = compare(
        folder / "base", [folder / "lifted"], layer="3", aligned="jv,sw", documents=DOCUMENTS, draws=DRAWS, seed=4
    )
    for name in ("layers", "directions", "languages", "spread"):
        whole = report.frame(name)
        pd.testing.assert_frame_equal(one.frame(name), whole[whole["layer"] == 3].reset_index(drop=True))
    pd.testing.assert_frame_equal(one.frame("aggregate"), report.frame("aggregate"))
    assert one.facts["layers"] == [3]


def test_it_can_be_saved_and_read_back(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    held = Report.load(tmp_path)
    assert held.facts == report.facts
    pd.testing.assert_frame_equal(held.frame("layers"), report.frame("layers"))
    assert len(held.frame("directions")) == 5 * 56
    shown = (tmp_path / "directions.md").read_text(encoding="utf-8")
    assert "from eng_Latn at layer 2" in shown
    assert shown.count("\n| lifted") == 7


def test_the_paper_s_values_stand_beside_ours(simulate: Simulate, tmp_path: Path) -> None:
    result = simulate(languages=language_sets()["mt9"], depth=2, rows=997)
    for name, model in (("llama", "meta-llama/Meta-Llama-3-8B-Instruct"), ("qwen", "Qwen/Qwen2.5-7B-Instruct")):
        settings = {**result.settings, "model": {"name": model, "adapter": None}}
        settings["corpus"] = {"name": "flores200", "split": "dev"}
        replace(result, settings=settings).save(tmp_path / name)
    report = compare(tmp_path / "llama", [tmp_path / "qwen"], documents="sentences", draws=100)
    found = report.frame("aggregate").iloc[0]
    assert [found["published_base"], found["published_other"]] == [0.515, 0.365]
    table = report.tables["aggregate"]
    assert list(table.shown())[-2:] == ["paper, base", "paper, other"]
    assert "the paper's" in table.caption


def test_without_values_of_the_paper_none_are_promised(report: Report) -> None:
    table = report.tables["aggregate"]
    assert not any("paper" in heading for heading in table.shown())
    assert "paper" not in table.caption


def test_a_limit_and_other_languages_of_the_corpus_do_not_count(
    folder: Path, lifted: RetrievalResult, report: Report, tmp_path: Path
) -> None:
    """The same sentences are the same, whether a limit left them, or a corpus of more languages or another name held them."""
    corpus = lifted.settings["corpus"]
    wider = {**corpus, "name": "other", "digests": {**corpus["digests"], "fra_Latn": "7"}}
    replace(lifted, settings={**lifted.settings, "limit": 60, "corpus": wider}).save(tmp_path / "lifted")
    again = compare(folder / "base", [tmp_path / "lifted"], aligned="jv,sw", documents=DOCUMENTS, draws=DRAWS, seed=4)
    pd.testing.assert_frame_equal(again.frame("layers"), report.frame("layers"))


def test_a_text_without_a_digest_is_taken_on_trust(folder: Path, lifted: RetrievalResult, tmp_path: Path) -> None:
    corpus = {**lifted.settings["corpus"], "digests": {"jav_Latn": "0"}}
    replace(lifted, settings={**lifted.settings, "corpus": corpus}).save(tmp_path / "lifted")
    report = compare(folder / "base", [tmp_path / "lifted"], documents=DOCUMENTS, draws=DRAWS)
    assert any("taken on trust" in remark for remark in report.remarks)


def test_people_read_what_a_group_is(report: Report) -> None:
    shown = report.tables["groups"].shown()["over"].tolist()
    assert shown[:2] == ["all directions", "same-script directions"]
    assert set(report.tables["spread"].shown()["over"]) == {
        "all languages", "high-resource languages", "low-resource languages", "aligned languages", "languages not aligned",
    }  # fmt: skip
    assert set(report.frame("spread")["group"]) == {"all", "high", "low", "aligned", "not_aligned"}


def test_what_a_result_does_not_hold_is_said(base: RetrievalResult, tmp_path: Path) -> None:
    bare = replace(base, controls={}, settings={**base.settings, "corpus": None})
    odd = replace(bare, layers={1: base.layers[1]})
    for name, result in (("bare", replace(odd, settings={**odd.settings, "depth": None})), ("other", odd)):
        result.save(tmp_path / name)
    report = compare(tmp_path / "bare", [tmp_path / "other"], draws=100)
    assert any("no controls" in remark for remark in report.remarks)
    assert any("taken on trust" in remark for remark in report.remarks)
    assert report.frame("aggregate").drop(columns="model").isna().all(axis=None)
    assert report.frame("controls").empty
    report.save(tmp_path / "report")
    assert Report.load(tmp_path / "report").frame("controls").empty


def test_controls_that_differ_are_told(folder: Path, base: RetrievalResult, tmp_path: Path) -> None:
    other = replace(base, controls={"char": base.controls["length"]})
    other.save(tmp_path / "other")
    report = compare(folder / "base", [tmp_path / "other"], draws=100)
    apart = np.nanmax(abs(base.accuracy("char") - base.accuracy("length")))
    assert any(
        f"The control char of other differs from that of base by up to {100 * apart:.1f}" in each
        for each in report.remarks
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 8}, r"k 4 in base but 8 in other"),
        ({"margin": "distance"}, r"margin ratio in base but distance in other"),
        ({"corpus": {"name": "other", "split": "dev", "digests": {}}}, "corpus simulated in base but other in other"),
        ({"corpus": {"name": "simulated", "split": "test", "digests": {}}}, "split dev in base but test in other"),
        (
            {
                "corpus": {
                    "name": "simulated",
                    "split": "dev",
                    "digests": {**dict.fromkeys(CODES, "0"), "jav_Latn": "1"},
                }
            },
            "jav_Latn has another text in base than in other",
        ),
    ],
)
def test_results_of_other_settings_are_refused(
    folder: Path, base: RetrievalResult, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    replace(base, settings={**base.settings, **change}).save(tmp_path / "other")
    with pytest.raises(AnalysisError, match=message):
        compare(folder / "base", [tmp_path / "other"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 30}, "rows 60 in base but 30 in other"),
        ({"depth": 3}, "layers 4 only in base"),
        ({"languages": CODES[:-1]}, r"other languages: ukr_Cyrl \(ukr_Cyrl only in base\)"),
        ({"languages": (*CODES, "fra_Latn")}, "fra_Latn only in other"),
    ],
)
def test_results_of_another_shape_are_refused(
    folder: Path, simulate: Simulate, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    simulate(**{"languages": CODES, "depth": 4, "rows": 60, **arguments}).save(tmp_path / "other")
    with pytest.raises(AnalysisError, match=message):
        compare(folder / "base", [tmp_path / "other"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 7}, "layer 7, which base does not have.*0, 1, 2, 3, 4"),
        ({"layer": "top"}, "layer top, which base"),
        ({"layer": "²"}, "layer ², which base"),
        ({"names": ["one"]}, r"1 names for 2 inputs \(--names one\)"),
        ({"names": ["one", ""]}, r"an empty name \(--names one,\)"),
        ({"names": ["one", "one"]}, "two inputs named one"),
        ({"draws": 10}, "--draws 10"),
        (
            {"aligned": "fra_Latn"},
            "--aligned fra_Latn, but the result lacks fra_Latn; .*leave the others out of --aligned",
        ),
        ({"aligned": "weakest5,fr"}, "--aligned weakest5,fr, but the result lacks fra_Latn"),
        ({"aligned": " , "}, "'--aligned  , ' without a language"),
        ({"aligned": "germn"}, "unknown language 'germn'"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((AnalysisError, CorpusError), match=message):
        compare(folder / "base", [folder / "lifted"], **options)


def test_of_a_set_those_languages_count_that_are_there(folder: Path, report: Report) -> None:
    there = [code for code in CODES if code in language_sets()["weakest5"]]
    assert 0 < len(there) < 5
    found = compare(folder / "base", [folder / "lifted"], aligned="weakest5", draws=100)
    assert found.facts["aligned"] == there
    absent = [code for code in language_sets()["weakest5"] if code not in CODES]
    (told,) = (remark for remark in found.remarks if "weakest5" in remark)
    assert all(code in told for code in absent)
    assert not any(code in told for code in there)
    assert not any("lack" in remark for remark in report.remarks)  # all that were named are there


def test_masks_of_the_aligned_languages() -> None:
    masks = aligned_masks("weakest5, de", CODES)
    assert [code for code, own in zip(CODES, masks["aligned"], strict=True) if own] == [
        code for code in CODES if code in {*language_sets()["weakest5"], "deu_Latn"}
    ]
    np.testing.assert_array_equal(masks["not_aligned"], ~masks["aligned"])
    assert aligned_masks(None, CODES) == {}
    assert aligned_masks("all", CODES)["aligned"].all()
    with pytest.raises(AnalysisError, match="--aligned weakest5, but the result lacks"):
        aligned_masks("weakest5", CODES[:3])
    alone = next(code for code in language_sets()["weakest5"] if code not in CODES)
    with pytest.raises(AnalysisError, match=f"but the result lacks {alone}"):
        aligned_masks(f"weakest5,{alone}", CODES)


def test_why_that_layer_is_shown_is_said_where_there_was_a_choice(folder: Path, report: Report) -> None:
    assert any("shown at layer 2, the best of base over all directions" in remark for remark in report.remarks)
    one = compare(folder / "base", [folder / "lifted"], layer="3", documents=DOCUMENTS, draws=100)
    assert not any("the best of base" in remark for remark in one.remarks)


@pytest.mark.parametrize(
    ("layers", "depth", "told"),
    [((0, 1, 2), 4, "not retrieved: 4"), ((0, 1), 1, "its model has none"), ((0, 2), None, "is not known")],
)
def test_why_there_is_no_aggregate_is_said(
    base: RetrievalResult, tmp_path: Path, layers: tuple[int, ...], depth: int | None, told: str
) -> None:
    kept = {layer: base.layers[layer] for layer in layers}
    replace(base, layers=kept, settings={**base.settings, "depth": depth}).save(tmp_path / "one")
    replace(base, layers=kept).save(tmp_path / "two")
    report = compare(tmp_path / "one", [tmp_path / "two"], draws=100)
    (why,) = (remark for remark in report.remarks if remark.startswith("one has no aggregate"))
    assert told in why
    assert report.frame("aggregate")["base"].isna().all()


def test_differences_are_shown_so_finely_that_their_signs_can_be_read(report: Report) -> None:
    for name in ("layers", "groups", "languages", "directions", "aggregate"):
        shown = report.tables[name].shown()
        assert {"difference", "low", "high"} <= {*shown}
        for column in ("difference", "low", "high"):
            assert shown[column].str.fullmatch(r"-?\d+\.\d\d").all()
        assert shown["base"].str.fullmatch(r"\d+\.\d").all()


def test_a_table_and_a_base_alone_are_refused(folder: Path) -> None:
    with pytest.raises(AnalysisError, match=r"accuracy\.csv is a table"):
        compare(folder / "base", [folder / "lifted" / "accuracy.csv"])
    with pytest.raises(AnalysisError, match="base alone"):
        compare(folder / "base", [])
