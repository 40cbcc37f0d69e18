"""Representation measures: each against its formula written out, its invariances, and the report as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ortho_group

from analysis.measures import measure, measure_layer
from analysis.report import Report
from analysis.similarity import (
    antihub_share,
    cosines_of_pairs,
    debiased_cka,
    gram_matrix,
    hubness_skewness,
    mean_self_cosine,
    occurrences,
    participation_ratio,
    u_centred,
)
from probe.corpus import ParallelCorpus
from probe.errors import AnalysisError, ProbeError, RetrievalError
from probe.extract import extract_all
from probe.store import ActivationStore
from probe.vectors import centred_rows, open_vectors, unit_rows

ROOT = Path(__file__).resolve().parents[1]
CODES = ("deu_Latn", "eng_Latn", "fra_Latn", "rus_Cyrl")


def parallel(rows: int = 30, dim: int = 12, noise: float = 0.7, seed: int = 0) -> dict[str, np.ndarray]:
    """Four noisy copies of the same points, each with an offset of its own."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(rows, dim))
    return {code: points + noise * random.normal(size=points.shape) + random.normal(size=dim) for code in CODES}


def cka(a: np.ndarray, b: np.ndarray) -> float:
    return debiased_cka(*(u_centred(gram_matrix(centred_rows(values))) for values in (a, b)))


# ---- oracles: the formulas written out -----------------------------------------------------------------------


def unbiased_hsic(k: np.ndarray, n: int, other: np.ndarray) -> float:
    """HSIC_1 of Song et al., 2012, term by term, from kernel matrices that nothing has centred."""
    k, other, ones = k - np.diag(np.diag(k)), other - np.diag(np.diag(other)), np.ones(n)
    trace = np.trace(k @ other)
    sums = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3))


def literal_cka(a: np.ndarray, b: np.ndarray) -> float:
    k, other, n = a @ a.T, b @ b.T, len(a)
    return unbiased_hsic(k, n, other) / np.sqrt(unbiased_hsic(k, n, k) * unbiased_hsic(other, n, other))


def biased_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Kornblith et al., 2019, equation for linear CKA by features."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return float(np.linalg.norm(a.T @ b)) ** 2 / float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))


def literal_counts(cosines: np.ndarray, k: int) -> np.ndarray:
    counts = np.zeros(cosines.shape[1], dtype=int)
    for source in cosines:
        for target in np.argsort(-source)[:k]:
            counts[target] += 1
    return counts


def literal_skewness(counts: np.ndarray) -> float:
    return np.mean((counts - counts.mean()) ** 3) / np.mean((counts - counts.mean()) ** 2) ** 1.5


# ---- each measure --------------------------------------------------------------------------------------------


def test_cosines_of_true_and_other_pairs_are_those_of_the_formula() -> None:
    arrays = parallel()
    a, b = arrays["eng_Latn"], arrays["fra_Latn"]
    literal = 1 - cdist(a, b, "cosine")
    other = literal[~np.eye(len(a), dtype=bool)]
    found = cosines_of_pairs(unit_rows(a, "a") @ unit_rows(b, "b").T)
    np.testing.assert_allclose(found[:3], [np.diag(literal).mean(), other.mean(), other.std(ddof=1)], atol=1e-6)
    assert found.gap == pytest.approx(np.diag(literal).mean() - other.mean(), abs=1e-6)
    assert found.separation == pytest.approx(found.gap / other.std(ddof=1), rel=1e-5)


def test_the_deviation_survives_a_narrow_cone() -> None:
    """All cosines between 0.9999 and 1, where a sum of squares in float32 would leave nothing."""
    arrays = {code: values + 1000 for code, values in parallel().items()}
    a, b = arrays["eng_Latn"], arrays["fra_Latn"]
    literal = 1 - cdist(a, b, "cosine")
    other = literal[~np.eye(len(a), dtype=bool)]
    assert other.std(ddof=1) < 1e-6
    found = cosines_of_pairs(literal)
    assert found.deviation == pytest.approx(other.std(ddof=1), rel=1e-6)
    a, b = (values - 980 for values in (a, b))
    other = (1 - cdist(a, b, "cosine"))[~np.eye(len(a), dtype=bool)]
    assert 1e-4 < other.std(ddof=1) < 3e-3
    assert cosines_of_pairs(unit_rows(a, "a") @ unit_rows(b, "b").T).deviation == pytest.approx(other.std(ddof=1), 1e-3)


def test_other_pairs_that_do_not_vary_have_no_separation() -> None:
    assert np.isnan(cosines_of_pairs(np.eye(5)).separation)
    assert np.isnan(cosines_of_pairs(np.full((5, 5), 0.3, dtype=np.float32)).separation)
    assert np.isfinite(cosines_of_pairs(np.eye(5) + np.diag([0.1] * 4, 1)).separation)


@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
def test_anisotropy_is_the_mean_cosine_of_different_sentences(offset: float) -> None:
    values = np.random.default_rng(1).normal(size=(40, 8)) + offset
    assert mean_self_cosine(unit_rows(values, "a")) == pytest.approx(1 - pdist(values, "cosine").mean(), abs=1e-6)


def test_anisotropy_of_even_directions_is_0_and_of_a_narrow_cone_1() -> None:
    values = np.random.default_rng(2).normal(size=(500, 400))
    assert abs(mean_self_cosine(unit_rows(values, "a"))) < 0.001
    assert mean_self_cosine(unit_rows(values + 100, "a")) > 0.999


@pytest.mark.parametrize("dim", [6, 60])
def test_dimensions_are_the_participation_ratio_of_the_covariance(dim: int) -> None:
    values = np.random.default_rng(3).normal(size=(40, dim)) * np.arange(1, dim + 1) + 5
    eigenvalues = np.linalg.eigvalsh(np.cov(values.T))
    found = participation_ratio(gram_matrix(centred_rows(values)))
    assert found == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-5)


def test_dimensions_count_the_directions_of_equal_variance() -> None:
    corners = np.concatenate([np.eye(7), -np.eye(7)])
    for count in (1, 3, 7):
        values = np.zeros((14, 7))
        values[:, :count] = corners[:, :count]
        assert participation_ratio(gram_matrix(centred_rows(values))) == pytest.approx(count, rel=1e-6)


@pytest.mark.parametrize(("rows", "dim"), [(4, 3), (30, 12), (30, 200)])
def test_cka_is_that_of_the_unbiased_estimators(rows: int, dim: int) -> None:
    arrays = parallel(rows, dim)
    a, b = arrays["eng_Latn"], arrays["rus_Cyrl"][:, : dim - 1]
    assert cka(a, b) == pytest.approx(literal_cka(a, b), abs=1e-6)
    assert cka(b, a) == pytest.approx(cka(a, b), abs=1e-12)


def test_cka_does_not_see_rotation_scale_or_offset_but_sees_stretching() -> None:
    arrays = parallel()
    a, b = arrays["eng_Latn"], arrays["fra_Latn"]
    rotated = 7.5 * b @ ortho_group.rvs(12, random_state=4) + 100
    assert cka(a, rotated) == pytest.approx(cka(a, b), abs=1e-6)
    assert cka(b, rotated) == pytest.approx(1, abs=1e-6)
    assert abs(cka(a, b * np.geomspace(1, 100, 12)) - cka(a, b)) > 0.05


def test_cka_of_noise_is_about_0_where_the_biased_one_is_not() -> None:
    random = np.random.default_rng(5)
    drawn = [[random.normal(size=(50, 500)) for _ in range(2)] for _ in range(20)]
    assert abs(np.mean([cka(a, b) for a, b in drawn])) < 0.01
    assert min(biased_cka(a, b) for a, b in drawn) > 0.85


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_no_measure_depends_on_the_range_of_the_numbers(scale: float) -> None:
    a, b = (parallel()[code] for code in CODES[:2])
    assert cka(a * scale, b) == pytest.approx(cka(a, b), abs=1e-6)
    ratios = [participation_ratio(gram_matrix(centred_rows(values))) for values in (a * scale, a)]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5)


@pytest.mark.parametrize("k", [1, 4, 29])
def test_k_occurrences_are_counted(k: int) -> None:
    cosines = np.random.default_rng(6).normal(size=(40, 30))
    counts = occurrences(cosines, k)
    np.testing.assert_array_equal(counts, literal_counts(cosines, k))
    assert counts.sum() == 40 * k
    assert hubness_skewness(counts) == pytest.approx(literal_skewness(counts), rel=1e-12)
    assert antihub_share(counts) == sum(count == 0 for count in counts) / 30


def test_targets_tied_with_the_kth_count_too() -> None:
    np.testing.assert_array_equal(occurrences(np.array([[3.0, 2.0, 2.0, 1.0]]), 2), [1, 1, 1, 0])


def test_repeated_rows_tie_whatever_their_place() -> None:
    """float32 products of equal rows differ in their last bit by where a row stands, and so by how it is blocked."""
    random = np.random.default_rng(3)
    sources, targets = (unit_rows(random.normal(size=(61, 384)), name) for name in "st")
    targets[20:40] = targets[:20]
    cosines = (sources @ targets.T).astype(np.float32)
    cosines[:, 20:40] = np.nextafter(cosines[:, :20], np.float32(2))  # the last bit
    counts = occurrences(cosines, 4)
    np.testing.assert_array_equal(counts[20:40], counts[:20])
    order = random.permutation(61)
    moved = (sources @ targets[order].T).astype(np.float32)
    np.testing.assert_array_equal(occurrences(moved, 4), counts[order])


def test_a_hub_shows() -> None:
    """In many dimensions the point in the middle is near to all; moved to it, one target is every source's neighbour."""
    random = np.random.default_rng(7)
    sources, targets = random.normal(size=(100, 50)) + 0.5, random.normal(size=(100, 50)) + 0.5
    before = occurrences(unit_rows(sources, "s") @ unit_rows(targets, "t").T, 4)
    targets[17] = 0.5
    after = occurrences(unit_rows(sources, "s") @ unit_rows(targets, "t").T, 4)
    assert after[17] > 50 > before[17]
    assert hubness_skewness(after) > hubness_skewness(before) + 2


def test_all_equally_often_is_no_hubness() -> None:
    assert hubness_skewness(occurrences(np.eye(9), 1)) == 0
    assert antihub_share(occurrences(np.eye(9), 1)) == 0


# ---- the report ----------------------------------------------------------------------------------------------


def test_the_report_holds_every_measure_of_every_language_pair_and_direction() -> None:
    arrays = parallel()
    report = measure(arrays, k=3)
    languages, pairs, directions = (report.frame(name) for name in ("languages", "pairs", "directions"))
    assert (len(languages), len(pairs), len(directions)) == (4, 6, 12)
    for row in pairs.itertuples():
        a, b = arrays[row.lang_a], arrays[row.lang_b]
        literal = 1 - cdist(a, b, "cosine")
        other = literal[~np.eye(len(a), dtype=bool)]
        assert row.true_cosine == pytest.approx(np.diag(literal).mean(), abs=1e-6)
        assert row.other_cosine == pytest.approx(other.mean(), abs=1e-6)
        assert row.gap == pytest.approx(row.true_cosine - row.other_cosine, abs=1e-9)
        assert row.separation == pytest.approx(row.gap / other.std(ddof=1), rel=1e-5)
        assert row.cka == pytest.approx(literal_cka(a, b), abs=1e-6)
    for row in directions.itertuples():
        counts = literal_counts(1 - cdist(arrays[row.src], arrays[row.tgt], "cosine"), 3)
        assert row.hubness_skewness == pytest.approx(literal_skewness(counts), rel=1e-9)
        assert row.antihub_share == np.mean(counts == 0)
    for row in languages.itertuples():
        values = arrays[row.language]
        assert row.anisotropy == pytest.approx(1 - pdist(values, "cosine").mean(), abs=1e-6)
        into = directions[directions["tgt"] == row.language]
        assert row.hubness_skewness == pytest.approx(into["hubness_skewness"].mean(), rel=1e-12)
        assert row.antihub_share == pytest.approx(into["antihub_share"].mean(), rel=1e-12)


def test_layers_are_the_means() -> None:
    report = measure(parallel())
    (means,) = report.frame("layers").to_dict("records")
    for table, columns in {
        "pairs": ("true_cosine", "other_cosine", "gap", "separation", "cka"),
        "languages": ("anisotropy", "dimensions"),
        "directions": ("hubness_skewness", "antihub_share"),
    }.items():
        for column in columns:
            assert means[column] == pytest.approx(report.frame(table)[column].mean(), rel=1e-12)


def test_english_stands_first_and_the_others_keep_their_order() -> None:
    report = measure(parallel())
    assert list(report.frame("languages")["language"]) == ["eng_Latn", "deu_Latn", "fra_Latn", "rus_Cyrl"]
    pairs = list(report.frame("pairs")[["lang_a", "lang_b"]].itertuples(index=False, name=None))
    assert pairs[:4] == [
        ("eng_Latn", "deu_Latn"), ("eng_Latn", "fra_Latn"), ("eng_Latn", "rus_Cyrl"), ("deu_Latn", "fra_Latn"),
    ]  # fmt: skip
    assert len(report.tables["pairs"].shown()) == 3
    without = measure(parallel(), langs="ru,de").frame("pairs")
    assert [*without[["lang_a", "lang_b"]].iloc[0]] == ["rus_Cyrl", "deu_Latn"]


@pytest.mark.parametrize("held", [1, 12_000, 18_000])
def test_nothing_depends_on_how_many_languages_are_held(held: int) -> None:
    """One language of 30 x 12 is 1,440 + 7,200 bytes: one, one or two at a time, against all of four."""
    vectors = open_vectors(parallel())
    whole, blocks = (measure_layer(vectors, 0, CODES, 30, 4, held_bytes=each) for each in (10**9, held))
    for expected, found in zip(whole, blocks, strict=True):
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_a_limit_takes_the_first_rows() -> None:
    arrays = parallel()
    first = measure({code: values[:10] for code, values in arrays.items()})
    limited = measure(arrays, limit=10)
    pd.testing.assert_frame_equal(limited.frame("pairs"), first.frame("pairs"), check_exact=True)
    assert limited.facts["rows"] == limited.facts["limit"] == 10


def test_the_callers_arrays_are_unchanged() -> None:
    arrays = {code: values.astype(np.float32) for code, values in parallel().items()}
    before = {code: values.tobytes() for code, values in arrays.items()}
    measure(arrays)
    assert {code: values.tobytes() for code, values in arrays.items()} == before


def test_progress_tells_the_pairs_done() -> None:
    told: list[tuple[str, int, int]] = []
    measure(parallel(), advance=lambda *each: told.append(each))
    assert told == [("000", done, 6) for done in range(1, 7)]


@pytest.fixture(scope="module")
def store(toy: ParallelCorpus, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Four languages, 24 sentences, five layers."""
    folder = tmp_path_factory.mktemp("measures") / "store"
    return extract_all("builtin:tiny", toy, folder, dtype="fp32", device="cpu")


def test_a_store_gives_what_its_arrays_give(store: ActivationStore, tmp_path: Path) -> None:
    report = measure(store.path)
    assert report.facts["store"] == store.digest()
    assert (report.facts["pooling"], report.facts["k"], report.facts["shown_layer"]) == ("mean", 4, 2)
    assert report.facts["corpus"]["name"] == "toy"
    assert list(report.frame("layers")["layer"]) == [0, 1, 2, 3, 4]
    for code in store.languages:
        np.save(tmp_path / f"{code}.npy", store.layer(code, 3, "mean"))
    arrays = measure(tmp_path, langs=",".join(store.languages))
    assert arrays.facts["arrays_digest"]
    for name in ("pairs", "languages", "directions"):
        own = report.frame(name).query("layer == 3").drop(columns="layer").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, arrays.frame(name).drop(columns="layer"), check_exact=True)


def test_a_saved_report_reads_back(store: ActivationStore, tmp_path: Path) -> None:
    report = measure(store, layers="0,1,4")
    assert report.facts["shown_layer"] == 1
    report.save(tmp_path / "report")
    again = Report.load(tmp_path / "report")
    assert (again.kind, again.facts, again.remarks) == (
        "measures",
        json.loads(json.dumps(report.facts)),
        report.remarks,
    )
    for name in report.tables:
        pd.testing.assert_frame_equal(again.frame(name), report.frame(name), check_exact=True)
        assert not again.tables[name].shown().empty
    json.dumps(report.as_json(), allow_nan=False)


def test_a_language_of_one_vector_is_told_and_left_out() -> None:
    """As at layer 0 under the pooling of the last token, where every sentence ends alike."""
    arrays = parallel()
    rest = measure({code: values for code, values in arrays.items() if code != "fra_Latn"})
    arrays["fra_Latn"] = np.tile(np.random.default_rng(8).normal(size=12), (30, 1))
    report = measure(arrays)
    assert any("layer 0 all sentences share one vector in fra_Latn" in remark for remark in report.remarks)
    assert not any("share one vector" in remark for remark in rest.remarks)
    pairs, directions = report.frame("pairs"), report.frame("directions")
    french = (pairs["lang_a"] == "fra_Latn") | (pairs["lang_b"] == "fra_Latn")
    assert (pairs["cka"].isna() == french).all()
    assert (directions["hubness_skewness"].isna() == (directions["tgt"] == "fra_Latn")).all()
    assert report.frame("layers")["cka"][0] == pytest.approx(rest.frame("layers")["cka"][0], rel=1e-12)
    json.dumps(report.as_json(), allow_nan=False)


# ---- what is refused -----------------------------------------------------------------------------------------


def test_bad_rows_are_named() -> None:
    for value, fault in ((np.nan, "holds NaN or inf"), (0.0, "is all zero")):
        arrays = parallel()
        arrays["fra_Latn"][6] = value
        with pytest.raises(RetrievalError, match=f"fra_Latn row 7 {fault}"):
            measure(arrays)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"langs": "de"}, "1 language; expected at least two"),
        ({"limit": 3}, "3 sentences; expected at least 4"),
        ({"k": 30}, "30 sentences with k = 30; expected k from 1"),
        ({"k": 0}, "30 sentences with k = 0; expected k from 1"),
    ],
)
def test_too_little_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        measure(parallel(), **options)


@pytest.mark.parametrize("options", [{"layers": "1"}, {"langs": "eng_Latn,swh_Latn"}, {"pool": "last"}])
def test_what_is_not_there_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    for code, values in parallel().items():
        np.save(tmp_path / f"{code}.npy", values)
    with pytest.raises(ProbeError, match=str(*options.values()).split(",")[-1]):
        measure(tmp_path, **options)


def test_measuring_needs_no_torch() -> None:
    script = "import sys, analysis.measures; print({'torch', 'faiss', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
