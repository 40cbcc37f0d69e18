"""The audit of the paper's claims: numbers that are pinned, tests that agree with scipy, and remarks that say what was found."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.audit import (
    GAIN_TOLERANCE,
    audit,
    between_groups,
    correlation_p,
    paired_tests,
    sign_flip_p,
    unequal_spread,
)
from analysis.report import Report
from data_manifests.published import published_set


@pytest.fixture(scope="module")
def report() -> Report:
    return audit()


def gain(report: Report, model: str, group: str, metric: str = "F1") -> pd.Series:
    frame = report.frame("gains")
    (found,) = frame[(frame["model"] == model) & (frame["group"] == group) & (frame["metric"] == metric)].iloc
    return found


# Gains: what was worked out by hand for the notes on the paper


@pytest.mark.parametrize(
    ("model", "group", "n", "mean", "sd", "t_p"),
    [
        ("llama3", "transfer", 15, 1.55, 2.59, 0.036),
        ("qwen2.5", "transfer", 15, 1.82, 3.49, 0.063),
        ("llama3", "not_aligned", 10, 0.46, 1.57, 0.38),
        ("qwen2.5", "not_aligned", 10, 0.28, 2.00, 0.668),
        ("llama3", "aligned", 5, 3.74, 2.99, 0.049),
        ("llama3", "non_latin", 5, 0.30, 1.65, 0.705),
        ("qwen2.5", "non_latin", 5, 0.66, 0.52, 0.048),
    ],
)
def test_gains_are_those_worked_out_before(
    report: Report, model: str, group: str, n: int, mean: float, sd: float, t_p: float
) -> None:
    row = gain(report, model, group)
    assert row["n"] == n
    assert (row["mean"], row["sd"]) == pytest.approx((mean, sd), abs=0.005)
    assert row["t_p"] == pytest.approx(t_p, abs=0.0005 if t_p != 0.38 else 0.005)


def test_the_tests_of_signs_are_pinned(report: Report) -> None:
    llama, qwen = gain(report, "llama3", "transfer"), gain(report, "qwen2.5", "transfer")
    assert (llama["wilcoxon_p"], qwen["wilcoxon_p"]) == pytest.approx((0.104, 0.048), abs=0.0005)
    assert (llama["sign_flip_p"], qwen["sign_flip_p"]) == (1150 / 2**15, 2192 / 2**15)


def test_gains_are_those_of_the_published_sets(report: Report) -> None:
    frame = report.frame("languages").query("task == 'slots'").set_index(["model", "unit"])["difference"]
    for model in ("llama3", "qwen2.5"):
        base, other = published_set(f"{model}-sft").values, published_set(f"{model}-align").values
        expected = {code: round(other[code] - base[code], 1) for code in base}
        assert frame[model].to_dict() == pytest.approx(expected)
        assert np.array_equal(frame[model], frame[model].round(1)), "binary dust would break ties among ranks"


def test_every_claimed_group_is_tested_in_both_models(report: Report) -> None:
    counts = report.frame("gains").groupby(["task", "metric", "model"]).size()
    assert counts.to_dict() == {
        **{("slots", "F1", model): 5 for model in ("llama3", "qwen2.5")},
        **{("translation", metric, model): 4 for metric in ("BLEU", "COMET") for model in ("llama3", "qwen2.5")},
    }
    sizes = report.frame("gains").query("task == 'translation'").groupby("group")["n"].unique()
    assert {group: list(found) for group, found in sizes.items()} == {
        "supervised": [10], "to_english": [3], "from_english": [3], "transfer": [6],
    }  # fmt: skip


def test_holm_is_within_task_and_metric(report: Report) -> None:
    for _, family in report.frame("gains").groupby(["task", "metric"]):
        raw, adjusted = family["t_p"].to_numpy(), family["holm_p"].to_numpy()
        order = np.argsort(raw)
        highest = 0.0
        for step, index in enumerate(order):
            highest = max(highest, min(1.0, (len(raw) - step) * raw[index]))
            assert adjusted[index] == pytest.approx(highest)


def test_the_aligned_languages_are_tested_against_the_others(report: Report) -> None:
    frame = report.frame("aligned").set_index("model")
    assert frame[["n_aligned", "n_others", "groupings"]].to_numpy().tolist() == [[5, 10, 3003]] * 2
    assert frame["welch_p"].tolist() == pytest.approx([0.069, 0.059], abs=0.0005)
    assert frame["permutation_p"].tolist() == pytest.approx([0.012, 0.008], abs=0.0005)
    for model, row in frame.iterrows():
        assert row["difference"] == pytest.approx(
            gain(report, str(model), "aligned")["mean"] - gain(report, str(model), "not_aligned")["mean"]
        )


def test_what_the_one_survivor_rests_on_is_said_with_it(report: Report) -> None:
    (told,) = (remark for remark in report.remarks if "Holm" in remark)
    assert "n = 3" in told
    assert "no exact test of signs can fall below 0.25" in told
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 0.25


# The tests themselves

TENTHS = st.lists(st.integers(-60, 60), min_size=3, max_size=9).map(lambda values: np.array(values) / 10)


@given(TENTHS)
@settings(max_examples=30, deadline=None)
def test_sign_flips_agree_with_scipy_and_with_counting(values: np.ndarray) -> None:
    tenths = np.round(10 * values).astype(int)
    sums = [
        abs(sum(sign * each for sign, each in zip(signs, tenths, strict=True)))
        for signs in product((1, -1), repeat=len(values))
    ]
    assert sign_flip_p(values) == np.mean(np.array(sums) >= abs(tenths.sum()))
    theirs = stats.permutation_test(
        (tenths.astype(float),), np.sum, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert sign_flip_p(values) == pytest.approx(theirs.pvalue)


@given(TENTHS, TENTHS)
@settings(max_examples=20, deadline=None)
def test_tests_between_groups_agree_with_scipy(first: np.ndarray, second: np.ndarray) -> None:
    first, second = first[:5], second[:5]
    assume(np.ptp(first) > 0 and np.ptp(second) > 0)
    found = between_groups(first, second)
    welch = stats.ttest_ind(first, second, equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert (found["welch_p"], found["low"], found["high"]) == pytest.approx((welch.pvalue, interval.low, interval.high))
    whole = [np.round(10 * values).astype(int) for values in (first, second)]
    sizes = len(first), len(second)
    theirs = stats.permutation_test(  # whole numbers, so that ties are ties
        whole,
        lambda x, y: abs(sizes[1] * int(x.sum()) - sizes[0] * int(y.sum())),
        alternative="greater",
        n_resamples=np.inf,
        vectorized=False,
    )
    assert found["permutation_p"] == pytest.approx(theirs.pvalue)
    assert found["groupings"] == len(theirs.null_distribution)


@given(TENTHS)
@settings(max_examples=30, deadline=None)
def test_paired_tests_agree_with_scipy(values: np.ndarray) -> None:
    assume(np.ptp(values) > 0)
    found = paired_tests(values)
    student = stats.ttest_rel(values, np.zeros(len(values)))
    interval = student.confidence_interval(0.95)
    assert found["t_p"] == pytest.approx(student.pvalue)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
    assert (found["mean"], found["sd"]) == pytest.approx((values.mean(), np.std(values, ddof=1)))
    ranked = np.abs(values[values != 0])
    if len(ranked) > 1 and len(set(ranked)) == len(ranked):
        assert found["wilcoxon_p"] == pytest.approx(stats.wilcoxon(values[values != 0], method="exact").pvalue)


def test_paired_tests_of_no_change_at_all_say_nothing() -> None:
    found = paired_tests(np.zeros(4))
    assert np.isnan([found["t_p"], found["wilcoxon_p"]]).all()
    assert found["sign_flip_p"] == 1


@given(st.integers(0, 2**32 - 1), st.integers(4, 30))
@settings(max_examples=30, deadline=None)
def test_the_needed_correlation_is_where_pitman_and_morgans_test_reaches_its_level(seed: int, n: int) -> None:
    """The test itself is that of a correlation between sums and differences of the pairs."""
    generator = np.random.default_rng(seed)
    first = generator.normal(size=n)
    second = generator.uniform(-0.99, 0.99) * first + generator.normal(size=n)
    pitman = stats.pearsonr(first + second, first - second).pvalue
    found = unequal_spread(first.std(ddof=1), second.std(ddof=1), n)
    together = abs(stats.pearsonr(first, second).statistic)
    assert (pitman < 0.05) == (together > found["needed_r"])


def test_unequal_spread_is_pinned_and_symmetric() -> None:
    found = unequal_spread(3.3, 2.6, 15)
    assert found == unequal_spread(2.6, 3.3, 15)
    assert (found["f"], found["f_p"], found["needed_r"]) == pytest.approx((1.611, 0.383, 0.916), abs=0.002)
    assert unequal_spread(2.6, 2.6, 15) == {"f": 1.0, "f_p": 1.0, "needed_r": 1.0}


@given(st.integers(0, 2**32 - 1), st.integers(4, 40))
@settings(max_examples=30, deadline=None)
def test_p_of_a_correlation_is_scipys(seed: int, n: int) -> None:
    x, y = np.random.default_rng(seed).normal(size=(2, n))
    theirs = stats.pearsonr(x, y)
    assert correlation_p(float(theirs.statistic), n) == pytest.approx(theirs.pvalue)


# Spread, figure and disagreements


def test_the_spread_is_recomputed_where_values_by_language_exist(report: Report) -> None:
    frame = report.frame("spread").set_index(["task", "placement"])
    assert frame.loc[("slots", "align-middle"), "recomputed"] == pytest.approx(2.59, abs=0.005)
    assert frame.loc[("translation", "align-middle"), "recomputed"] == pytest.approx(0.35, abs=0.005)
    assert frame["recomputed"].notna().sum() == 2, "the rows of top and bottom are not published"
    assert frame.loc[("slots", "align-top"), "f_p"] == pytest.approx(0.383, abs=0.001)


def test_the_claim_of_figure_1b_depends_on_the_number_of_languages(report: Report) -> None:
    frame = report.frame("figure_1b").set_index(["model", "n"])["holds"]
    assert frame["llama3"].to_dict() == {15: "no", 20: "within rounding", 25: "yes"}
    assert set(frame["qwen2.5"]) == {"yes"}


def test_the_disagreements_are_the_known_ones(report: Report) -> None:
    frame = report.frame("disagreements")
    assert not frame["agrees"].any()
    found = {(row.where, row.printed, round(row.recomputed, 2)) for row in frame.itertuples()}
    assert found == {
        ("Table 2 from 12", 27.4, 28.38),
        ("Table 2 from 12", 78.4, 78.92),
        ("Table 2 from 12", 27.2, 28.24),
        ("Table 2 from 12", 77.6, 78.22),
        ("Tables 3 and 13 from 12", 3.7, 0.35),
        ("Tables 3 and 13 from 12", 3.7, 0.57),
        ("Tables 3 and 13 from 11", 62.0, 61.71),
        ("section 2", 25.0, 15.0),
    }


def test_a_claim_that_fits_under_one_reading_is_no_contradiction_and_counts_once(report: Report) -> None:
    checks, failed = report.frame("checks"), report.frame("disagreements")
    gain = checks[(checks["claim"] == "Gain on the aligned languages") & (checks["where"] == "section 5.1, from 11")]
    assert dict(zip(gain["reading"], gain["agrees"], strict=True)) == {
        "Llama 3": False, "Qwen 2.5": False, "mean of both models": True,
    }  # fmt: skip
    assert gain["fits"].all()
    assert not failed["claim"].str.startswith("Gain on").any()
    assert report.facts["disagreeing"] == 7 == len(failed) - 1  # the SD of 3.7 stands in two rows
    assert report.facts["checked"] == len(checks) - 4  # further readings: two, one and one
    assert any("Gain on non-Latin scripts (text, from 11): mean of both models" in told for told in report.remarks)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_rounding_never_moves_a_gain_further_than_its_tolerance(pairs: list[tuple[float, float]]) -> None:
    """A printed gain against the one recomputed from printed values, both of the same values before they were rounded."""
    base, other = np.array(pairs).T
    printed = (other - base).mean().round(1)
    recomputed = (other.round(1) - base.round(1)).mean()
    assert abs(printed - recomputed) <= GAIN_TOLERANCE + 1e-9
    assert GAIN_TOLERANCE <= 3 * 0.05 + 1e-9  # which 0.05 and 0.04999 reach


def test_what_agrees_is_listed_too(report: Report) -> None:
    checks = report.frame("checks")
    agreeing = checks[checks["agrees"]]
    apart = (agreeing["printed"] - agreeing["recomputed"]).abs()
    gains = agreeing["claim"].str.startswith("Gain on")
    assert apart[~gains].max() <= 0.1 + 1e-9
    assert apart[gains].round(2).tolist() == [0.06, 0.12, 0.02]
    assert (checks["where"] == "Table 2 from 11").sum() == 12
    assert (checks["where"] == "Table 2 from 12").sum() == 24
    sd = checks[checks["claim"].str.contains("SD of the transfer gains in slot F1")].iloc[0]
    assert (sd["printed"], round(sd["recomputed"], 2), bool(sd["agrees"])) == (2.6, 2.59, True)


# For people


def test_remarks_tell_the_numbers(report: Report) -> None:
    told = "\n".join(report.remarks)
    for fact in (
        "Llama 3 gains +1.55 F1 in slot filling over 15 transfer languages (SD 2.59",
        "the paired t-test p = 0.036, Wilcoxon's signed ranks p = 0.104",
        "+0.46 on these 10 (paired t-test p = 0.38)",
        "a copy of the middle",
        "p = 0.0299",
        "65 claims compared",
        "58 agree within rounding (0.1 points, a gain 0.15) under one reading at least, 7 under none",
        "Llama 3 +3.74 against +0.46 (Welch's t-test p = 0.069, exact permutation over 3003 groupings p = 0.012)",
    ):
        assert fact in told
    assert not any("nan" in remark for remark in report.remarks)


def test_every_table_names_its_source(report: Report) -> None:
    for table in report.tables.values():
        assert "Liu and Niehues (2025)" in table.caption


def test_the_report_is_saved_read_and_the_same_each_time(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "one")
    audit().save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    loaded = Report.load(tmp_path / "one")
    assert loaded.kind == "audit"
    assert loaded.remarks == report.remarks
    pd.testing.assert_frame_equal(loaded.frame("gains"), report.frame("gains"))
