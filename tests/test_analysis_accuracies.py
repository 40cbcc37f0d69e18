"""Accuracies read from results and tables, and the means of a language under each relation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.accuracies import Accuracies, labelled, language_means, layer_number, short_name
from probe.errors import AnalysisError
from probe.results import RetrievalResult

CODES = ("eng_Latn", "deu_Latn", "rus_Cyrl", "swh_Latn", "zho_Hans")


@pytest.fixture
def result(simulate: Callable[..., RetrievalResult]) -> RetrievalResult:
    return simulate(languages=CODES, depth=4, rows=60)


def test_folder_and_table_hold_the_same_accuracies(result: RetrievalResult, tmp_path: Path) -> None:
    result.save(tmp_path / "run")
    folder, table = Accuracies.read(tmp_path / "run"), Accuracies.read(tmp_path / "run" / "accuracy.csv")
    assert folder.name == "run"
    assert (folder.languages, folder.layers, folder.depth) == (CODES, (0, 1, 2, 3, 4), 4)
    order = np.array([table.languages.index(code) for code in CODES])
    np.testing.assert_array_equal(table.values[:, order[:, None], order], folder.values)
    np.testing.assert_array_equal(folder.values[3], result.accuracy(3))
    assert table.controls == {}
    assert set(folder.controls) == {"char", "length"}


def test_middle_and_aggregate(result: RetrievalResult) -> None:
    accuracies = Accuracies.of_result(result)
    np.testing.assert_array_equal(accuracies.at("middle"), result.accuracy(2))
    assert np.nanmean(accuracies.at("aggregate")) == pytest.approx(result.aggregate())
    np.testing.assert_array_equal(accuracies.at("char"), result.accuracy("char"))
    with pytest.raises(AnalysisError, match=r"layer 9 .*0-4"):
        accuracies.at(9)


def test_a_bare_table_knows_no_depth(result: RetrievalResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    table = Accuracies.read(tmp_path / "accuracy.csv")
    for wanted in ("middle", "aggregate"):
        with pytest.raises(AnalysisError, match="number of blocks is not known"):
            table.at(wanted)


def test_language_means_are_those_of_the_directions_written_out() -> None:
    table = np.random.default_rng(0).random((2, 5, 5))
    table[:, np.arange(5), np.arange(5)] = np.nan

    def literal(layer: int, one: int, relation: str) -> float:
        pairs = {
            "all": [(one, other) for other in range(5)] + [(other, one) for other in range(5)],
            "to-english": [(one, 0)],
            "from-english": [(0, one)],
            "to:ru,zh": [(one, 2), (one, 4)],
            "from:ru,zh": [(2, one), (4, one)],
        }[relation]
        values = [table[layer, a, b] for a, b in pairs if a != b]
        return float(np.mean(values)) if values else np.nan

    for relation in ("all", "to-english", "from-english", "to:ru,zh", "from:ru,zh"):
        means = language_means(table, CODES, relation)
        expected = [[literal(layer, one, relation) for one in range(5)] for layer in range(2)]
        np.testing.assert_allclose(means, expected, rtol=1e-12)
    assert np.isnan(language_means(table, CODES, "to-english")[:, 0]).all()


@pytest.mark.parametrize("relation", ["english", "to:", "of:en", ""])
def test_an_unknown_relation_is_refused(relation: str) -> None:
    with pytest.raises(AnalysisError, match="--relation"):
        language_means(np.zeros((5, 5)), CODES, relation)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.drop(columns="n"), "without n"),
        (lambda table: table.assign(accuracy=table["accuracy"] * 100), r"accuracy [\d.]+ in row"),
        (lambda table: table.iloc[1:], "99 rows for 5 layers and 5 languages"),
        (lambda table: pd.concat([table.iloc[1:], table.iloc[1:2]]), "100 rows"),
        (lambda table: table.iloc[:0], "without rows"),
        (lambda table: table.assign(layer="first"), "could not convert string to float: 'first'"),
        (lambda table: table.assign(layer=table["layer"] + 0.5), "layer 0.5 in row 2 .*whole numbers"),
        (lambda table: table.assign(layer=table["layer"] - 1), "layer -1 in row 2"),
        (lambda table: table.assign(n=table["n"] + 0.5), "n 60.5 in row 2"),
        (lambda table: table.assign(n=0), "n 0 in row 2"),
        (lambda table: table.assign(n=30), "accuracy [\\d.]+ in row .*expected correct / n"),
        (
            lambda table: table.assign(accuracy=table["accuracy"].where(table.index != 7, 0.999)),
            r"accuracy 0.999 in row 9 \(.* to .*\); expected correct / n of that row",
        ),
    ],
)
def test_a_faulty_table_is_refused(
    result: RetrievalResult, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], told: str
) -> None:
    result.save(tmp_path)
    path = tmp_path / "other.csv"
    change(pd.read_csv(tmp_path / "accuracy.csv")).to_csv(path, index=False)
    with pytest.raises(AnalysisError, match=told):
        Accuracies.read(path)


def test_a_table_may_name_languages_by_their_aliases(result: RetrievalResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    table, path = pd.read_csv(tmp_path / "accuracy.csv"), tmp_path / "aliases.csv"
    aliases = {"eng_Latn": " en", "deu_Latn": "de-DE ", "swh_Latn": "sw"}
    table.replace({"src": aliases, "tgt": aliases}).to_csv(path, index=False)
    found, plain = Accuracies.read(path), Accuracies.read(tmp_path / "accuracy.csv")
    assert found.languages == plain.languages
    np.testing.assert_array_equal(found.values, plain.values)
    table.replace({"src": {"eng_Latn": "en"}}).to_csv(path, index=False)
    with pytest.raises(AnalysisError, match=r"aliases\.csv with en and eng_Latn, which are one language; .*; mend"):
        Accuracies.read(path)


def test_an_accuracy_may_be_rounded(result: RetrievalResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    table = pd.read_csv(tmp_path / "accuracy.csv")
    table.assign(accuracy=table["accuracy"].round(3)).to_csv(tmp_path / "rounded.csv", index=False)
    rounded, whole = (Accuracies.read(tmp_path / f"{name}.csv") for name in ("rounded", "accuracy"))
    np.testing.assert_allclose(rounded.values, whole.values, atol=5.1e-4)


def test_a_model_of_one_block_has_no_aggregate(simulate: Callable[..., RetrievalResult]) -> None:
    one = Accuracies.of_result(simulate(languages=CODES, depth=1, rows=30), "small")
    with pytest.raises(AnalysisError, match="aggregate of small, whose model has one block"):
        one.at("aggregate")


@pytest.mark.parametrize(
    ("text", "number"), [("16", 16), ("007", 7), ("²", None), ("\u0661", None), ("-1", None), ("1.0", None), ("", None)]
)
def test_a_layer_s_number_is_a_plain_decimal(text: str, number: int | None) -> None:
    assert layer_number(text) == number


def test_inputs_are_called_by_their_folder_or_file_or_as_people_say(tmp_path: Path) -> None:
    (tmp_path / "qwen2.5").mkdir()
    (tmp_path / "own.csv").write_text("")
    paths = [tmp_path / "qwen2.5", tmp_path / "own.csv"]
    assert labelled(paths, None) == ["qwen2.5", "own"]
    assert labelled(paths, ("a", " b ")) == ["a", "b"]
    for names, told in (
        (("a", " a"), "two inputs named a;"),
        (("a", " "), "an empty name \\(--names a,\\)"),
        (("a", "b", "c"), "3 names for 2 inputs \\(--names a,b,c\\)"),
    ):
        with pytest.raises(AnalysisError, match=told):
            labelled(paths, names)


def test_what_is_neither_folder_nor_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="cannot be read"):
        Accuracies.read(tmp_path / "absent.csv")


def test_names() -> None:
    assert [short_name(code) for code in ("swh_Latn", "ace_Arab", "xxx_Yyyy")] == ["sw", "ace", "xxx_Yyyy"]
