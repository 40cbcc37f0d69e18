"""The result's files column by column, its summary against hand computation, and the way back from disk."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from probe.corpus import ParallelCorpus
from probe.errors import RetrievalError
from probe.extract import extract_all
from probe.results import Cells, RetrievalResult, direction_groups, resource_groups, script_of
from probe.retrieve import retrieve_all
from probe.tables import retrieval_table

ROWS = 10
CODES = ("eng_Latn", "jav_Latn", "rus_Cyrl")  # high, low, high; two scripts
SETTINGS = {"k": 4, "margin": "ratio", "backend": "torch", "device": "cpu", "depth": None, "controls_missing": None}


def cells(correct: list[list[int]], mexa: float = 0.5, nonpositive: int = 0) -> Cells:
    """Cells with so many right sentences in each direction, the first ones."""
    hits = np.array([[np.packbits(np.arange(ROWS) < count) for count in row] for row in correct])
    table = np.full((len(correct), len(correct)), mexa)
    np.fill_diagonal(table, np.nan)
    return Cells(hits, table, nonpositive)


def result(*layers: Cells, codes: tuple[str, ...] = CODES, depth: int | None = None, **more: object) -> RetrievalResult:
    return RetrievalResult(codes, ROWS, dict(enumerate(layers)), {}, settings={**SETTINGS, "depth": depth}, **more)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def header(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n")[0]


@pytest.fixture(scope="module")
def saved(toy: ParallelCorpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[RetrievalResult, Path]:
    """Real retrieval over four languages and the built-in model's five layers, with predictions."""
    folder = tmp_path_factory.mktemp("results")
    store = extract_all("builtin:tiny", toy, folder / "store", dtype="fp32", device="cpu")
    out = folder / "result"
    return retrieve_all(store, backend="torch", device="cpu", save_predictions=True, out=out), out


# ---- files ---------------------------------------------------------------------------------------------------


def test_the_files_are_those_of_the_design(saved: tuple[RetrievalResult, Path]) -> None:
    names = "accuracy.csv controls.csv hits.h5 languages.csv mexa.csv predictions.h5 summary.json"
    assert sorted(path.name for path in saved[1].iterdir()) == names.split()


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("accuracy.csv", "layer,src,tgt,n,correct,accuracy"),
        ("controls.csv", "layer,src,tgt,n,correct,accuracy"),
        ("mexa.csv", "layer,lang_a,lang_b,n,mexa"),
        ("languages.csv", "language,tokens_per_sentence,script,family,level,duplicate_rows"),
    ],
)
def test_columns_are_those_of_the_design(saved: tuple[RetrievalResult, Path], name: str, columns: str) -> None:
    assert header(saved[1] / name) == columns


def test_every_direction_of_every_layer_has_a_row(saved: tuple[RetrievalResult, Path]) -> None:
    ours, out = saved
    found = [(row["layer"], row["src"], row["tgt"]) for row in read_csv(out / "accuracy.csv")]
    every = [(str(n), a, b) for n in range(5) for a in ours.languages for b in ours.languages if a != b]
    assert found == every
    assert len(found) == 5 * 4 * 3


def test_accuracy_is_the_share_of_right_sentences(saved: tuple[RetrievalResult, Path]) -> None:
    for name in ("accuracy.csv", "controls.csv"):
        for row in read_csv(saved[1] / name):
            assert int(row["n"]) == 24
            assert float(row["accuracy"]) == int(row["correct"]) / 24
            assert 0 <= float(row["accuracy"]) <= 1


def test_controls_are_named_in_place_of_a_layer(saved: tuple[RetrievalResult, Path]) -> None:
    rows = read_csv(saved[1] / "controls.csv")
    assert [row["layer"] for row in rows] == ["char"] * 12 + ["length"] * 12


def test_mexa_has_a_row_for_each_unordered_pair(saved: tuple[RetrievalResult, Path]) -> None:
    ours, out = saved
    rows = [row for row in read_csv(out / "mexa.csv") if row["layer"] == "3"]
    assert len(rows) == 6
    for row in rows:
        a, b = ours.languages.index(row["lang_a"]), ours.languages.index(row["lang_b"])
        assert a < b
        assert float(row["mexa"]) == ours.layers[3].mexa[a, b]


def test_predictions_are_rows_with_minus_one_on_the_diagonal(saved: tuple[RetrievalResult, Path]) -> None:
    with h5py.File(saved[1] / "predictions.h5") as h5:
        assert list(h5) == ["000", "001", "002", "003", "004"]
        for name in h5:
            values = h5[name][()]
            assert (values.shape, values.dtype) == ((4, 4, 24), np.int32)
            diagonal = np.eye(4, dtype=bool)
            assert (values[diagonal] == -1).all()
            assert values[~diagonal].min() >= 0
            assert values[~diagonal].max() < 24


def test_hits_are_the_packed_right_predictions(saved: tuple[RetrievalResult, Path]) -> None:
    with h5py.File(saved[1] / "predictions.h5") as found, h5py.File(saved[1] / "hits.h5") as hits:
        for name in found:
            assert hits[name].dtype == np.uint8
            np.testing.assert_array_equal(hits[name][()], np.packbits(found[name][()] == np.arange(24), axis=2))


def test_correct_counts_the_hits(saved: tuple[RetrievalResult, Path]) -> None:
    ours, out = saved
    with h5py.File(out / "hits.h5") as h5:
        for row in [*read_csv(out / "accuracy.csv"), *read_csv(out / "controls.csv")]:
            name = f"{int(row['layer']):03d}" if row["layer"].isdigit() else row["layer"]
            a, b = ours.languages.index(row["src"]), ours.languages.index(row["tgt"])
            assert np.unpackbits(h5[name][a, b]).sum() == int(row["correct"])


def test_languages_are_described(saved: tuple[RetrievalResult, Path], toy: ParallelCorpus) -> None:
    english = read_csv(saved[1] / "languages.csv")[0]
    tokens = np.mean([1 + len(sentence.encode()) for sentence in toy.sentences["eng_Latn"]])  # `<s>` and the bytes
    assert english == {
        "language": "eng_Latn",
        "tokens_per_sentence": str(float(tokens)),
        "script": "Latn",
        "family": "Indo-European",
        "level": "high",
        "duplicate_rows": "0",
    }


def test_predictions_are_written_only_on_request(tmp_path: Path) -> None:
    result(cells([[0, 1, 2], [3, 0, 4], [5, 6, 0]])).save(tmp_path)
    assert not (tmp_path / "predictions.h5").exists()


def test_a_new_result_leaves_no_predictions_of_the_old_one(saved: tuple[RetrievalResult, Path], tmp_path: Path) -> None:
    saved[0].save(tmp_path)
    assert (tmp_path / "predictions.h5").exists()
    result(cells([[0, 1, 2], [3, 0, 4], [5, 6, 0]])).save(tmp_path)
    assert not (tmp_path / "predictions.h5").exists()


def test_provenance_stands_in_the_summary(saved: tuple[RetrievalResult, Path]) -> None:
    summary = json.loads((saved[1] / "summary.json").read_text(encoding="utf-8"))
    made = summary["settings"]
    assert (made["k"], made["margin"], made["backend"], made["device"]) == (4, "ratio", "torch", "cpu")
    assert made["pooling"] == "mean"
    assert made["corpus"]["digests"].keys() == set(saved[0].languages)
    assert {"python", "torch", "numpy"} <= made["versions"].keys()
    assert len(made["store"]) == 64


# ---- and back ------------------------------------------------------------------------------------------------


def test_a_saved_result_loads_as_it_was(saved: tuple[RetrievalResult, Path]) -> None:
    ours, out = saved
    theirs = RetrievalResult.load(out)
    assert (theirs.languages, theirs.rows) == (ours.languages, ours.rows)
    assert list(theirs.layers) == list(ours.layers)
    assert list(theirs.controls) == list(ours.controls)
    for key in (*ours.layers, *ours.controls):
        np.testing.assert_array_equal(theirs.accuracy(key), ours.accuracy(key))
        mine, loaded = (found.controls[key] if isinstance(key, str) else found.layers[key] for found in (ours, theirs))
        np.testing.assert_array_equal(loaded.hits, mine.hits)
        np.testing.assert_array_equal(loaded.mexa, mine.mexa)
    assert theirs.tokens == ours.tokens
    assert theirs.summary() == ours.summary()


def test_a_loaded_result_keeps_the_warnings(tmp_path: Path) -> None:
    ours = result(
        cells([[0, 1, 2], [3, 0, 4], [5, 6, 0]], nonpositive=7),
        cells([[0, 1, 2], [3, 0, 4], [5, 6, 0]]),
        duplicates={"jav_Latn": 2, "eng_Latn": 0},
    )
    ours.save(tmp_path)
    loaded = RetrievalResult.load(tmp_path).summary()
    assert loaded["nonpositive_denominators"] == {"0": 7}
    assert loaded["duplicate_rows"] == {"jav_Latn": 2}


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=r"holds no readable summary\.json"):
        RetrievalResult.load(tmp_path)
    with pytest.raises(RetrievalError, match=r"absent is not there; .*; check the path"):
        RetrievalResult.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("manifest.json", "is a store; .*; run `probe retrieve .* --out RESULT`"),
        ("report.json", "is a report; .*; give the result it was made from"),
    ],
)
def test_a_folder_of_something_else_is_told(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(RetrievalError, match=told):
        RetrievalResult.load(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"'])
def test_a_summary_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(RetrievalError, match=r"summary\.json holds") as caught:
        RetrievalResult.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["languages", "rows", "layers", "controls", "nonpositive_denominators", "settings"])
def test_a_summary_without_a_key_or_with_null_there_is_refused_by_name(tmp_path: Path, key: str) -> None:
    result(cells(HAND)).save(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    for changed in ({**summary, key: None}, {name: value for name, value in summary.items() if name != key}):
        (tmp_path / "summary.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(RetrievalError, match=r"is damaged \(summary\.json"):
            RetrievalResult.load(tmp_path)


OTHERS = {
    "other languages": result(cells([[0, 5, 1], [7, 0, 2], [3, 6, 0]]), codes=("eng_Latn", "rus_Cyrl", "jav_Latn")),
    "other rows": RetrievalResult(CODES, 9, {0: cells([[0, 5, 1], [7, 0, 2], [3, 6, 0]])}, {}, settings=SETTINGS),
    "other hits": result(cells([[0, 5, 1], [7, 0, 2], [3, 7, 0]])),
    "other layers": result(*[cells([[0, 5, 1], [7, 0, 2], [3, 6, 0]])] * 2),
}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("other languages", "hits.h5: its languages or rows"),
        ("other rows", "hits.h5: its languages or rows"),
        ("other hits", r"the mean of layer 0 is 0\.416667 in hits\.h5 and 0\.400000 in summary\.json"),
        ("other layers", "hits.h5 holds other layers or controls than summary.json"),
    ],
)
def test_the_hits_of_another_run_are_refused(tmp_path: Path, other: str, told: str) -> None:
    """As when a result was copied over another and the copy stopped half way: every file is whole."""
    result(cells(HAND)).save(tmp_path / "own")
    OTHERS[other].save(tmp_path / "other")
    (tmp_path / "other" / "hits.h5").replace(tmp_path / "own" / "hits.h5")
    with pytest.raises(RetrievalError, match=rf"own is damaged \({told}"):
        RetrievalResult.load(tmp_path / "own")


def test_the_controls_of_another_run_are_refused(tmp_path: Path) -> None:
    for name, right in (("own", 3), ("other", 4)):
        control = cells([[0, right, right], [right, 0, right], [right, right, 0]])
        RetrievalResult(CODES, ROWS, {0: cells(HAND)}, {"char": control}, settings=SETTINGS).save(tmp_path / name)
    (tmp_path / "other" / "hits.h5").replace(tmp_path / "own" / "hits.h5")
    with pytest.raises(RetrievalError, match=r"the mean of char is 0\.4.* in hits\.h5 and 0\.3"):
        RetrievalResult.load(tmp_path / "own")


def test_hits_of_another_shape_are_refused(tmp_path: Path) -> None:
    result(cells(HAND)).save(tmp_path)
    with h5py.File(tmp_path / "hits.h5", "r+") as h5:
        values = h5["000"][:, :2]
        del h5["000"]
        h5["000"] = values
    with pytest.raises(RetrievalError, match=r"damaged \(hits\.h5: 000 is uint8 \(3, 2, 2\), not uint8 \(3, 3, 2\)"):
        RetrievalResult.load(tmp_path)


def test_mexa_scores_cut_at_a_line_are_refused(tmp_path: Path) -> None:
    """Else the pairs that are gone were left out of the mean in silence."""
    result(cells(HAND)).save(tmp_path)
    lines = (tmp_path / "mexa.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "mexa.csv").write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(RetrievalError, match=r"damaged \(mexa\.csv: layer 0 has 2 pairs of languages, not 3"):
        RetrievalResult.load(tmp_path)


def test_another_schema_is_refused(saved: tuple[RetrievalResult, Path], tmp_path: Path) -> None:
    summary = json.loads((saved[1] / "summary.json").read_text(encoding="utf-8"))
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "schema": 0}), encoding="utf-8")
    with pytest.raises(RetrievalError, match="has schema 0; expected schema 1"):
        RetrievalResult.load(tmp_path)


@pytest.mark.parametrize("name", ["hits.h5", "mexa.csv", "languages.csv"])
def test_a_result_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    result(cells([[0, 1, 2], [3, 0, 4], [5, 6, 0]])).save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(RetrievalError, match=rf"is damaged \({name}"):
        RetrievalResult.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(RetrievalError, match="cannot be written"):
        result(cells([[0, 1, 2], [3, 0, 4], [5, 6, 0]])).save(tmp_path / "file")


# ---- the summary by hand -------------------------------------------------------------------------------------

HAND = [[0, 5, 1], [7, 0, 2], [3, 6, 0]]
"""Right sentences of 10: eng->jav 5, eng->rus 1, jav->eng 7, jav->rus 2, rus->eng 3, rus->jav 6."""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", (5 + 1 + 7 + 2 + 3 + 6) / 60),
        ("same_script", (5 + 7) / 20),
        ("cross_script", (1 + 2 + 3 + 6) / 40),
        ("from_english", (5 + 1) / 20),
        ("to_english", (7 + 3) / 20),
        ("low", (5 + 7 + 2 + 6) / 40),  # every direction that touches Javanese
        ("high", ((5 + 1 + 7 + 3) / 40 + (1 + 2 + 3 + 6) / 40) / 2),  # English and Russian, each a language
    ],
)
def test_group_means_by_hand(name: str, expected: float) -> None:
    (row,) = result(cells(HAND)).summary()["layers"]
    assert row[name] == pytest.approx(expected, abs=1e-12)


def test_groups_without_members_are_none() -> None:
    codes = ("jav_Latn", "cym_Latn", "quy_Latn")
    (row,) = result(cells(HAND), codes=codes).summary()["layers"]
    empty = {name for name, value in row.items() if value is None}
    assert empty == {"cross_script", "from_english", "to_english", "high", "mexa_english"}


def test_a_language_without_level_is_in_no_resource_group() -> None:
    """A code outside the 204, as arrays may have: its directions count in the other languages' means alone."""
    codes = ("eng_Latn", "qqq_Latn", "rus_Cyrl")
    assert [mask.tolist() for mask in resource_groups(codes).values()] == [[True, False, True], [False] * 3]
    (row,) = result(cells(HAND), codes=codes).summary()["layers"]
    assert row["low"] is None
    assert row["high"] == pytest.approx(((5 + 1 + 7 + 3) / 40 + (1 + 2 + 3 + 6) / 40) / 2)


def test_a_language_without_level_has_empty_fields(tmp_path: Path) -> None:
    result(cells(HAND), codes=("eng_Latn", "qqq_Latn", "rus_Cyrl")).save(tmp_path)
    row = read_csv(tmp_path / "languages.csv")[1]
    assert (row["script"], row["family"], row["level"], row["tokens_per_sentence"]) == ("Latn", "", "", "")


def test_both_chinese_scripts_count_as_one() -> None:
    groups = direction_groups(("zho_Hans", "zho_Hant", "jpn_Jpan"))
    assert groups["same_script"].tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert script_of("zho_Hans") != script_of("jpn_Jpan")


def test_same_and_cross_script_divide_all_directions() -> None:
    groups = direction_groups(("eng_Latn", "deu_Latn", "rus_Cyrl", "ell_Grek"))
    assert not (groups["same_script"] & groups["cross_script"]).any()
    assert ((groups["same_script"] | groups["cross_script"]) == groups["mean"]).all()
    assert groups["mean"].sum() == 4 * 3


def test_mexa_english_is_the_mean_of_the_pairs_with_english() -> None:
    table = np.array([[np.nan, 0.2, 0.6], [0.2, np.nan, 0.9], [0.6, 0.9, np.nan]])
    (row,) = result(Cells(cells(HAND).hits, table)).summary()["layers"]
    assert row["mexa_english"] == pytest.approx(0.4)


def test_directions_are_n_times_n_minus_one(saved: tuple[RetrievalResult, Path]) -> None:
    assert saved[0].summary()["directions"] == 12


def flat(count: int) -> Cells:
    return cells([[0, count, count], [count, 0, count], [count, count, 0]])


def test_the_aggregate_is_the_mean_of_even_layers_but_zero() -> None:
    """Layers 0 to 5 with 9, 9, 1, 9, 4, 9 right: (1 + 4) / 2 of 10."""
    layers = [flat(count) for count in (9, 9, 1, 9, 4, 9)]
    assert result(*layers, depth=5).aggregate() == pytest.approx(0.25)


def test_there_is_no_aggregate_without_every_even_layer() -> None:
    layers = [flat(count) for count in (9, 9, 1, 9)]
    assert result(*layers, depth=3).aggregate() == pytest.approx(0.1)
    assert result(*layers, depth=4).aggregate() is None


def test_there_is_no_aggregate_of_arrays() -> None:
    assert result(flat(3)).aggregate() is None


def test_the_curve_is_the_mean_of_each_layer() -> None:
    assert result(flat(3), cells(HAND)).curve() == pytest.approx({0: 0.3, 1: 24 / 60})


def test_the_best_layer_is_the_highest_mean() -> None:
    assert result(flat(3), flat(5), flat(4)).summary()["best_layer"] == 1


def test_accuracy_is_undefined_on_the_diagonal() -> None:
    share = result(cells(HAND)).accuracy(0)
    assert np.isnan(np.diag(share)).all()
    assert share[0, 1] == 0.5


# ---- the table -----------------------------------------------------------------------------------------------


def shown(summary: dict[str, object], width: int = 80) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(retrieval_table(summary))
    return captured.get()


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_is_whole_at_common_widths(saved: tuple[RetrievalResult, Path], width: int) -> None:
    """No heading is cut, no line is wider than the terminal."""
    text = shown(saved[0].summary(), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    heads = next(line for line in text.splitlines() if line.strip().startswith("layer"))
    assert heads.split()[:4] == ["layer", "all", "script", "English"]


def test_the_widest_table_is_whole_at_80_columns() -> None:
    """All groups, 100.0 everywhere, many languages."""
    summary = result(flat(10), flat(10)).summary()
    summary["layers"] = [dict.fromkeys(row, 1.0) | {"layer": row["layer"]} for row in summary["layers"]]
    summary["controls"] = {"char": summary["layers"][0], "length": summary["layers"][1]}
    summary |= {"languages": ["eng_Latn"] * 204, "directions": 204 * 203, "rows": 997}
    text = shown(summary)
    assert "…" not in text
    assert text.count("100.0") == 4 * 8
    assert "204 languages, 41,412 directions, 997 sentences" in text


def test_the_table_prints_percent() -> None:
    lines = shown(result(cells(HAND)).summary()).splitlines()
    assert next(line.split() for line in lines if line.split()[:1] == ["0"])[1] == "40.0"


def test_the_table_says_why_controls_are_missing() -> None:
    summary = result(cells(HAND)).summary()
    summary["settings"]["controls_missing"] = "these vectors carry no text"
    text = shown(summary)
    assert "No controls (these vectors carry no text)" in text


def test_the_table_warns_of_duplicates_and_denominators() -> None:
    text = shown(result(cells(HAND, nonpositive=1234), duplicates={"jav_Latn": 1, "urd_Arab": 2}).summary(), 200)
    assert "Warning: rows that repeat an earlier one, so cannot all be found: jav_Latn 1, urd_Arab 2." in text
    assert "1,234 at layer 0" in text


def test_a_narrow_table_does_not_wrap_its_heading() -> None:
    """Without English, levels and a second script there are two columns of figures."""
    text = shown(result(cells(HAND), codes=("qqa_Latn", "qqb_Latn", "qqc_Latn")).summary())
    assert "3 languages, 6 directions, 10 sentences" in text


def test_the_table_does_not_warn_of_nothing() -> None:
    assert "Warning" not in shown(result(cells(HAND), duplicates={"jav_Latn": 0}).summary())
