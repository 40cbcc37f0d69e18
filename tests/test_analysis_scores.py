"""Downstream scores: the paper's by name, a user's file in either scale, and every file that would give a wrong number refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.scores import Scores, read_scores
from data_manifests import language_aliases, language_sets, languages
from data_manifests.published import published_set, score_names
from probe.errors import AnalysisError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "mine.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


# The paper's


@pytest.mark.parametrize("name", score_names())
def test_a_published_set_is_read_by_its_name(name: str) -> None:
    scores, published = read_scores(f"paper:{name}"), published_set(name)
    assert scores.values == published.values
    assert scores.groups == published.groups
    assert (scores.task, scores.metric, scores.model) == (published.task, published.metric, published.model)
    assert scores.name == f"paper:{name}"
    assert scores.source.endswith(f"Table {published.table}")


def test_a_defect_of_the_source_is_the_first_note() -> None:
    scores = read_scores("paper:llama3-english")
    assert "displaced" in scores.defect
    assert scores.notes[0] == f"paper:llama3-english: {scores.defect}"
    assert read_scores("paper:llama3-sft").defect == ""


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(AnalysisError, match=r"--scores paper:llama3-stf; .*did you mean paper:llama3-sft\?"):
        read_scores("paper:llama3-stf")


# A file


def test_a_file_is_read_whatever_names_its_languages(write: Write) -> None:
    """FLORES-200 codes, ISO 639-1 codes and MASSIVE locales, with a byte order mark, blank lines and blanks around cells."""
    scores = read_scores(write("\ufefflanguage,score\nswh_Latn, 42.8\n\nzh,73.8\nar-SA ,75.5\nis,0\n"))
    assert scores == Scores(
        "mine",
        {"swh_Latn": 42.8, "zho_Hans": 73.8, "arb_Arab": 75.5, "isl_Latn": 0.0},
        source="mine.csv",
    )


def test_what_the_file_says_is_kept(write: Write) -> None:
    path = write(
        "language,score,task,metric,model,source,group,seed\n"
        "en,61,slots,F1,llama,our run,supervised,1\nde,55,slots,F1,llama,our run,transfer,1\nfr,54,slots,F1,llama,our run,,2\n"
    )
    scores = read_scores(path)
    assert (scores.task, scores.metric, scores.model, scores.source) == ("slots", "F1", "llama", "our run")
    assert scores.groups == {"eng_Latn": "supervised", "deu_Latn": "transfer"}
    assert scores.notes == ("Columns of mine.csv that are not used: seed.",)


def test_columns_of_nothing_are_left_out_and_a_column_without_a_name_is_told(write: Write) -> None:
    """As spreadsheets and pandas write them."""
    assert read_scores(write("language,score,,\nen,61,,\nde,55,,\n,,,\n")).notes == ()
    scores = read_scores(write(",language,score\n0,en,61\n1,de,55\n"))
    assert scores.values == {"eng_Latn": 61, "deu_Latn": 55}
    assert scores.notes == ("Columns of mine.csv that are not used: (no name).",)


@pytest.mark.parametrize("number", ["61", "61.", ".5", "+6.1e1", "0"])
def test_plain_numbers_are_taken(write: Write, number: str) -> None:
    assert read_scores(write(f"language,score,scale\nen,{number},percent\n")).values == {"eng_Latn": float(number)}


def test_groups_are_never_guessed(write: Write) -> None:
    rows = "".join(f"{code},{50 + number}\n" for number, code in enumerate(language_sets()["slots20"]))
    assert read_scores(write(f"language,score\n{rows}")).groups == {}


def test_a_string_and_a_path_name_the_same_file(write: Write) -> None:
    path = write("language,score\nen,1.5\nde,2\n")
    assert read_scores(str(path)) == read_scores(path)


# Scale


def test_shares_become_percent_points_exactly_and_it_is_said(write: Write) -> None:
    scores = read_scores(write("language,score\nen,0.57\nde,0.07\nfr,1\nja,0\n"))
    assert scores.values == {"eng_Latn": 57.0, "deu_Latn": 7.0, "fra_Latn": 100.0, "jpn_Jpan": 0.0}
    assert scores.notes == ("The scores of mine.csv are shares in 0..1; they are given here times 100.",)


@given(
    st.dictionaries(
        st.sampled_from(sorted(languages())), st.integers(101, 10_000).map(lambda value: value / 100), min_size=1
    )
)
def test_percent_and_share_give_the_same_scores(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, float]
) -> None:
    folder = tmp_path_factory.mktemp("scores")
    for name, factor, digits in (("percent", 1, 2), ("share", 100, 4)):
        rows = "".join(f"{code},{value / factor:.{digits}f}\n" for code, value in values.items())
        (folder / f"{name}.csv").write_text(f"language,score\n{rows}", encoding="utf-8")
    percent, share = read_scores(folder / "percent.csv"), read_scores(folder / "share.csv")
    assert percent.values == share.values == values
    assert percent.digest == share.digest


def test_mixed_scales_are_refused_naming_both_rows(write: Write) -> None:
    with pytest.raises(
        AnalysisError, match=r"0\.8 of deu_Latn in line 3 and 61\.7 of eng_Latn in line 2.*add a column scale"
    ):
        read_scores(write("language,score\nen,61.7\nde,0.8\n"))


def test_a_stated_scale_settles_it(write: Write) -> None:
    path = write("language,score,scale\nen,61.7,percent\nde,0.8,percent\n")
    assert read_scores(path).values == {"eng_Latn": 61.7, "deu_Latn": 0.8}
    path = write("language,score,scale\nen,0.9,percent\nde,0.8,percent\n")
    assert read_scores(path).values == {"eng_Latn": 0.9, "deu_Latn": 0.8}
    path = write("language,score,scale\nen,0.9,share\nde,0.08,share\n")
    assert read_scores(path).values == {"eng_Latn": 90.0, "deu_Latn": 8.0}


# Refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.csv without rows"),
        ("language,score\n", "mine.csv without rows"),
        ("lang,score\nen,5\n", "with the columns lang, score; .*add the column language"),
        ("language;score\nen;5\n", "with the columns language;score; .*save it with commas between columns"),
        ("\nlanguage;score\nen;5,1\n", "save it with commas between columns"),
        ('"language";"score"\nen;5\n', "save it with commas between columns"),
        ("language\tscore\nen\t5\n", "save it with commas between columns"),
        ("Language,score\nen,5\n", "rename Language to language"),
        ("LANGUAGE,F1\nen,5\n", "rename LANGUAGE to language and add the column score"),
        ("language,score\nen,50\nde,6_0\n", "line 3: score '6_0' of deu_Latn; expected a number"),
        ('language,score\nen,50\nde,"75,5"\n', r"score '75,5' of deu_Latn.*write the decimal with a point: 75\.5$"),
        ("language,score\nen,50\nde,1e999\n", "score '1e999' of deu_Latn"),
        ("language,score,score\nen,5,6\n", "remove the repeated column"),
        ("language,score\nen,45,3\n", "line 2 with 3 cells; expected 2.*not a comma"),
        ("language,score\nen,5\nswahil,6\n", r"line 3 with the unknown language 'swahil'.*did you mean swh_Latn\?"),
        ("language,score\nen,5\nzzzzzzzz,6\n", "unknown language 'zzzzzzzz'.*probe data list"),
        ("language,score\nslots20,5\n", "line 2 with the language 'slots20'; expected one language"),
        ('language,score\n"en,de",5\n', "with the language 'en,de'; expected one language"),
        ("language,score\n,5\n", "with the language ''"),
        ("language,score\nen,50\nde,4\nen,51\n", r"eng_Latn in lines 2 and 4 \(as en\)"),
        ("language,score\nzh,50\nde,4\nzho_Hans,51\n", r"zho_Hans in lines 2 and 4 \(as zh and zho_Hans\)"),
        ("language,score\nen,50\nde,\n", "line 3: deu_Latn without a score"),
        ("language,score\nen,50\nde,nan\n", "line 3: deu_Latn without a score"),
        ("language,score\nen,50\nde,inf\n", "line 3: score 'inf' of deu_Latn"),
        ("language,score\nen,50\nde,61.7%\n", "line 3: score '61.7%' of deu_Latn.*without a per cent sign"),
        ("language,score\nen,50\nde,-1\n", r"score -1 of deu_Latn in line 3; expected a percent in 0\.\.100"),
        ("language,score\nen,50\nde,100.5\n", r"score 100\.5 of deu_Latn in line 3"),
        ("language,score,scale\nen,0.5,share\nde,1.5,share\n", r"score 1\.5 of deu_Latn.*a share in 0\.\.1"),
        ("language,score,scale\nen,5,points\n", "with the scale 'points'; expected percent or share"),
        ("language,score,scale\nen,5,percent\nde,0.5,share\n", r"2 values of scale \(percent, share\)"),
        ("language,score,metric\nen,5,BLEU\nen,80,COMET\n", r"2 values of metric \(BLEU, COMET\).*keep the rows of one metric"),
        ("language,score,task\nen,5,slots\nde,6,\n", r"2 values of task \(slots, empty\)"),
        ("language,score,model\nen,5,a\nde,6,b\n", "2 values of model"),
        ("language,score,source\nen,5,a\nde,6,b\n", "2 values of source"),
        ('language,score\nen,"5\n', "cannot be read"),
    ],
)  # fmt: skip
def test_a_file_that_would_mislead_is_refused_in_one_line(write: Write, text: str, message: str) -> None:
    with pytest.raises(AnalysisError, match=message) as caught:
        read_scores(write(text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"missing\.csv cannot be read.*paper:llama3-sft"):
        read_scores(tmp_path / "missing.csv")
    (tmp_path / "bytes.csv").write_bytes(b"language,score\nen,\xff\n")
    with pytest.raises(AnalysisError, match=r"cannot be read.*save it as CSV UTF-8"):
        read_scores(tmp_path / "bytes.csv")


def test_every_alias_is_taken(write: Write) -> None:
    for locale in (True, False):
        aliases = {alias: code for alias, code in language_aliases().items() if ("-" in alias) == locale}
        rows = "".join(f"{alias},{number % 90 + 5}\n" for number, alias in enumerate(aliases))
        assert list(read_scores(write(f"language,score\n{rows}")).values) == list(aliases.values())


# Digest


def test_the_digest_is_of_the_values_not_of_their_order_or_the_files_name(tmp_path: Path) -> None:
    digests = []
    for name, text in (("a", "en,5\nde,6\n"), ("b", "de,6.0\neng_Latn,5\n"), ("c", "en,5\nde,6.1\n")):
        (tmp_path / f"{name}.csv").write_text(f"language,score\n{text}", encoding="utf-8")
        digests.append(read_scores(tmp_path / f"{name}.csv").digest)
    assert digests[0] == digests[1] != digests[2]
