"""Accuracy against scores: which languages meet, what is reported of them, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations as orders
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.accuracies import Accuracies, language_means
from analysis.correlate import CONTROLS, _ranked, correlate
from analysis.report import Report
from analysis.scores import Scores, read_scores
from data_manifests import language_sets, languages
from probe.errors import AnalysisError, CorpusError
from probe.results import RetrievalResult

PAPER = language_sets()["paper35"]
SLOTS = language_sets()["slots20"]
SUPERVISED = SLOTS[:5]

Simulate = Callable[..., RetrievalResult]


@pytest.fixture(scope="module")
def accuracies(simulate: Simulate) -> Accuracies:
    """35 languages, layers 0 to 8."""
    return Accuracies.of_result(simulate(depth=8, rows=60), "simulated")


def scores_of(values: dict[str, float], grouped: bool = True, **other: Any) -> Scores:
    groups = {code: "supervised" if code in SUPERVISED else "transfer" for code in values} if grouped else {}
    return Scores("scores", values, groups, **other)


@pytest.fixture(scope="module")
def scores() -> Scores:
    """Of the 20 languages of slot labelling, unrelated to any accuracy."""
    drawn = np.random.default_rng(3).uniform(40, 80, len(SLOTS))
    return scores_of(
        dict(zip(SLOTS, drawn.tolist(), strict=True)), task="slots", metric="F1", model="m", source="drawn"
    )


def predicted(accuracies: Accuracies, layer: int, noise: float = 0.0, codes: tuple[str, ...] = SLOTS) -> Scores:
    """Scores that follow the accuracy at a layer."""
    means = dict(zip(accuracies.languages, language_means(accuracies.at(layer), accuracies.languages), strict=True))
    extra = np.random.default_rng(1).normal(0, noise, len(codes))
    return scores_of({code: float(20 + 50 * means[code] + own) for code, own in zip(codes, extra, strict=True)})


def only(accuracies: Accuracies, codes: tuple[str, ...]) -> Accuracies:
    """The same among some of the languages, in that order."""
    chosen = [accuracies.languages.index(code) for code in codes]
    square = np.ix_(chosen, chosen)
    return replace(
        accuracies,
        languages=codes,
        values=np.stack([table[square] for table in accuracies.values]),
        controls={name: table[square] for name, table in accuracies.controls.items()},
    )


def row(report: Report, group: str, layer: str) -> pd.Series:
    frame = report.frame("correlation")
    found = frame[(frame["group"] == group) & (frame["layer"] == layer)]
    assert len(found) == 1
    return found.iloc[0]


def said(report: Report, *parts: str) -> bool:
    """Whether one remark holds all the parts."""
    return any(all(part in remark for part in parts) for remark in report.remarks)


# ---- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", ["all", "to-english", "from:rus_Cyrl,zh"])
def test_each_row_is_that_of_scipy_over_its_own_languages(
    accuracies: Accuracies, scores: Scores, relation: str
) -> None:
    report = correlate(accuracies, scores, layer="4", relation=relation, draws=200, permutations=500)
    for layer in (4, "char"):
        own = dict(
            zip(accuracies.languages, language_means(accuracies.at(layer), accuracies.languages, relation), strict=True)
        )
        for group in ("supervised", "transfer"):
            codes = [code for code in SLOTS if scores.groups[code] == group and np.isfinite(own[code])]
            x, y = (np.array([table[code] for code in codes]) for table in (own, scores.values))
            found = row(report, group, str(layer))
            pearson = stats.pearsonr(x, y)
            assert found["n"] == len(codes)
            assert found["pearson"] == pytest.approx(pearson.statistic, abs=1e-12)
            assert found["pearson_p"] == pytest.approx(pearson.pvalue, rel=1e-9)
            interval = pearson.confidence_interval()
            assert (found["fisher_low"], found["fisher_high"]) == pytest.approx(tuple(interval), abs=1e-9)
            counts = np.rint(x * 60 * 68)  # whole numbers, whose ties are exact
            spearman = stats.spearmanr(counts, y)
            assert found["spearman"] == pytest.approx(spearman.statistic, abs=1e-12)
            p = spearman.pvalue if len(codes) > 8 else spearman_p_over_all_orders(counts, y)
            assert found["spearman_p"] == pytest.approx(p, abs=1e-12)
            assert (found["kendall"], found["kendall_p"]) == pytest.approx(
                tuple(stats.kendalltau(counts, y)), abs=1e-12
            )
    assert report.frame("correlation")["group"].unique().tolist() == ["supervised", "transfer"]


def spearman_p_over_all_orders(x: np.ndarray, y: np.ndarray) -> float:
    """Literally: the share of orders of y whose |rho| is as large as the one found."""
    found = abs(stats.spearmanr(x, y).statistic)
    reached = [abs(stats.spearmanr(x, order).statistic) >= found - 1e-9 for order in orders(y)]
    return sum(reached) / len(reached)


def test_pool_of_partners_does_not_shrink_to_the_scored_languages(accuracies: Accuracies, scores: Scores) -> None:
    among_all = correlate(accuracies, scores, layer="4", draws=100, permutations=100)
    among_scored = correlate(only(accuracies, SLOTS), scores, layer="4", draws=100, permutations=100)
    points, fewer = (
        report.frame("points").query("layer == '4'").set_index("language") for report in (among_all, among_scored)
    )
    assert points.loc["deu_Latn", "accuracy"] != fewer.loc["deu_Latn", "accuracy"]
    assert said(among_all, "68 directions", "all 35 languages")
    assert said(among_scored, "38 directions", "all 20 languages")


def test_middle_and_aggregate_are_what_they_stand_for(accuracies: Accuracies, scores: Scores) -> None:
    at = {
        layer: correlate(accuracies, scores, layer=layer, draws=100, permutations=100)
        for layer in ("middle", "4", "aggregate")
    }
    numbers = ["pearson", "permutation_p", "bca_low", "bca_high"]
    assert row(at["middle"], "transfer", "middle")[numbers].equals(row(at["4"], "transfer", "4")[numbers])
    assert said(at["middle"], "the middle layer (4)")
    mean = np.mean([language_means(accuracies.at(layer), accuracies.languages) for layer in (2, 4, 6, 8)], axis=0)
    points = at["aggregate"].frame("points").query("layer == 'aggregate'").set_index("language")["accuracy"]
    for code in SLOTS:
        assert points[code] == pytest.approx(mean[PAPER.index(code)], abs=1e-12)


def test_a_layer_has_the_same_numbers_alone_and_among_all(accuracies: Accuracies, scores: Scores) -> None:
    together = correlate(accuracies, scores, layer="all", draws=300, permutations=300)
    alone = correlate(accuracies, scores, layer="3", draws=300, permutations=300)
    for group in ("supervised", "transfer"):
        for layer in ("3", "char"):
            one, other = (row(report, group, layer).drop(["max_p", "holm_p"]) for report in (alone, together))
            numeric = [name for name in one.index if name not in ("layer", "group")]
            np.testing.assert_allclose(one[numeric].astype(float), other[numeric].astype(float), atol=1e-9)
    assert alone.frame("correlation")["max_p"].isna().all()
    layers = together.frame("correlation").query("layer != 'char'")
    assert (layers["max_p"] >= layers["permutation_p"]).all()
    assert (layers["holm_p"] >= layers["permutation_p"]).all()
    assert together.frame("correlation").query("layer == 'char'")[["max_p", "holm_p"]].isna().all(axis=None)


def test_few_languages_are_enumerated_and_many_drawn(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, draws=100, permutations=150)
    few, many = (row(report, group, "middle") for group in ("supervised", "transfer"))
    assert (few["exact"], few["permutations"]) == (True, 120)
    assert (many["exact"], many["permutations"]) == (False, 150)
    assert np.isnan([few["bca_low"], few["bca_high"]]).all()
    assert many["bca_low"] < many["pearson"] < many["bca_high"]
    assert said(report, "Supervised languages (5)", "no bootstrap interval")
    assert not said(report, "Transfer languages (15)", "no bootstrap interval")


def test_range_without_one_family_by_leaving_it_out(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, layer="4", draws=100, permutations=100)
    means = dict(zip(PAPER, language_means(accuracies.at(4), PAPER), strict=True))
    transfer = [code for code in SLOTS if code not in SUPERVISED]
    without = []
    for family in {languages()[code].family for code in transfer}:
        rest = [code for code in transfer if languages()[code].family != family]
        without.append(stats.pearsonr([means[code] for code in rest], [scores.values[code] for code in rest]).statistic)
    found = row(report, "transfer", "4")
    assert (found["family_low"], found["family_high"]) == pytest.approx((min(without), max(without)), abs=1e-12)
    assert said(report, "Supervised languages (5)", "without Indo-European fewer than 4")


def test_languages_of_one_family_have_no_range(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, langs="en,es,ru,de,fr,is", draws=100, permutations=100)
    assert np.isnan(row(report, "chosen", "middle")[["family_low", "family_high"]].astype(float)).all()


def test_languages_without_a_known_family_are_families_of_their_own(simulate: Simulate) -> None:
    codes = tuple(f"qa{letter}_Latn" for letter in "abcdefg")  # reserved for private use
    own = Accuracies.of_result(simulate(languages=codes, depth=4, rows=60))
    score = np.random.default_rng(2).uniform(40, 80, 7)
    made_up = Scores("private", dict(zip(codes, score.tolist(), strict=True)))
    x = language_means(own.at(2), codes)
    without = [stats.pearsonr(np.delete(x, i), np.delete(score, i)).statistic for i in range(7)]
    found = row(correlate(own, made_up, draws=100, permutations=100), "all", "middle")
    assert (found["family_low"], found["family_high"]) == pytest.approx((min(without), max(without)), abs=1e-12)


def test_points_and_band_are_drawn_from_the_same_numbers(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, layer="all", draws=100, permutations=100)
    points, band = report.frame("points"), report.frame("band")
    assert len(points) == 10 * 20  # 9 layers and the control
    for (group, layer), line in band.groupby(["group", "layer"]):
        own = points[(points["group"] == group) & (points["layer"] == layer)]
        assert len(line) == 50
        assert (line["x"].min(), line["x"].max()) == (own["accuracy"].min(), own["accuracy"].max())
        fit = stats.linregress(own["accuracy"], own["score"])
        np.testing.assert_allclose(line["fit"], fit.intercept + fit.slope * line["x"], rtol=1e-9)
        assert (line["low"] < line["fit"]).all()
        assert (line["fit"] < line["high"]).all()
    assert len(band) == 50 * 10 * 2


def test_same_seed_same_report_and_another_seed_other_draws(accuracies: Accuracies, scores: Scores) -> None:
    first, same, other = (
        correlate(accuracies, scores, draws=300, permutations=300, seed=seed).frame("correlation") for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, same)
    assert (first["pearson"] == other["pearson"]).all()
    assert (first["bca_low"].dropna() != other["bca_low"].dropna()).all()


def test_order_of_languages_does_not_matter(accuracies: Accuracies, scores: Scores) -> None:
    turned = replace(scores, values=dict(reversed(scores.values.items())))
    one = correlate(accuracies, scores, draws=200, permutations=200).frame("correlation")
    other = correlate(only(accuracies, PAPER[::-1]), turned, draws=200, permutations=200).frame("correlation")
    pd.testing.assert_frame_equal(one, other, rtol=1e-9)


def test_pooling_supervised_and_transfer_languages_inflates_r(accuracies: Accuracies) -> None:
    """Two clouds without a slope of their own make a line together; that is why groups stay apart."""
    means = pd.Series(language_means(accuracies.at(4), PAPER), PAPER).sort_values()
    top = means.index[-12:]
    drawn = np.random.default_rng(1).normal(0, 2, len(PAPER))
    values = {code: float((80 if code in top else 40) + own) for code, own in zip(PAPER, drawn, strict=True)}
    grouped = Scores("two", values, {code: "supervised" if code in top else "transfer" for code in PAPER})
    apart = correlate(accuracies, grouped, layer="4", draws=100, permutations=200)
    pooled = correlate(accuracies, grouped, layer="4", langs="all", draws=100, permutations=200)
    assert (apart.frame("correlation").query("layer == '4'")["permutation_p"] > 0.05).all()
    assert row(pooled, "chosen", "4")["pearson"] > 0.6
    assert row(pooled, "chosen", "4")["permutation_p"] < 0.01
    assert said(pooled, "supervised and transfer languages are pooled")
    assert not said(apart, "pooled")


# ---- given controls ------------------------------------------------------------------------------------------


def test_partial_correlations_singly_and_jointly(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, layer="4", given=("char", "level"), draws=100, permutations=100)
    partial = report.frame("partial").set_index("controls")
    assert partial.index.tolist() == ["char", "level", "char + level"]
    assert (partial["group"] == "transfer").all()  # five supervised languages leave 2 degrees of freedom
    assert partial["df"].tolist() == [12, 12, 11]
    assert said(report, "Supervised languages (5)", "char or level", "n - 2 - k = 2 is below 5")
    transfer = sorted(code for code in SLOTS if code not in SUPERVISED)
    index = [PAPER.index(code) for code in transfer]
    x, char = (language_means(accuracies.at(layer), PAPER)[index] for layer in (4, "char"))
    y = np.array([scores.values[code] for code in transfer])
    level = np.array([languages()[code].level == "high" for code in transfer], dtype=float)
    for told, controls in (("char", [char]), ("level", [level]), ("char + level", [char, level])):
        design = np.column_stack([np.ones(15), *controls])
        left_x, left_y = (side - design @ np.linalg.lstsq(design, side, rcond=None)[0] for side in (x, y))
        assert partial.loc[told, "pearson"] == pytest.approx(stats.pearsonr(left_x, left_y).statistic, abs=1e-9)


def test_without_a_choice_every_known_control_is_given_singly(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, layer="all", draws=100, permutations=100)
    assert set(report.frame("partial")["controls"]) == set(CONTROLS)
    assert set(report.frame("partial")["layer"]) == {str(layer) for layer in range(9)}
    bare = replace(accuracies, tokens={}, controls={})
    fewer = correlate(bare, scores, layer="4", draws=100, permutations=100)
    assert set(fewer.frame("partial")["controls"]) == {"script", "level"}
    assert said(fewer, "given tokens", "not known")
    assert said(fewer, "no char control")
    assert set(fewer.frame("correlation")["layer"]) == {"4"}


def test_a_control_that_is_the_same_for_all_is_said_to_be(accuracies: Accuracies, scores: Scores) -> None:
    latin = ",".join(code for code in SLOTS if code.endswith("Latn"))
    report = correlate(accuracies, scores, langs=latin, given=("script",), draws=100, permutations=100)
    assert report.frame("partial").empty
    assert said(report, "given script", "the same for all")


def test_a_control_that_is_the_score_is_said_to_be(accuracies: Accuracies, scores: Scores) -> None:
    same = replace(accuracies, tokens=scores.values)
    report = correlate(same, scores, langs="transfer", given=("tokens",), draws=100, permutations=100)
    assert report.frame("partial").empty
    assert said(report, "given tokens", "all there is")


@pytest.mark.parametrize("given", [("tokens", "script", "char"), ("length",), ("char", "char")])
def test_controls_that_do_not_exist_or_are_too_many_are_refused(
    accuracies: Accuracies, scores: Scores, given: tuple[str, ...]
) -> None:
    with pytest.raises(AnalysisError, match=f"--given {','.join(given)}; expected one or two different ones"):
        correlate(accuracies, scores, given=given)


def test_a_control_that_was_asked_for_but_is_not_known_is_refused(accuracies: Accuracies, scores: Scores) -> None:
    with pytest.raises(AnalysisError, match="--given tokens, which simulated does not know for arb_Arab"):
        correlate(replace(accuracies, tokens={}), scores, given=("tokens",))


# ---- which languages -----------------------------------------------------------------------------------------


def test_every_language_is_counted_or_dropped_with_a_reason(accuracies: Accuracies, scores: Scores) -> None:
    values = {**scores.values, "ace_Latn": 50.0, "ita_Latn": 60.0}
    report = correlate(
        accuracies,
        replace(scores, values=values),
        relation="to-english",
        exclude="zh,weakest5",
        draws=100,
        permutations=100,
    )
    dropped = dict(report.frame("dropped").itertuples(index=False))
    counted = {code for codes in report.facts["languages"].values() for code in codes}
    assert counted | set(dropped) == {*PAPER, *values}
    assert not counted & set(dropped)
    assert dropped["ace_Latn"] == "scored, but not in the result"
    assert dropped["kor_Hang"] == "in the result, but without a score"
    assert dropped["ita_Latn"] == "in no group of the scores"
    assert dropped["eng_Latn"] == "has no direction of --relation to-english"
    assert dropped["jpn_Jpan"] == dropped["zho_Hans"] == "left out with --exclude"
    assert dropped["arb_Arab"].startswith("in a group that is left out: fewer than 4")  # ar, es and ru remain
    assert said(report, "Supervised languages (3): left out")
    assert said(report, "6 languages not counted: left out with --exclude")
    assert report.frame("correlation")["group"].unique().tolist() == ["transfer"]


def test_chosen_languages_are_one_sample(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, langs="supervised,de,fra_Latn,am", exclude="en", draws=100, permutations=100)
    assert report.facts["languages"] == {
        "chosen": ["arb_Arab", "deu_Latn", "fra_Latn", "rus_Cyrl", "spa_Latn", "zho_Hans"]
    }
    dropped = dict(report.frame("dropped").itertuples(index=False))
    assert dropped["amh_Ethi"] == "in the result, but without a score"
    assert dropped["hin_Deva"] == "not among --langs"


def test_transfer_alone_is_the_transfer_group(accuracies: Accuracies, scores: Scores) -> None:
    chosen = correlate(accuracies, scores, langs="transfer", draws=100, permutations=100)
    grouped = correlate(accuracies, scores, draws=100, permutations=100)
    one, other = row(chosen, "chosen", "middle"), row(grouped, "transfer", "middle")
    assert one.drop("group").equals(other.drop("group"))
    assert not said(chosen, "pooled")


def test_scores_without_groups_are_one_sample_with_a_warning(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, replace(scores, groups={}), draws=100, permutations=100)
    assert report.frame("correlation")["group"].unique().tolist() == ["all"]
    assert said(report, "pooling them inflates r")


def test_a_set_of_partners_can_be_the_supervised_languages(accuracies: Accuracies, scores: Scores) -> None:
    named, listed = (
        correlate(accuracies, scores, relation=relation, draws=100, permutations=100)
        for relation in ("from:supervised", "from:" + ",".join(SUPERVISED))
    )
    pd.testing.assert_frame_equal(named.frame("correlation"), listed.frame("correlation"))
    assert named.facts["relation"] == "from:supervised"
    codes = [code for code in PAPER if code in SUPERVISED]
    assert named.facts["directions"] == f"from:{','.join(codes)}"
    assert said(named, "the mean over the directions from", *codes)
    means = language_means(accuracies.values, PAPER, named.facts["directions"])
    points = named.frame("points").query("layer == 'middle'").set_index("language")["accuracy"]
    assert points["deu_Latn"] == means[4, PAPER.index("deu_Latn")]


def test_the_directions_are_told_in_codes(accuracies: Accuracies, scores: Scores) -> None:
    for relation, directions in (
        ("all", "all"),
        ("to-english", "to:eng_Latn"),
        ("from:zh, ru,zho_Hans", "from:zho_Hans,rus_Cyrl"),
    ):
        report = correlate(accuracies, scores, relation=relation, draws=100, permutations=100)
        assert report.facts["directions"] == directions


def test_a_relation_to_languages_that_the_result_lacks_is_refused(accuracies: Accuracies, scores: Scores) -> None:
    fewer = only(accuracies, tuple(code for code in PAPER if code not in SUPERVISED))
    with pytest.raises(AnalysisError, match="no language of the result is supervised"):
        correlate(fewer, scores, relation="to:supervised")
    for relation, lacking in (("to-english", "eng_Latn"), ("from:ru,de", "rus_Cyrl")):
        with pytest.raises(AnalysisError, match=f"--relation .*but the result lacks {lacking}.*out of --relation"):
            correlate(fewer, scores, relation=relation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"langs": "de,fr,is"}, r"Chosen languages \(3\): left out, fewer than 4 .*at least 4 shared languages"),
        ({"langs": ","}, "--langs ','; expected at least one language"),
        (
            {"exclude": "supervised,transfer"},
            r"--exclude leaves 0 languages \(supervised,transfer\); expected",
        ),
        ({"exclude": "all"}, r"--exclude leaves 0 languages \(all\); expected at least 4 .*exclude fewer"),
        ({"layer": "99"}, "layer 99 of simulated; expected one of 0-8"),
        ({"layer": "best"}, "--layer best; expected a layer's number, middle, aggregate or all"),
        ({"layer": "-1"}, "--layer -1"),
        ({"layer": "²"}, "--layer ²"),
        ({"relation": "towards-english"}, "--relation towards-english"),
        ({"draws": 5}, "--draws 5; expected 100 to 100000"),
        ({"draws": 10**9}, "--draws 1000000000; expected 100 to 100000"),
        ({"permutations": 0}, "--permutations 0; expected 100 to 100000"),
        ({"permutations": 100_001}, "--permutations 100001; expected 100 to 100000"),
    ],
)
def test_what_names_nothing_is_refused(
    accuracies: Accuracies, scores: Scores, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(AnalysisError, match=message):
        correlate(accuracies, scores, **options)


def test_groups_that_the_scores_do_not_name_are_refused(accuracies: Accuracies, scores: Scores) -> None:
    ungrouped = replace(scores, groups={})
    for options in ({"langs": "transfer"}, {"exclude": "transfer"}, {"relation": "to:transfer"}):
        with pytest.raises(AnalysisError, match="names no transfer languages"):
            correlate(accuracies, ungrouped, **options)


def test_an_unknown_language_is_refused(accuracies: Accuracies, scores: Scores) -> None:
    with pytest.raises(CorpusError, match=r"unknown language 'germn'.*did you mean"):
        correlate(accuracies, scores, langs="germn,fr,de,is,tr")


@pytest.mark.parametrize("option", ["langs", "exclude"])
@pytest.mark.parametrize(("given", "meant"), [("transfr", "transfer"), ("suprevised", "supervised"), ("alll", "all")])
def test_a_misspelt_group_is_suggested(
    accuracies: Accuracies, scores: Scores, option: str, given: str, meant: str
) -> None:
    with pytest.raises(CorpusError, match=rf"unknown language '{given}'.*did you mean {meant}\?"):
        correlate(accuracies, scores, **{option: given})


# ---- what is undefined ---------------------------------------------------------------------------------------


def test_a_constant_score_is_refused(accuracies: Accuracies) -> None:
    with pytest.raises(AnalysisError, match="all scores are 50, and a correlation with a constant is undefined"):
        correlate(accuracies, scores_of(dict.fromkeys(SLOTS, 50.0)))


def test_a_group_of_one_score_is_left_out(accuracies: Accuracies, scores: Scores) -> None:
    values = {code: 70.0 if code in SUPERVISED else score for code, score in scores.values.items()}
    report = correlate(accuracies, replace(scores, values=values), draws=100, permutations=100)
    assert report.frame("correlation")["group"].unique().tolist() == ["transfer"]
    assert said(report, "Supervised languages (5): left out, all scores are 70")


def test_a_constant_layer_is_an_empty_row_among_others_and_refused_alone(
    accuracies: Accuracies, scores: Scores
) -> None:
    values = accuracies.values.copy()
    values[2] = np.where(np.isnan(values[2]), np.nan, 0.3)
    flat = replace(accuracies, values=values)
    report = correlate(flat, scores, layer="all", draws=100, permutations=100)
    undefined = row(report, "transfer", "2")
    assert undefined[["pearson", "spearman", "permutation_p", "max_p", "holm_p", "bca_low"]].isna().all()
    assert report.frame("correlation").query("layer != '2'")[["pearson", "permutation_p"]].notna().all(axis=None)
    assert "2" not in set(report.frame("partial")["layer"]) | set(report.frame("band")["layer"])
    assert said(report, "Transfer languages (15)", "at layer 2", "undefined")
    with pytest.raises(AnalysisError, match="layer 2: one accuracy for all languages"):
        correlate(flat, scores, layer="2", draws=100, permutations=100)


def test_the_ranks_of_four_languages_that_agree_are_two_orders_of_24() -> None:
    found = _ranked(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 5.0, 6.0, 9.0]), True)
    assert found["spearman_p"] == found["kendall_p"] == pytest.approx(2 / 24)


# ---- what people read ----------------------------------------------------------------------------------------


def test_a_correlation_that_is_there_is_found_and_named(accuracies: Accuracies) -> None:
    report = correlate(accuracies, predicted(accuracies, 5, noise=1.0), layer="all", draws=200, permutations=999)
    verdict = next(remark for remark in report.remarks if remark.startswith("Transfer languages (15): of 9 layers"))
    assert "over all layers" in verdict
    assert verdict.endswith("languages that are retrieved better score higher.")
    best = report.frame("correlation").query("group == 'transfer' and layer != 'char'")
    assert best["max_p"].min() == 1 / 1000
    single = correlate(accuracies, predicted(accuracies, 5, noise=1.0), layer="5", draws=200, permutations=999)
    assert said(single, "Transfer languages (15), layer 5: r = 0.9", "permutation p = 0.001", "score higher")


def test_unrelated_scores_are_said_to_be_so_beside_the_control(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, layer="4", draws=200, permutations=500)
    assert row(report, "transfer", "4")["permutation_p"] > 0.05
    assert said(report, "Transfer languages (15), layer 4", "no correlation was found", "below 0.51")
    assert said(report, "Transfer languages (15), char control: r =")
    assert said(report, "share directions", "not independent")


def test_the_partial_correlations_are_told_at_the_layer_that_is_listed(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, layer="all", draws=100, permutations=200)
    partial = report.tables["partial"]
    assert partial.where == {"layer": "4"}
    rows = partial.frame.query("layer == '4' and group == 'transfer'")
    told = [f"{row.controls} r = {row.pearson:.2f}" for row in rows.itertuples()]
    alone = f"without controls r = {row(report, 'transfer', '4')['pearson']:.2f}"
    assert said(report, "Transfer languages (15), layer 4: partial correlation given", *told, alone)
    at_middle = correlate(accuracies, scores, draws=100, permutations=200)
    assert said(at_middle, "Transfer languages (15), the middle layer (4): partial correlation given", *told, alone)


def test_the_p_to_cite_is_named_where_there_are_several(accuracies: Accuracies, scores: Scores) -> None:
    several = correlate(accuracies, scores, layer="all", draws=100, permutations=200)
    assert said(several, "p (all layers)", "Holm's does not")
    assert "p (all layers)" in several.tables["correlation"].shown()
    assert not said(correlate(accuracies, scores, layer="4", draws=100, permutations=200), "p (all layers)")


def test_reasons_why_something_is_missing_come_last(accuracies: Accuracies, scores: Scores) -> None:
    noted = replace(scores, notes=("were shares",))
    report = correlate(replace(accuracies, tokens={}), noted, draws=100, permutations=100)
    missing = ("no bootstrap interval", "no partial correlation", "No partial correlation", "fewer than")
    reasons = [any(part in remark for part in missing) for remark in report.remarks]
    assert sum(reasons) >= 3
    assert all(reasons[-sum(reasons) :])


def test_an_untrained_model_is_said_to_be(accuracies: Accuracies, scores: Scores) -> None:
    untrained = replace(accuracies, settings={"model": {"name": "builtin:tiny"}})
    assert said(correlate(untrained, scores, draws=100, permutations=100), "not trained", "no correlation is expected")
    assert not said(correlate(accuracies, scores, draws=100, permutations=100), "not trained")


def test_notes_of_the_scores_are_carried(accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, replace(scores, notes=("were shares",)), draws=100, permutations=100)
    assert "scores: were shares" in report.remarks


def test_report_can_be_saved_and_read_back(tmp_path: Path, accuracies: Accuracies, scores: Scores) -> None:
    report = correlate(accuracies, scores, layer="middle", draws=100, permutations=100)
    report.save(tmp_path / "report")
    loaded = Report.load(tmp_path / "report")
    assert loaded.facts == report.facts
    assert loaded.facts["scores"]["metric"] == "F1"
    for name in ("correlation", "partial", "points", "band", "dropped"):
        pd.testing.assert_frame_equal(loaded.frame(name), report.frame(name), check_dtype=False)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "the middle layer (4)" in page
    assert "drawn, not listed" not in page  # the band's 100 rows are no reading matter
    everything_shared = correlate(only(accuracies, SLOTS), scores, draws=100, permutations=100)
    everything_shared.save(tmp_path / "none-dropped")
    assert Report.load(tmp_path / "none-dropped").frame("dropped").empty


def test_a_bare_table_correlates_as_its_result_does(tmp_path: Path, simulate: Simulate, scores: Scores) -> None:
    result = simulate(depth=4, rows=60)
    result.save(tmp_path / "result")
    folder = correlate(Accuracies.read(tmp_path / "result"), scores, layer="2", draws=200, permutations=200)
    table = correlate(
        Accuracies.read(tmp_path / "result" / "accuracy.csv"), scores, layer="2", draws=200, permutations=200
    )
    without_char = folder.frame("correlation").query("layer != 'char'").reset_index(drop=True)
    pd.testing.assert_frame_equal(table.frame("correlation"), without_char, rtol=1e-9)
    with pytest.raises(AnalysisError, match="number of blocks is not known"):
        correlate(Accuracies.read(tmp_path / "result" / "accuracy.csv"), scores)


def test_published_scores_meet_a_result(accuracies: Accuracies) -> None:
    report = correlate(accuracies, read_scores("paper:llama3-sft"), draws=100, permutations=100)
    assert {group: len(codes) for group, codes in report.facts["languages"].items()} == {
        "supervised": 5,
        "transfer": 15,
    }


def test_every_layer_of_a_paper_sized_result_is_quick(simulate: Simulate, scores: Scores) -> None:
    accuracies = Accuracies.of_result(simulate(rows=16))
    assert accuracies.values.shape == (33, 35, 35)
    start = time.perf_counter()
    report = correlate(accuracies, scores, layer="all")
    assert time.perf_counter() - start < 5  # 0.4 s on an idle core
    assert len(report.frame("correlation")) == 34 * 2
