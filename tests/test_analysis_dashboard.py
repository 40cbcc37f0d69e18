"""What the report page is given: the folders it reads, its intervals over documents, its numbers."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.accuracies import Accuracies
from analysis.compare import compare, digest_of
from analysis.correlate import correlate
from analysis.curves import curve_of
from analysis.dashboard import (
    Run,
    clustered,
    dashboard,
    difference_interval,
    metric_name,
    proportion_interval,
    read_run,
)
from analysis.documents import Documents
from analysis.report import Report, Table
from analysis.scores import read_scores
from data_manifests import language_sets
from probe.errors import AnalysisError, RetrievalError
from probe.results import RetrievalResult

Simulate = Callable[..., RetrievalResult]
CODES = ("eng_Latn", "deu_Latn", "arb_Arab", "zho_Hans", "hin_Deva", "swh_Latn")


@pytest.fixture(scope="module")
def base(simulate: Simulate) -> RetrievalResult:
    return simulate(languages=CODES, depth=4, rows=60)


@pytest.fixture(scope="module")
def aligned(simulate: Simulate) -> RetrievalResult:
    return simulate(languages=CODES, depth=4, rows=60, lift=0.2, seed=1, adapter="a")


def comparison(base: Path, *others: Path) -> Report:
    sides = [
        {"name": Path(path).name, "path": str(path), "digest": digest_of(RetrievalResult.load(path))}
        for path in (base, *others)
    ]
    return Report("comparison", "Compared", {}, ("It rose.",), {"base": sides[0], "others": sides[1:]})


def correlation(directions: str = "all") -> Report:
    scores = {"name": "own", "metric": "F1", "source": "drawn"}
    facts = {"scores": scores, "relation": directions, "directions": directions, "result": "base"}
    points = pd.DataFrame(
        {
            "group": ["supervised", "transfer", "supervised"],
            "layer": ["2", "2", "3"],
            "language": ["eng_Latn", "swh_Latn", "eng_Latn"],
            "accuracy": [0.4, 0.3, 0.5],
            "score": [80.0, 50.5, 80.0],
        }
    )
    return Report("correlation", "Correlated", {"points": Table(points, "Points.")}, (), facts)


def unpacked(packed: dict[str, str], *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), packed["kind"]).reshape(shape)


# ---- intervals -----------------------------------------------------------------------------------------------


def scattered_labels(rng: np.random.Generator, documents: int, sentences: int) -> Documents:
    labels = rng.permutation(np.r_[np.arange(documents), rng.integers(0, documents, sentences - documents)])
    return Documents(labels, "at random")


def test_sums_are_those_of_each_document_wherever_its_sentences_stand() -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((3, 3, 50)) < 0.4
    for documents in (scattered_labels(rng, 11, 50), Documents(np.repeat(np.arange(10), 5), "in a row")):
        expected = np.stack(
            [hits[..., documents.labels == document].sum(axis=-1) for document in range(len(documents))], axis=-1
        )
        assert np.array_equal(documents.sums(hits).astype(float), expected)


def literal_interval(hits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """One cell, by the formulas as they stand in the docstrings."""
    n, count = len(hits), labels.max() + 1
    p = hits.mean()
    variance = 0.0
    for document in range(count):
        own = hits[labels == document]
        variance += (own.sum() - p * len(own)) ** 2
    variance *= count / (count - 1) / n**2
    effective = n if variance == 0 else min(n, p * (1 - p) / variance)
    t = stats.t.ppf(0.975, count - 1)
    # Wilson's ends are the roots q of (p - q)^2 = t^2 q (1 - q) / n_eff.
    low, high = sorted(np.roots([1 + t**2 / effective, -2 * p - t**2 / effective, p**2]).real)
    return low, high


def test_interval_of_a_share_is_wilsons_with_the_effective_size() -> None:
    rng = np.random.default_rng(1)
    documents = scattered_labels(rng, 12, 60)
    hits = rng.random((4, 4, 60)) < rng.random((4, 4, 1))
    hits[0, 0], hits[1, 1] = False, True
    hits[2, 2] = documents.labels < 6  # whole documents right or wrong: the widest
    low, high = proportion_interval(documents.sums(hits).astype(float), documents.sizes)
    for i, j in np.ndindex(4, 4):
        assert (low[i, j], high[i, j]) == pytest.approx(literal_interval(hits[i, j], documents.labels), abs=1e-9)
    assert low[0, 0] == 0
    assert 0 < high[0, 0] < 0.2
    assert high[1, 1] == 1


def test_with_single_sentences_it_is_scipys_wilson_interval() -> None:
    """But for n - 1 in place of n and t in place of the normal quantile: both vanish as n grows."""
    n = 4000
    hits = np.arange(n) < 1234
    documents = Documents(np.arange(n), "sentences")
    ends = proportion_interval(documents.sums(hits[None, None]).astype(float), documents.sizes)
    expected = stats.binomtest(1234, n).proportion_ci(0.95, "wilson")
    assert (ends[0].item(), ends[1].item()) == pytest.approx((expected.low, expected.high), abs=2e-5)


def test_sentences_that_fail_together_widen_the_interval() -> None:
    sizes = np.full(20, 5)
    together = np.r_[np.full(10, 5.0), np.zeros(10)]
    apart = np.tile([2.0, 3.0], 10)
    widths = np.subtract(*proportion_interval(np.stack([together, apart]), sizes)[::-1])
    assert widths[0] > 2 * widths[1]


def test_intervals_cover_what_they_say() -> None:
    """Documents drawn with a common hardness: about 95 % of the intervals hold the true share; those that ignore documents do not."""
    rng = np.random.default_rng(2)
    trials, documents, size = 2000, 60, 4
    hardness = rng.beta(0.6, 1.4, (trials, documents))  # mean 0.3
    sums = rng.binomial(size, hardness).astype(float)
    low, high = proportion_interval(sums, np.full(documents, size))
    assert 0.93 < np.mean((low <= 0.3) & (high >= 0.3)) < 0.975
    share, naive = sums.sum(axis=1) / 240, 1.96 * np.sqrt(0.3 * 0.7 / 240)
    assert np.mean(np.abs(share - 0.3) <= naive) < 0.9

    gain = rng.binomial(size, np.clip(hardness + 0.1, 0, 1)) - sums
    truth = (np.clip(rng.beta(0.6, 1.4, 10**6) + 0.1, 0, 1).mean()) - 0.3
    low, high = difference_interval(gain, np.full(documents, size))
    assert 0.93 < np.mean((low <= truth) & (high >= truth)) < 0.965


def test_interval_of_a_paired_difference() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 200)) < 0.5
    gained = second.astype(float) - first
    low, high = difference_interval(gained[None], np.ones(200, int))
    expected = stats.ttest_rel(second.astype(float), first.astype(float)).confidence_interval(0.95)
    # scipy's is of a mean of n single sentences, variance with n - 1: the same formula.
    assert (low.item(), high.item()) == pytest.approx((expected.low, expected.high), abs=1e-12)
    nothing = difference_interval(np.zeros((1, 200)), np.ones(200, int))
    assert nothing == (0, 0)


def test_the_variance_of_a_share_is_that_of_many_draws_of_documents() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 6, 80)
    sums = rng.binomial(sizes, rng.beta(0.6, 1.4, 80)).astype(float)
    drawn = rng.integers(0, 80, (20_000, 80))
    share, variance = clustered(sums[None], sizes)
    assert share.item() == sums.sum() / sizes.sum()
    assert variance.item() == pytest.approx(np.var(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)), rel=0.1)


# ---- numbers -------------------------------------------------------------------------------------------------


def test_the_page_gets_the_results_numbers(base: RetrievalResult, aligned: RetrievalResult) -> None:
    run = Run(Path("run"), {"base": base, "aligned": aligned}, {"scores": correlation("to:eng_Latn")}, True)
    payload = dashboard(run)
    json.dumps(payload, allow_nan=False)
    first, second = payload["results"]
    counts = [unpacked(each["counts"], 5, 6, 6) for each in (first, second)]
    for result, own in zip((base, aligned), counts, strict=True):
        assert all(np.array_equal(own[layer], result.cells(layer).correct()) for layer in range(5))
    for row in base.summary()["layers"]:
        told = {name: unpacked(group["value"], 5)[row["layer"]] for name, group in first["groups"].items()}
        assert told == pytest.approx({name: row[name] for name in told}, abs=1e-12)
    low, high = (unpacked(first[end], 5, 6, 6) / payload["unit"] for end in ("low", "high"))
    share = counts[0] / 60
    assert ((low <= share) & (share <= high)).all()
    cell = base.hits(2)[0, 1]
    assert (low[2, 0, 1], high[2, 0, 1]) == pytest.approx(literal_interval(cell, np.arange(60)), abs=6e-5)

    pair = payload["pairs"][0]
    low, high = (unpacked(pair[end], 5, 6, 6) / payload["unit"] for end in ("low", "high"))
    difference = (counts[1].astype(int) - counts[0]) / 60
    off = ~np.eye(6, dtype=bool)
    assert ((low <= difference + 1e-4) & (difference <= high + 1e-4))[:, off].all()
    mean = unpacked(pair["groups"]["mean"]["value"], 5)
    assert mean == pytest.approx(difference[:, off].mean(axis=1), abs=1e-12)

    english = unpacked(first["means"]["to:eng_Latn"], 5, 6)
    assert english[3, 1] == pytest.approx(base.accuracy(3)[1, 0])
    assert np.isnan(english[:, 0]).all()
    assert payload["scores"][0]["groups"] == {"supervised": {"eng_Latn": 80.0}, "transfer": {"swh_Latn": 50.5}}
    assert first["aggregate"] == base.aggregate()
    assert first["controls"]["char"]["groups"]["mean"] == pytest.approx(np.nanmean(base.accuracy("char")))


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """20 documents of three sentences."""
    path = tmp_path / "documents.tsv"
    path.write_text("URL\n" + "".join(f"page{label}\n" for label in np.repeat(np.arange(20), 3)))
    return path


def test_a_mean_has_the_interval_that_reports_and_figures_give_it(
    base: RetrievalResult, aligned: RetrievalResult, folder: Path, documents: Path
) -> None:
    """The same draws of the same documents, to the last bit."""
    payload = dashboard(Run(folder, {"base": base, "aligned": aligned}), documents)
    assert payload["draws"] == 10_000
    curves = [
        curve_of(name, result, documents).query("series == 'layers'")
        for name, result in (("base", base), ("aligned", aligned))
    ]
    changed = compare(folder / "base", [folder / "aligned"], documents=documents).frame("layers")
    sources = [
        (payload["results"][0], curves[0], "accuracy"),
        (payload["results"][1], curves[1], "accuracy"),
        (payload["pairs"][0], changed, "difference"),
    ]
    for told, frame, value in sources:
        assert set(told["groups"]) == set(frame["group"]) == set(payload["groups"])
        for group, rows in frame.groupby("group"):
            found = {end: unpacked(array, 5) for end, array in told["groups"][group].items()}
            np.testing.assert_array_equal(found["low"], rows["low"])
            np.testing.assert_array_equal(found["high"], rows["high"])
            np.testing.assert_allclose(found["value"], rows[value], atol=1e-15)
            assert (found["low"] < found["high"]).all()


def test_correlated_directions_that_a_result_lacks_are_left_out_and_others_kept(
    base: RetrievalResult, simulate: Simulate
) -> None:
    other = simulate(languages=CODES[2:], depth=4, rows=60)
    reports = {"to": correlation("to:eng_Latn,swh_Latn"), "from": correlation("from:swh_Latn")}
    payload = dashboard(Run(Path("run"), {"base": base, "other": other}, reports))
    assert [set(result["means"]) for result in payload["results"]] == [
        {"all", "to:eng_Latn,swh_Latn", "from:swh_Latn"},
        {"all", "from:swh_Latn"},
    ]
    to = unpacked(payload["results"][0]["means"]["to:eng_Latn,swh_Latn"], 5, 6)
    assert to[2, 1] == pytest.approx(base.accuracy(2)[1, [0, 5]].mean())


def test_directions_to_a_group_are_on_the_page(simulate: Simulate) -> None:
    """A relation that names a group of the scores, as `correlate` leaves it."""
    result = simulate(languages=language_sets()["slots20"], depth=4, rows=60)
    report = correlate(
        Accuracies.of_result(result),
        read_scores("paper:llama3-sft"),
        relation="to:supervised",
        draws=100,
        permutations=100,
    )
    payload = dashboard(Run(Path("run"), {"result": result}, {"correlation": report}))
    (scores,) = payload["scores"]
    means = unpacked(payload["results"][0]["means"][scores["directions"]], 5, 20)
    points = report.frame("points").query("layer == 'middle'")
    for code, accuracy in zip(points["language"], points["accuracy"], strict=True):
        assert means[2, result.languages.index(code)] == accuracy


def test_a_fault_in_a_correlation_shows(base: RetrievalResult) -> None:
    """A relation that cannot be read is no relation to languages that the result lacks."""
    with pytest.raises(AnalysisError, match="--relation towards"):
        dashboard(Run(Path("run"), {"base": base}, {"scores": correlation("towards")}))


def test_a_result_against_itself_differs_by_exactly_nothing(base: RetrievalResult) -> None:
    pair = dashboard(Run(Path("run"), {"a": base, "b": base}))["pairs"][0]
    assert not any(unpacked(pair[end], 5, 6, 6).any() for end in ("low", "high"))


def test_the_order_of_languages_does_not_matter(base: RetrievalResult, aligned: RetrievalResult) -> None:
    backwards = np.arange(6)[::-1]
    turned = dataclasses.replace(
        aligned,
        languages=aligned.languages[::-1],
        layers={
            layer: dataclasses.replace(cells, hits=cells.hits[np.ix_(backwards, backwards)])
            for layer, cells in aligned.layers.items()
        },
        controls={},
    )
    pairs = [dashboard(Run(Path("run"), {"base": base, "other": other}))["pairs"][0] for other in (aligned, turned)]
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": 59}, "rows 60 in base but 59 in other"),
        ({"settings": {"k": 3}}, "k 4 in base but 3 in other"),
        (
            {"settings": {"corpus": {"name": "simulated", "split": "dev", "digests": {"eng_Latn": "1"}}}},
            "eng_Latn has another text in base than in other",
        ),
        ({"layers": (9,)}, "base and other share no layer"),
        (
            {"languages": ("eng_Latn", "deu_Latn", "arb_Arab", "zho_Hans", "hin_Deva", "fra_Latn")},
            "base and other have other languages: fra_Latn, swh_Latn (fra_Latn only in other)",
        ),
    ],
)
def test_what_is_not_paired_has_no_difference(base: RetrievalResult, change: dict[str, Any], told: str) -> None:
    settings = {**base.settings, **change.get("settings", {})}
    changed = {**change, "settings": settings}
    if "layers" in change:
        changed["layers"] = {9: base.layers[2]}
    other = dataclasses.replace(base, **changed)
    payload = dashboard(Run(Path("run"), {"base": base, "other": other}))
    assert list(payload["pairs"][0]) == ["refused"]
    assert payload["pairs"][0]["refused"] == f"No difference: {told}."
    assert payload["results"][1]["name"] == "other"


def test_a_language_that_is_not_ours_keeps_its_code(simulate: Simulate) -> None:
    result = simulate(languages=("eng_Latn", "klingon", "xxx_Latn"), depth=2, rows=30)
    told = dashboard(Run(Path("run"), {"own": result}))["languages"]
    assert told["klingon"]["name"] == "klingon"
    assert told["klingon"]["script"] is None
    assert told["xxx_Latn"]["script"] == "Latn"
    assert told["eng_Latn"]["lang"] == "en-Latn"


def test_one_document_gives_no_interval(base: RetrievalResult, tmp_path: Path) -> None:
    one = tmp_path / "documents.tsv"
    one.write_text("URL\n" + "only\n" * 60)
    with pytest.raises(AnalysisError, match="two documents or more; give --documents sentences"):
        dashboard(Run(Path("run"), {"base": base}), one)


def test_documents_are_regarded(base: RetrievalResult, documents: Path) -> None:
    """Neighbours share their hardness here, so documents of three widen most intervals."""
    result = dashboard(Run(Path("run"), {"base": base}), documents)["results"][0]
    assert result["grouping"] == "20 documents (documents.tsv)"
    low = unpacked(result["low"], 5, 6, 6) / 10_000
    labels = np.repeat(np.arange(20), 3)
    assert low[2, 0, 1] == pytest.approx(literal_interval(base.hits(2)[0, 1], labels)[0], abs=6e-5)


# ---- folders -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(base: RetrievalResult, aligned: RetrievalResult, tmp_path: Path) -> Path:
    base.save(tmp_path / "run" / "base")
    aligned.save(tmp_path / "run" / "aligned")
    return tmp_path / "run"


def test_a_result_folder(folder: Path) -> None:
    run = read_run(folder / "base")
    assert list(run.results) == ["base"]
    assert not run.compared


def test_a_folder_of_results_and_reports(folder: Path) -> None:
    (folder / "notes").mkdir()
    correlation().save(folder / "correlation")
    run = read_run(folder)
    assert list(run.results) == ["aligned", "base"]
    assert [(folder, report.kind) for folder, report in run.reports.items()] == [("correlation", "correlation")]
    assert not run.compared


def test_a_comparison_says_which_is_the_base(folder: Path) -> None:
    comparison(folder / "base", folder / "aligned").save(folder / "compared")
    assert list(read_run(folder / "compared").results) == ["base", "aligned"]
    whole = read_run(folder)
    assert list(whole.results) == ["base", "aligned"]
    assert whole.compared


def test_a_comparison_that_was_moved_finds_its_results_beside_it(folder: Path) -> None:
    comparison(folder / "base", folder / "aligned").save(folder / "compared")
    moved = folder.rename(folder.with_name("moved"))
    assert list(read_run(moved / "compared").results) == ["base", "aligned"]
    shutil.rmtree(moved / "aligned")
    with pytest.raises(AnalysisError, match=r"compares .*run/aligned, which is not there"):
        read_run(moved / "compared")


def test_a_result_that_changed_since_it_was_compared_is_refused(folder: Path, base: RetrievalResult) -> None:
    """One hit is enough."""
    compare(folder / "base", [folder / "aligned"], draws=100).save(folder / "compared")
    assert list(read_run(folder / "compared").results) == ["base", "aligned"]
    hits = base.layers[3].hits.copy()
    hits[0, 1, 0] ^= 0x80
    layers = {**base.layers, 3: dataclasses.replace(base.layers[3], hits=hits)}
    dataclasses.replace(base, layers=layers).save(folder / "base")
    with pytest.raises(
        AnalysisError, match=r"run/base, which changed since the comparison .*; run `probe compare` again"
    ):
        read_run(folder / "compared")


def test_a_copied_run_shows_its_own_results(folder: Path, base: RetrievalResult) -> None:
    """Though those of the original are where they were given, and have changed."""
    comparison(folder / "base", folder / "aligned").save(folder / "compared")
    copy = Path(shutil.copytree(folder, folder.with_name("copy")))
    base.save(folder / "aligned")
    found = read_run(copy / "compared").results["aligned"]
    assert np.array_equal(found.layers[2].hits, RetrievalResult.load(copy / "aligned").layers[2].hits)


def test_a_result_of_the_same_name_beside_the_comparison_is_not_taken_for_it(
    folder: Path, base: RetrievalResult, aligned: RetrievalResult
) -> None:
    """`probe reprobe` writes a folder `result`; that of its base may be called so too."""
    base.save(folder / "model" / "result")
    aligned.save(folder / "adapter" / "result")
    report = compare(folder / "model" / "result", [folder / "adapter" / "result"], names=["base", "new"], draws=100)
    report.save(folder / "adapter" / "comparison")
    found = read_run(folder / "adapter" / "comparison").results
    assert (found["base"].curve(), found["new"].curve()) == (base.curve(), aligned.curve())


def test_several_comparisons_with_one_base(folder: Path, simulate: Simulate) -> None:
    simulate(languages=CODES, depth=4, rows=60, lift=0.1, seed=2).save(folder / "top")
    comparison(folder / "base", folder / "aligned").save(folder / "c1")
    comparison(folder / "base", folder / "top").save(folder / "c2")
    comparison(folder / "top", folder / "aligned").save(folder / "c3")
    assert list(read_run(folder).results) == ["base", "aligned", "top"]


def test_the_base_is_the_one_that_was_correlated(folder: Path, simulate: Simulate) -> None:
    """Among bases of several comparisons; a result elsewhere that no shown comparison holds is told."""
    for name, seed in (("top", 2), ("far", 3)):
        simulate(languages=CODES, depth=4, rows=60, lift=0.1, seed=seed).save(folder.parent / name)
    compare(folder / "aligned", [folder.parent / "far"], draws=100).save(folder / "c1")
    compare(folder / "base", [folder.parent / "top"], draws=100).save(folder / "c2")
    first = read_run(folder)
    assert (list(first.results), first.omitted) == (["aligned", "far", "base"], ("top",))
    correlation().save(folder / "correlation")
    run = read_run(folder)
    assert (list(run.results), run.omitted) == (["base", "top", "aligned"], ("far",))
    assert read_run(folder / "c2").omitted == ()


def test_a_compared_result_is_not_shown_again_under_its_folders_name(folder: Path, aligned: RetrievalResult) -> None:
    compare(folder / "base", [folder / "aligned"], names=["plain", "base"], draws=100).save(folder / "compared")
    run = read_run(folder)
    assert (list(run.results), run.omitted) == (["plain", "base"], ())
    assert run.results["base"].curve() == aligned.curve()
    other = dataclasses.replace(aligned, controls={})
    other.save(folder / "plain")
    run = read_run(folder)
    assert (list(run.results), run.omitted) == (["plain", "base"], (str(folder / "plain"),))


def test_the_layer_it_opens_at_is_of_the_base_and_not_of_another_result(base: RetrievalResult) -> None:
    reports = {
        name: Report("layers", "Layers", {}, (), {"result": name, "best": best})
        for name, best in (("aligned", 1), ("base", 3))
    }
    assert dashboard(Run(Path("run"), {"base": base}, reports))["chosen"] == 3
    assert dashboard(Run(Path("run"), {"base": base}, {"aligned": reports["aligned"]}))["chosen"] is None


@pytest.mark.parametrize(
    ("given", "told"), [("f1", "F1"), ("Bleu", "BLEU"), ("chrf", "chrF"), ("COMET", "COMET"), ("accuracy", "accuracy")]
)
def test_a_metric_is_written_as_in_papers(given: str, told: str) -> None:
    assert metric_name(given) == told
    assert metric_name(None) is None


def test_scores_of_one_name_are_told_apart_by_their_reports(base: RetrievalResult) -> None:
    reports = {"near": correlation(), "far": correlation("from:swh_Latn")}
    run = Run(Path("run"), {"base": base}, reports)
    assert [each["label"] for each in dashboard(run)["scores"]] == ["own (near)", "own (far)"]
    alone = Run(Path("run"), {"base": base}, {"near": correlation()})
    assert [each["label"] for each in dashboard(alone)["scores"]] == ["own"]


@pytest.mark.parametrize("missing", ["nothing", "empty"])
def test_nothing_to_show(tmp_path: Path, missing: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnalysisError, match=f"{missing} with no retrieval result"):
        read_run(tmp_path / missing)


def test_a_report_alone_is_not_enough(folder: Path) -> None:
    correlation().save(folder / "correlation")
    with pytest.raises(AnalysisError, match="a correlation report"):
        read_run(folder / "correlation")


def test_a_comparison_without_names_and_a_damaged_result(folder: Path) -> None:
    Report("comparison", "Compared", {}, (), {}).save(folder / "compared")
    with pytest.raises(AnalysisError, match="names no base"):
        read_run(folder / "compared")
    shutil.rmtree(folder / "compared")
    (folder / "base" / "summary.json").write_text("{")
    with pytest.raises(RetrievalError, match="summary"):
        read_run(folder)
