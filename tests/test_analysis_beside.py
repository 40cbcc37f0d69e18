"""Ours beside the paper's, from folders such as the commands leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.beside import _of_runs, beside, mean_of_runs
from analysis.compare import compare
from analysis.seeds import over_seeds
from data_manifests import language_sets
from data_manifests.published import language_groups
from figures.reproduced import draw_reproduced
from figures.tuned import tuned
from probe.steps import Steps, make_plan

SLOTS = language_sets()["slots20"]


def scores(folder: Path, level: float, codes: tuple[str, ...] = SLOTS) -> None:
    """metrics.csv whose F1 is `level` in the first language and one point more in each that follows."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["language,metric,value,low,high"]
    lines += [f"{code},{metric},{level + i},," for i, code in enumerate(codes) for metric in ("compat-f1", "f1")]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def summary(folder: Path, level: float) -> None:
    """Accuracy `level` and a hundredth more a layer, of directions among the languages of slot filling; of others 0."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{layer},{tgt},afr_Latn,100,0,{level + layer / 100 if tgt in SLOTS else 0}"
        for layer in range(5)
        for tgt in ("deu_Latn", "swh_Latn", "hun_Latn")
    ]
    (folder / "accuracy.csv").write_text(
        "\n".join(["layer,src,tgt,n,correct,accuracy", *lines]) + "\n", encoding="utf-8"
    )
    layers = [{"layer": layer, "mean": level + layer / 100, "low": level / 2} for layer in range(5)]
    value = {"layers": layers, "controls": {"char": {"mean": 0.26}}, "best_layer": 4}
    (folder / "summary.json").write_text(json.dumps(value), encoding="utf-8")


def planned(name: str, tmp_path: Path, model: str = "builtin:tiny", seeds: int = 3) -> Steps:
    return Steps(make_plan(name, model, seeds, "small"), tmp_path, "model")


def filled(steps: Steps) -> Steps:
    """Seed s of system number i: F1 from 10 i + s, accuracy 0.1 i + 0.01 s."""
    for step in steps.plan.steps.values():
        level = 10.0 * [None, *steps.plan.systems].index(step.system) + (step.seed or 0)
        if step.name == "scores":
            scores(steps.folder(step.id), level)
        elif step.name == "result":
            summary(steps.folder(step.id), level / 100)
    return steps


def cell(frame: pd.DataFrame, system: str, quantity: str) -> pd.Series:
    return frame[(frame["system"] == system) & (frame["quantity"] == quantity)].iloc[0]


def test_means_and_intervals_over_seeds_are_beside_the_papers_numbers(tmp_path: Path) -> None:
    report = beside(filled(planned("table2-slots", tmp_path)))
    frame = report.frame("beside")
    own = cell(frame, "align", "slots-supervised-f1")
    assert own["paper"] == 77.0
    assert own["ours"] == pytest.approx(
        30 + 2 + np.mean([SLOTS.index(code) for code in language_groups("slots")["supervised"]])
    )
    low, high = stats.t.interval(0.95, 2, loc=own["ours"], scale=1 / 3**0.5)
    assert (own["low"], own["high"]) == pytest.approx((low, high))
    base = cell(frame, "zero-shot", "retrieval-slots20")
    assert (base["paper"], base["ours"]) == (39.1, pytest.approx(10 + 3))  # layers 2 and 4, in percent
    assert np.isnan(base["low"])
    assert len(report.frame("runs")) == 1 + 2 * 3 * 4
    assert cell(beside(filled(planned("table2-slots", tmp_path, "Qwen/Qwen2.5-7B-Instruct"))).frame("beside"), "sft", "slots-transfer-f1")["paper"] == 53.5  # fmt: skip


def test_the_header_says_whose_model_which_data_and_what_was_scaled_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("flores200/dev", "massive", "tatoeba"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    monkeypatch.setenv("MIDPROBE_DATA", str(tmp_path / "data"))
    steps = filled(planned("table2-slots", tmp_path, seeds=1))
    caption = beside(steps).tables["beside"].caption
    assert "Ours: builtin:tiny; the paper's: Llama 3." in caption
    assert (
        "LASER's test sets of 2018-11-17, at most 1,000 pairs with English a language, instead of v2021-07-22"
        in caption
    )
    assert "MASSIVE 1.1, as in the paper" in caption
    assert "updates 200 (paper 2250)" in caption
    assert "tokens 48," in caption  # which the paper does not tell
    assert "without an interval over seeds" in caption
    (tmp_path / "data" / "tatoeba-v2021-07-22").mkdir()
    assert (
        "Tatoeba v2021-07-22, as in the paper"
        in beside(filled(planned("table2-slots", tmp_path))).tables["beside"].caption
    )


def test_changes_are_paired_by_language_and_seed(tmp_path: Path) -> None:
    frame = beside(filled(planned("table5", tmp_path))).frame("beside")
    gain = cell(frame, "align-medium", "slots-aligned-gain")
    assert (gain["paper"], gain["ours"], gain["low"], gain["high"]) == (
        1.1,
        pytest.approx(20),
        pytest.approx(20),
        pytest.approx(20),
    )
    assert "sft" not in set(frame[frame["quantity"] == "slots-aligned-gain"]["system"])
    steps = filled(planned("table3", tmp_path / "3", seeds=1))
    rng = np.random.default_rng(0)
    change = rng.normal(size=20)
    folder = steps.folder("scores/align-middle/1")
    table = pd.read_csv(folder / "metrics.csv")
    table.loc[table["metric"] == "compat-f1", "value"] += change
    table.to_csv(folder / "metrics.csv", index=False)
    for step in steps.plan.steps.values():
        if step.name == "mt-scores":
            scores(steps.folder(step.id), 5, ("deu_Latn-eng_Latn", "eng_Latn-deu_Latn"))
    report = beside(steps)
    places = [SLOTS.index(code) for code in language_groups("slots")["transfer"]]
    own = cell(report.frame("beside"), "align-middle", "slots-transfer-sd")
    assert (own["paper"], own["ours"]) == (2.6, pytest.approx(change[places].std(ddof=1)))
    assert np.isnan(cell(report.frame("beside"), "sft", "translation-supervised-comet")["ours"])  # without COMET


def test_differences_are_paired_by_seed_and_their_direction_is_told_where_it_is_clear(tmp_path: Path) -> None:
    steps = filled(planned("table2-slots", tmp_path))
    frame = beside(steps).frame("changes")
    assert set(frame["system"]) == {"align"}  # and not what stands above
    own = cell(frame, "align", "slots-transfer-f1")  # ten points in every seed
    assert (own["ours"], own["low"], own["high"], own["seeds"]) == (
        pytest.approx(10),
        pytest.approx(10),
        pytest.approx(10),
        3,
    )
    assert (own["paper"], own["agrees"]) == (pytest.approx(1.5), "yes")
    single = beside(filled(planned("table2-slots", tmp_path / "single", seeds=1))).frame("changes")
    assert single["agrees"].isna().all()  # nothing is told of one seed
    assert "changes" not in beside(filled(planned("table9", tmp_path / "9"))).tables


def test_a_group_that_is_not_whole_is_told(tmp_path: Path) -> None:
    steps = planned("table8", tmp_path, seeds=1)
    for step in steps.plan.steps.values():
        scores(steps.folder(step.id), 50, ("por_Latn", "zho_Hans", "dan_Latn"))
    report = beside(steps)
    assert cell(report.frame("beside"), "sft", "entities-supervised-f1")["ours"] == pytest.approx(50.5)
    assert any("entities-supervised-f1: without eng_Latn" in remark for remark in report.remarks)


def test_a_language_has_a_column_of_its_own_beside_table_9(tmp_path: Path) -> None:
    frame = beside(filled(planned("table9", tmp_path, seeds=2))).frame("beside")
    assert len(frame) == 20
    assert cell(frame, "english", "swh_Latn")["paper"] == 39.8


def test_two_runs_have_an_interval_and_one_has_none() -> None:
    runs = pd.DataFrame({"system": ["a"] * 3, "quantity": ["x", "x", "y"], "seed": [1, 2, 1], "value": [1.0, 3.0, 5.0]})
    both = mean_of_runs(runs, "a", "x")
    assert (both["ours"], both["seeds"]) == (2, 2)
    assert (both["low"], both["high"]) == pytest.approx(stats.t.interval(0.95, 1, loc=2, scale=1))
    assert np.isnan(mean_of_runs(runs, "a", "y")["low"])
    assert np.isnan(mean_of_runs(runs, "b", "y")["ours"])


def test_of_a_p_value_the_largest_of_the_seeds_is_told() -> None:
    runs = pd.DataFrame(
        {"system": ["a", "a", "b"], "quantity": ["p"] * 3, "seed": [1, 2, 1], "value": [0.01, 0.04, 0.5]}
    )
    told = _of_runs(runs, "a", "p", {"over": "largest"})
    assert (told["ours"], told["seeds"]) == (0.04, 2)
    assert np.isnan([told["low"], told["high"]]).all()
    assert _of_runs(runs, "a", "p", {})["ours"] == pytest.approx(0.025)


def test_curves_of_one_run_are_those_of_compare_and_of_several_their_mean(tmp_path: Path, simulate) -> None:
    codes = language_sets()["weakest5"]
    base, one, other = (simulate(codes, 4, 60, lift, seed) for lift, seed in ((0, 0), (0.2, 1), (0.3, 2)))
    base.save(tmp_path / "base")
    one.save(tmp_path / "one")
    known = compare(
        tmp_path / "base", [tmp_path / "one"], names=["base", "one"], documents="sentences", draws=500
    ).frame("layers")
    single, controls = over_seeds(base, {"one": [one]}, draws=500)
    keys = ["layer", "group"]
    merged = single.merge(known, on=keys, suffixes=("", "_known"))
    assert len(merged)
    for column in ("base", "other", "difference", "low", "high"):
        np.testing.assert_allclose(merged[column], merged[f"{column}_known"], atol=1e-6)
    several, _ = over_seeds(base, {"m": [one, other]}, draws=500)
    alone, _ = over_seeds(base, {"o": [other]}, draws=500)
    np.testing.assert_allclose(several["other"], (single["other"] + alone["other"]) / 2)
    assert set(controls["control"]) == {"char", "length"}


def test_the_figure_of_a_recipe_shows_every_system_but_the_base_and_marks_what_was_aligned(
    tmp_path: Path, simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = planned("fig4", tmp_path / "out", seeds=2)
    codes = language_sets()["paper35"][:8] + language_sets()["weakest5"]
    codes = tuple(dict.fromkeys(codes))
    for number, step in enumerate(each for each in steps.plan.steps.values() if each.name == "result"):
        simulate(codes, 4, 40, 0.0 if step.system == "base" else 0.1, number).save(steps.folder(step.id))
    marked: dict[str, dict[str, list[int]]] = {}

    def drawn(*given: Any, marks: dict[str, list[int]]) -> Any:
        marked["fig4"] = marks
        return tuned(*given, marks=marks)

    monkeypatch.setattr("figures.reproduced.tuned", drawn)
    files = draw_reproduced(steps, tmp_path / "figures")
    assert marked["fig4"] == {"bottom": [1], "middle": [2], "top": [4]}
    assert [path.name for path in files] == ["fig4.pdf", "fig4.png", "fig4.csv"]
    drawn = pd.read_csv(files[-1])
    assert list(dict.fromkeys(drawn["model"])) == ["bottom", "middle", "top"]
    assert set(drawn["runs"]) == {2}
    assert draw_reproduced(planned("table5", tmp_path), tmp_path / "none") == []
