"""Which sentences make a document, and how documents are drawn and split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.documents import Documents, find_documents
from probe.errors import AnalysisError

FLORES: dict[str, Any] = {"corpus": {"name": "flores200", "split": "dev"}, "limit": None}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six sentences of three pages, of which one comes back."""
    path = tmp_path / "pages.tsv"
    path.write_text("page\ttopic\n" + "".join(f"{page}\tnews\n" for page in "aabcca"), encoding="utf-8")
    return path


def test_flores_dev_has_281_documents(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    documents = find_documents(FLORES, 997)
    assert (len(documents), documents.sizes.sum()) == (281, 997)
    assert documents.grouping == "281 documents (metadata_dev.tsv)"
    pages = (shared_data / "flores200" / "metadata_dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    first = {documents.labels[i]: page.split("\t")[0] for i, page in reversed([*enumerate(pages)])}
    assert [first[label] for label in documents.labels] == [page.split("\t")[0] for page in pages]


@pytest.mark.parametrize("limit", [100, None])  # on retrieval, and on extraction, which a result does not record
def test_a_limited_run_has_the_first_sentences(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(shared_data))
    some, every = find_documents({**FLORES, "limit": limit}, 100), find_documents(FLORES, 997)
    np.testing.assert_array_equal(some.labels, every.labels[:100])


def test_without_the_corpus_own_file_sentences_are_drawn_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDPROBE_DATA", str(tmp_path))
    for settings in (FLORES, {}, {"corpus": None}, {"corpus": {"name": "mine", "split": ""}}):
        documents = find_documents(settings, 30)
        assert (len(documents), documents.grouping) == (30, "30 sentences (no documents known)")


def test_a_given_file_and_sentences(table: Path) -> None:
    documents = find_documents({}, 6, table)
    assert documents.labels.tolist() == [0, 0, 1, 2, 2, 0]
    assert documents.sizes.tolist() == [3, 1, 2]
    assert find_documents({}, 6, "sentences").labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert find_documents({"limit": 4}, 4, table).labels.tolist() == [0, 0, 1, 2]
    assert find_documents({}, 6, documents) is documents


@pytest.mark.parametrize(("rows", "settings"), [(7, {}), (5, {}), (7, {"limit": 7})])
def test_a_file_of_other_length_is_refused(table: Path, rows: int, settings: dict[str, Any]) -> None:
    with pytest.raises(AnalysisError, match=f"6 lines below its header.*{rows} sentences"):
        find_documents(settings, rows, table)


def test_an_unreadable_file_and_foreign_documents_are_refused(tmp_path: Path, table: Path) -> None:
    with pytest.raises(AnalysisError, match=r"absent\.tsv cannot be read"):
        find_documents({}, 6, tmp_path / "absent.tsv")
    with pytest.raises(AnalysisError, match="documents of 6 sentences for a result of 8"):
        find_documents({}, 8, find_documents({}, 6, table))


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_file_of_other_separators_would_group_by_whole_lines_and_is_refused(
    table: Path, tmp_path: Path, separator: str
) -> None:
    other = tmp_path / "pages.csv"
    other.write_text(table.read_text(encoding="utf-8").replace("\t", separator), encoding="utf-8")
    with pytest.raises(
        AnalysisError, match=r"pages\.csv with the header 'page.topic'.*save it tab-separated, or give --doc"
    ):
        find_documents({}, 6, other)


def test_a_single_column_needs_no_tab(tmp_path: Path) -> None:
    (tmp_path / "pages.txt").write_text("page\na, the first\na, the first\nb; the second\n", encoding="utf-8")
    assert find_documents({}, 3, tmp_path / "pages.txt").labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("empty", ["", " "])
def test_a_sentence_without_a_document_is_refused(table: Path, empty: str) -> None:
    """Else all sentences without a name were one document."""
    table.write_text(table.read_text(encoding="utf-8").replace("c\t", f"{empty}\t"), encoding="utf-8")
    with pytest.raises(AnalysisError, match=r"pages\.tsv line 5 without a document.*--documents sentences"):
        find_documents({}, 6, table)


def test_sums_are_those_of_each_document() -> None:
    labels = np.array([0, 1, 0, 2, 2, 2, 1])
    hits = np.random.default_rng(0).random((3, 4, 7)) < 0.5
    sums = Documents(labels, "").sums(hits)
    for document in range(3):
        np.testing.assert_array_equal(sums[..., document], hits[..., labels == document].sum(axis=-1))


def test_a_document_without_sentences_is_a_bug() -> None:
    with pytest.raises(ValueError, match="without a sentence"):
        Documents(np.array([0, 2]), "")


def test_draws_are_multinomial_and_follow_the_seed() -> None:
    documents = Documents(np.arange(40) % 9, "")
    draws = documents.draws(5000, 3)
    assert (draws.sum(axis=1) == 9).all()
    np.testing.assert_allclose(draws.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(draws.var(axis=0), 8 / 9, atol=0.1)
    np.testing.assert_array_equal(documents.draws(1500, 3), draws[:1500])
    assert not np.array_equal(documents.draws(1500, 4), draws[:1500])


@pytest.mark.parametrize("number", [2, 7, 8])
def test_halves_are_halves_and_every_document_is_as_often_in_the_first(number: int) -> None:
    halves = Documents(np.arange(number), "").halves(4000, 0)
    assert (halves.sum(axis=1) == (number + 1) // 2).all()
    np.testing.assert_allclose(halves.mean(axis=0), (number + 1) // 2 / number, atol=0.04)
