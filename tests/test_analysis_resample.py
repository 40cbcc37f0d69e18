"""The bootstrap over documents against direct resampling, against numpy's quantiles, and in its coverage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.curves import curve_of
from analysis.documents import Documents
from analysis.resample import Bootstrap, Means, hit_sums, load_result, mean_sums
from probe.errors import AnalysisError
from probe.results import RetrievalResult

CODES = ("eng_Latn", "deu_Latn", "rus_Cyrl", "zho_Hans", "jav_Latn", "khm_Khmr", "swh_Latn", "ukr_Cyrl")
ROWS = 60


@pytest.fixture(scope="module")
def result(simulate: Callable[..., RetrievalResult]) -> RetrievalResult:
    return simulate(languages=CODES, depth=4, rows=ROWS)


@pytest.fixture(scope="module")
def documents() -> Documents:
    """Of one to five sentences."""
    return Documents(np.repeat(np.arange(20), np.tile([1, 2, 4, 5], 5)), "20 documents")


def directly(hits: np.ndarray, documents: Documents, draws: int, seed: int) -> np.ndarray:
    """(..., draw): for every draw, gather the sentences of the documents drawn and take the mean of their hits."""
    number = len(documents)
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=draws)
    means = []
    for weight in weights:
        drawn = [
            sentence
            for document in range(number)
            for sentence in np.flatnonzero(documents.labels == document).tolist() * weight[document]
        ]
        means.append(hits[..., drawn].mean(axis=-1))
    return np.stack(means, axis=-1)


def test_intervals_are_those_of_direct_resampling(result: RetrievalResult, documents: Documents) -> None:
    bootstrap = Bootstrap.of(documents, 200, seed=5)
    low, high = bootstrap.interval(hit_sums(result, 2, documents))
    expected = np.quantile(directly(result.hits(2), documents, 200, 5), [0.025, 0.975], axis=-1)
    np.testing.assert_allclose([low, high], expected, atol=1e-7)


def test_intervals_of_means_are_those_of_direct_resampling(result: RetrievalResult, documents: Documents) -> None:
    """The mean of each group is taken in every draw, as `summary.json` takes it of the whole."""
    drawn = directly(result.hits(3), documents, 150, 1)
    drawn[np.arange(8), np.arange(8)] = np.nan
    of_language = np.nanmean(np.concatenate([drawn, drawn.swapaxes(0, 1)], axis=1), axis=1)
    by_hand = {
        "mean": np.nanmean(drawn, axis=(0, 1)),
        "to_english": np.nanmean(drawn[:, 0], axis=0),
        "from_english": np.nanmean(drawn[0], axis=0),
        "low": of_language[[4, 5]].mean(axis=0),
        "high": of_language[[0, 1, 2, 3, 6, 7]].mean(axis=0),
        "jav_Latn": of_language[4],
    }
    bootstrap, sums = Bootstrap.of(documents, 150, seed=1), hit_sums(result, 3, documents)
    for means in (Means.of_groups(CODES), Means.of_languages(CODES)):
        shares = bootstrap.shares(means.sums(sums), means.directions)
        low, high = bootstrap.interval(means.sums(sums), means.directions)
        for name in by_hand.keys() & {*means.names}:
            own = means.names.index(name)
            np.testing.assert_allclose(shares[own], by_hand[name], atol=1e-12)
            np.testing.assert_allclose([low[own], high[own]], np.quantile(by_hand[name], [0.025, 0.975]), atol=1e-12)


def test_groups_are_those_of_the_summary(result: RetrievalResult, documents: Documents) -> None:
    means, summary = Means.of_groups(CODES), result.summary()
    rows = {row["layer"]: row for row in summary["layers"]} | summary["controls"]
    for key, sums in mean_sums(result, documents, means).items():
        expected = [rows[key][name] for name in means.names]
        np.testing.assert_allclose(sums.sum(axis=-1) / (ROWS * means.directions), expected, atol=1e-12)


def test_groups_without_a_direction_are_left_out() -> None:
    assert Means.of_groups(("deu_Latn", "fra_Latn")).names == ("mean", "same_script", "high")
    assert "low" not in Means.of_groups(("a", "b")).names


@pytest.mark.parametrize("draws", [100, 101, 1000, 1234])
def test_quantiles_are_numpys(draws: int) -> None:
    documents = Documents(np.arange(30), "")
    bootstrap, sums = (
        Bootstrap.of(documents, draws),
        np.random.default_rng(1).integers(0, 5, (7, 30)).astype(np.float64),
    )
    expected = np.quantile(sums @ bootstrap.weights / 30, [0.025, 0.975], axis=-1)
    np.testing.assert_allclose(bootstrap.interval(sums), expected, rtol=1e-12)


def test_chunks_change_nothing(result: RetrievalResult, documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap, sums = Bootstrap.of(documents, 300), hit_sums(result, 1, documents)
    whole = bootstrap.interval(sums)
    means = Means.of_groups(CODES).sums(sums)
    monkeypatch.setattr("analysis.resample._CHUNK", 300 * 4 * 5)  # five directions, or 75 draws, or a source at a time
    np.testing.assert_array_equal(bootstrap.interval(sums), whole)
    np.testing.assert_array_equal(Means.of_groups(CODES).sums(sums), means)


def test_order_of_languages_changes_nothing(result: RetrievalResult, documents: Documents) -> None:
    bootstrap, order = Bootstrap.of(documents, 300), CODES[::-1]
    low, high = bootstrap.interval(hit_sums(result, 2, documents))
    low_turned, high_turned = bootstrap.interval(hit_sums(result, 2, documents, order))
    np.testing.assert_array_equal(low_turned, low[::-1, ::-1])
    np.testing.assert_array_equal(high_turned, high[::-1, ::-1])


def test_sentences_of_one_document_widen_the_interval() -> None:
    """Where all sentences of a document share their luck, drawing sentences would be too sure of itself."""
    luck = np.random.default_rng(0).random((50, 40)) < 0.5
    hits = np.repeat(luck, 5, axis=1)
    width = {}
    for name, labels in (("documents", np.repeat(np.arange(40), 5)), ("sentences", np.arange(200))):
        drawn = Documents(labels, name)
        low, high = Bootstrap.of(drawn, 500).interval(drawn.sums(hits))
        width[name] = (high - low).mean()
    assert width["documents"] / width["sentences"] == pytest.approx(5**0.5, rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """1,500 corpora of 60 documents of unequal size, whose sentences share a difficulty."""
    generator = np.random.default_rng(2)
    documents = Documents(np.repeat(np.arange(60), np.tile([1, 2, 6], 20)), "")
    difficulty = generator.normal(0, 1, (1500, 60))[:, documents.labels]
    hits = generator.normal(0, 1, difficulty.shape) + difficulty < 0  # the truth is 1/2
    low, high = Bootstrap.of(documents, 1000).interval(documents.sums(hits))
    assert 0.92 < ((low <= 0.5) & (high >= 0.5)).mean() < 0.96


@pytest.mark.parametrize(
    ("number", "draws", "message"),
    [(1, 100, "nothing to draw from"), (5, 99, "--draws 99"), (5, 100_001, "--draws 100001")],
)
def test_what_gives_no_interval_is_refused(number: int, draws: int, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        Bootstrap.of(Documents(np.arange(number), f"{number} documents"), draws)


def test_a_bare_table_is_refused(result: RetrievalResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    assert load_result(tmp_path).languages == CODES
    with pytest.raises(AnalysisError, match=r"accuracy\.csv is a table.*hits\.h5"):
        load_result(tmp_path / "accuracy.csv")


def test_curves_hold_layers_and_controls_of_every_result(
    simulate: Callable[..., RetrievalResult], result: RetrievalResult, documents: Documents
) -> None:
    lifted = simulate(languages=CODES, depth=4, rows=ROWS, lift=0.2, seed=1)
    frame = pd.concat(
        [curve_of("base", result, documents, draws=200), curve_of("lifted", lifted, documents, draws=200)]
    )
    assert list(frame) == ["result", "layer", "series", "group", "accuracy", "low", "high"]
    assert len(frame) == 2 * (5 + 2) * 7
    assert (frame["layer"].isna() == frame["series"].isin(["char", "length"])).all()
    assert ((frame["low"] <= frame["accuracy"]) & (frame["accuracy"] <= frame["high"])).all()
    for name, one in (("base", result), ("lifted", lifted)):
        own = frame[(frame["result"] == name) & (frame["group"] == "mean")].set_index("layer")["accuracy"]
        assert {layer: own[layer] for layer in one.layers} == pytest.approx(one.curve())
    own = frame[(frame["result"] == "base") & (frame["layer"] == 2) & (frame["group"] == "same_script")].iloc[0]
    means, bootstrap = Means.of_groups(CODES), Bootstrap.of(documents, 200)
    at = means.names.index("same_script")
    low, high = bootstrap.interval(means.sums(hit_sums(result, 2, documents))[at], means.directions[at])
    assert (own["low"], own["high"]) == (low, high)
