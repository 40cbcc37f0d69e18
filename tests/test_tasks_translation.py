"""Translation: whose rows, which prompts, and scores that are sacreBLEU's own."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from align.tasks import bleu
from align.tasks.bleu import bleu_and_chrf
from align.tasks.task import Scored, TaskRow
from align.tasks.translation import Segment, Translation, directions, groups, language_name, paper_directions
from align.tasks.translation_files import one_line, split_pair
from data_manifests.published import published_tables
from probe.errors import AlignError, CorpusError, ProbeError

GERMAN = ("Eins.", "Zwei Drei.", "Vier fünf sechs.")
WORDS = ("the", "a", "cat", "dog", "sat", "on", "mat", ".", ",", "runs", "far")
ENGLISH = ("One.", "Two three.", "Four five six.")


def write(path: Path, lines: tuple[str, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def pairs(key: str = "translation", first: int = 0, last: int | None = None) -> list[dict[str, Any]]:
    both = list(zip(GERMAN, ENGLISH, strict=True))[first:last]
    return [{key: {"de": german, "en": english}} for german, english in both]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_wmt(folder: Path, name: str = "generaltest2023", reference: str = "refA") -> None:
    write(folder / "sources" / f"{name}.de-en.src.de", GERMAN)
    write(folder / "references" / f"{name}.de-en.ref.{reference}.en", ENGLISH)


def texts(rows: tuple[TaskRow, ...]) -> list[tuple[str, str]]:
    return [(row.prompt[-1].content, row.target) for row in rows]


def made_rows(direction: str, sources: list[str], references: list[str], own: str = "made") -> list[TaskRow]:
    return [
        TaskRow(f"{own}:{number}", direction, (), reference, Segment(source, reference, "made", False))
        for number, (source, reference) in enumerate(zip(sources, references, strict=True), 1)
    ]


def value(scored: Scored, language: str, metric: str = "bleu") -> float:
    (found,) = (each.value for each in scored.scores if (each.language, each.metric) == (language, metric))
    return found


def garbled(text: str, generator: random.Random) -> str:
    """A bad translation: some characters are others of the same text."""
    letters = list(text)
    for _ in range(len(letters) // 8 + 1):
        letters[generator.randrange(len(letters))] = generator.choice(letters)
    return "".join(letters)


# Real data


def test_the_sixteen_directions_of_the_paper(shared_data: Path, tmp_path: Path) -> None:
    rows = Translation().rows(shared_data, "test", "mt9")
    counts = Counter(row.language for row in rows)
    assert tuple(tuple(name.split("-")) for name in counts) == paper_directions()
    assert counts["eng_Latn-jpn_Jpan"] == counts["ces_Latn-eng_Latn"] == 2074
    assert (counts["deu_Latn-eng_Latn"], counts["eng_Latn-deu_Latn"], counts["heb_Hebr-eng_Latn"]) == (549, 557, 1910)
    assert counts["isl_Latn-eng_Latn"] == counts["eng_Latn-isl_Latn"] == 1000  # WMT21, from ALMA
    assert rows == Translation().rows(shared_data, "test")
    assert len({row.language for row in Translation().rows(shared_data / "wmt23", "test", limit=1)}) == 13
    for path in (*shared_data.glob("wmt23/txt/*/*"), *shared_data.glob("alma/isen/test*")):
        place = tmp_path / path.relative_to(shared_data)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
    assert rows == Translation().rows(tmp_path, "test")
    wmt = shared_data / "wmt23" / "txt"
    czech, english = (
        path.read_text(encoding="utf-8").splitlines()
        for path in (wmt / "references/generaltest2023.en-cs.ref.refA.cs", wmt / "sources/generaltest2023.en-cs.src.en")
    )
    turned = [row for row in rows if row.language == "ces_Latn-eng_Latn"]
    assert texts(tuple(turned)) == list(zip(czech, english, strict=True))
    few = [row for row in rows if row.id.endswith(":1")]
    notes = Translation().score(few, ["x"] * len(few), draws=0).notes
    assert len(notes) == 2
    assert notes[0].startswith("ces_Latn-eng_Latn: generaltest2023.en-cs.refA turned round")
    assert "Hebrew refA" in notes[1]


def test_rows_of_one_english_text_share_their_ids(shared_data: Path) -> None:
    rows = Translation().rows(shared_data, "test", limit=3)
    ids: dict[tuple[str, ...], set[str]] = {}
    for name in dict.fromkeys(row.language for row in rows):
        own = [row for row in rows if row.language == name]
        ids.setdefault(tuple(row.id for row in own), set()).add(name)
    shared = max(ids.values(), key=len)
    assert shared == {"ces_Latn-eng_Latn"} | {
        f"eng_Latn-{code}" for code in ("ces_Latn", "rus_Cyrl", "zho_Hans", "heb_Hebr", "jpn_Jpan", "ukr_Cyrl")
    }
    assert len(ids) == 1 + 16 - len(shared)


def test_references_a_and_b(shared_data: Path) -> None:
    first, second = (
        Translation(reference=name).rows(shared_data / "wmt23", "test", "he-en") for name in ("refA", "refB")
    )
    assert [row.prompt for row in first] == [row.prompt for row in second]
    assert sum(a.target != b.target for a, b in zip(first, second, strict=True)) > 1000
    with pytest.raises(AlignError, match=r"no generaltest2023\.en-cs\.ref\.refB\.cs .* there is .*ref\.refA\.cs"):
        Translation(reference="refB").rows(shared_data / "wmt23", "test", "en-cs")


def test_alma_alone_has_the_older_test_sets(shared_data: Path) -> None:
    rows = Translation().rows(shared_data / "alma", "test", "cs-en,en-cs")
    assert Counter(row.language for row in rows) == {"ces_Latn-eng_Latn": 1448, "eng_Latn-ces_Latn": 2037}
    assert not any(row.gold.turned for row in rows)
    train = Translation().rows(shared_data / "alma", "train")
    assert Counter(row.language for row in train)["eng_Latn-isl_Latn"] == 997
    assert len({row.language for row in train}) == 10
    with pytest.raises(
        AlignError, match="no test set of heb_Hebr-eng_Latn, jpn_Jpan-eng_Latn, ukr_Cyrl-eng_Latn, eng_L"
    ):
        Translation().rows(shared_data / "alma", "test", "mt9")


# Prompts and languages


def test_the_papers_prompt(tmp_path: Path) -> None:
    write_wmt(tmp_path)
    there, back = (Translation().rows(tmp_path, "test", langs)[0] for langs in ("de-en", "en-de"))
    assert [(turn.role, turn.content) for turn in there.prompt] == [
        ("system", "Translate the following sentences from German to English."),
        ("user", "Eins."),
    ]
    assert there.target == "One."
    assert (back.prompt[0].content, back.target) == (
        "Translate the following sentences from English to German.",
        "Eins.",
    )
    assert [language_name(code) for code in ("zho_Hans", "heb_Hebr", "isl_Latn", "zho_Hant")] == [
        "mandarin Chinese", "Hebrew", "Icelandic", "Chinese (Traditional)",
    ]  # fmt: skip


@pytest.mark.parametrize("langs", ["de-en", "deu_Latn-eng_Latn", "de-DE-en-US", "deu-eng", " de-en ,", "de_DE-en"])
def test_a_direction_however_it_is_written(langs: str) -> None:
    assert directions(langs) == (("deu_Latn", "eng_Latn"),)


def test_languages_and_sets_mean_directions_with_english() -> None:
    both = (("deu_Latn", "eng_Latn"), ("eng_Latn", "deu_Latn"))
    for langs in ("de", "de-DE", "deu_Latn", "de,en", "de-en,de"):
        assert directions(langs) == both
    assert directions("mt9") == paper_directions()
    assert len(paper_directions()) == 16
    assert len(directions("weakest5")) == 10
    assert directions("en-zh,de-fr") == (("eng_Latn", "zho_Hans"), ("deu_Latn", "fra_Latn"))
    assert split_pair("is-IS") is None
    assert split_pair("cy-GB-en") == ("cy-GB", "en")
    with pytest.raises(AlignError, match="expected at least one direction"):
        directions("en")
    for bad in ("xx", "de-xx", "german"):
        with pytest.raises(CorpusError, match="unknown language"):
            directions(bad)


# Layouts


def test_every_layout_gives_the_same_rows(tmp_path: Path) -> None:
    def layout(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    write_wmt(layout("wmt"))
    write(layout("side by side") / "x.de-en.src.de.gz", GERMAN)
    write(tmp_path / "side by side" / "x.de-en.ref.refA.en.gz", ENGLISH)
    for ending in ("", ".gz"):
        write(layout(f"texts{ending}") / f"test.de-en.de{ending}", GERMAN)
        write(tmp_path / f"texts{ending}" / f"test.de-en.en{ending}", ENGLISH)
    write(layout("alma") / "deen" / "test.de-en.json.gz", (json.dumps(pairs(), ensure_ascii=False),))
    write(layout("jsonl") / "de-en" / "test.jsonl", tuple(map(json.dumps, pairs())))
    write_parquet(layout("hub") / "de-en" / "test-00000-of-00002-9c.parquet", pairs(last=2))
    write_parquet(tmp_path / "hub" / "de-en" / "test-00001-of-00002-1a.parquet", pairs(first=2))
    write_parquet(layout("hub's wmt") / "de-en" / "test-00000-of-00001.parquet", pairs("de-en"))
    write_parquet(layout("converted") / "de-en" / "test" / "0000.parquet", pairs())
    for folder in sorted(tmp_path.iterdir()):
        rows = Translation().rows(folder, "test", "de-en")
        assert texts(rows) == list(zip(GERMAN, ENGLISH, strict=True)), folder
        assert texts(Translation().rows(folder, "test", "en-de")) == list(zip(ENGLISH, GERMAN, strict=True)), folder
        assert len({row.id for row in rows}) == 3
        assert [row.id for row in Translation().rows(folder, "test", "en-de")] == [row.id for row in rows]
        assert texts(Translation().rows(folder, "test")) == texts(rows), folder
        assert Translation().rows(folder, "test", limit=2) == rows[:2]
        with pytest.raises(AlignError, match="no train translations"):
            Translation().rows(folder, "train")


def test_a_single_file_is_taken_for_what_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", tuple(map(json.dumps, pairs())))
    there, back = list(zip(GERMAN, ENGLISH, strict=True)), list(zip(ENGLISH, GERMAN, strict=True))
    for split in ("train", "dev"):
        assert texts(Translation().rows(path, split)) == there + back
    assert texts(Translation().rows(path, "test")) == there
    valid = write(tmp_path / "valid.de-en.de", GERMAN)
    write(tmp_path / "valid.de-en.en", ENGLISH)
    assert len(Translation().rows(valid, "test")) == 3
    write(path, ('{"text": "a"}',))
    with pytest.raises(AlignError, match=r"mine\.jsonl is no file of translations"):
        Translation().rows(path, "test")


def test_dev_has_the_names_that_people_give_it(tmp_path: Path) -> None:
    for number, word in enumerate(("dev", "valid", "validation")):
        write_parquet(tmp_path / str(number) / "de-en" / f"{word}-00000-of-00001.parquet", pairs())
        assert len(Translation().rows(tmp_path / str(number), "dev", "de-en")) == 3


def test_which_set_counts(tmp_path: Path) -> None:
    """WMT's files come before others, turned if need be; two sets of one kind are one too many."""
    other = [{"translation": {"en": "other", "de": "anderes"}}]
    write(tmp_path / "alma" / "test.en-de.json", (json.dumps(other),))
    assert texts(Translation().rows(tmp_path, "test", "de-en,en-de")) == [("anderes", "other"), ("other", "anderes")]
    write_wmt(tmp_path / "wmt")
    rows = Translation().rows(tmp_path, "test", "en-de")
    assert texts(rows) == list(zip(ENGLISH, GERMAN, strict=True))
    assert all(row.gold.turned for row in rows)
    write_wmt(tmp_path / "older", "generaltest2022")
    with pytest.raises(
        AlignError, match=r"deu_Latn-eng_Latn is in generaltest2022\S+, generaltest2023\S+ expected one"
    ):
        Translation().rows(tmp_path, "test", "de-en")


def test_training_text_is_no_test_set_turned_round(tmp_path: Path) -> None:
    write(tmp_path / "train.de-en.json", (json.dumps(pairs()),))
    assert not any(row.gold.turned for row in Translation().rows(tmp_path, "train", "de-en,en-de"))


def test_bad_data_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(message: str, split: str = "test", place: Path = tmp_path, langs: str | None = None) -> None:
        with pytest.raises(ProbeError, match=message) as caught:
            Translation().rows(place, split, langs)
        assert "\n" not in str(caught.value)

    refused("no .*absent; expected a folder or file", place=tmp_path / "absent")
    refused("holds no test translations; expected files such as")
    refused("split 'validation'; expected one of train, dev, test", "validation")
    write_wmt(tmp_path)
    refused("no test set of fra_Latn-eng_Latn; expected some of deu_Latn-eng_Latn", langs="de-en,fr-en")
    refused("unknown language 'xx'", langs="xx")
    references = tmp_path / "references" / "generaltest2023.de-en.ref.refA.en"
    write(references, ENGLISH[:2])
    refused(r"src\.de has 3 rows, generaltest2023\.de-en\.ref\.refA\.en 2")
    write(references, (*ENGLISH[:2], " "))
    refused("ref.refA.en line 3 is empty")
    references.write_bytes(b"One.\nTw\xffo.\nThree.\n")
    refused("line 2 is not valid UTF-8")
    write(tmp_path / "train.de-en.de", GERMAN)
    refused(r"train\.de-en\.de without train\.de-en\.en", "train")
    table = tmp_path / "valid.de-en.json"
    for rows, message in (
        ("{", "cannot be read"),
        ("[]", "is empty"),
        ("[3]", "row 1 is no object"),
        ('[{"translation": {"de": "a"}}]', r"row 1 has no de and en"),
        ('[{"translation": {"de": "a", "en": null}}]', r"row 1 has no de and en"),
        ('[{"de": "a", "en": "b"}]', r"row 1 has no de and en"),
        ('[{"translation": {"de": "a", "en": "\\n "}}]', "row 1 is empty"),
        ('[{"translation": {"de": "a", "en": "\\ud800"}}]', "row 1 holds half of a surrogate pair"),
    ):
        write(table, (rows,))
        refused(rf"valid\.de-en\.json.*{message}", "dev")
    table.unlink()
    broken = tmp_path / "de-en" / "valid.parquet"
    broken.parent.mkdir()
    broken.write_bytes(b"PAR1 no more")
    refused(r"valid\.parquet cannot be read", "dev")
    with pytest.raises(AlignError, match="--limit 0"):
        Translation().rows(tmp_path, "test", limit=0)


# Scores


def command_line(
    folder: Path, tokeniser: str, hypotheses: list[str], references: list[str]
) -> dict[str, tuple[float, str]]:
    """Score and signature by sacreBLEU's own command line."""
    write(folder / "hypotheses.txt", tuple(hypotheses))
    write(folder / "references.txt", tuple(references))
    command = [sys.executable, "-m", "sacrebleu", "references.txt", "-i", "hypotheses.txt", "-tok", tokeniser]
    command += ["-m", "bleu", "chrf", "-w", "12"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return {row["name"]: (row["score"], row["signature"]) for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("direction", "tokeniser", "signature"),
    [
        ("en-de", "13a", "tok:13a|"),
        ("en-he", "13a", "tok:13a|"),
        ("en-ja", "ja-mecab", "tok:ja-mecab-0.996-IPA|"),
        ("en-zh", "zh", "tok:zh|"),
        ("de-en", "13a", "tok:13a|"),
    ],
)
def test_the_numbers_of_sacrebleus_command_line(
    direction: str, tokeniser: str, signature: str, shared_data: Path, tmp_path: Path
) -> None:
    generator = random.Random(1)
    rows = Translation().rows(shared_data / "wmt23", "test", direction, limit=200)
    answers = [garbled(row.target, generator) for row in rows]
    answers[3], answers[4], answers[5] = "", " Rand, mit Breite ", "a\u2028b\u00a0c \t"
    scored = Translation().score(rows, answers, draws=0)
    theirs = command_line(tmp_path, tokeniser, answers, [row.target for row in rows])
    name = rows[0].language
    assert value(scored, name) == pytest.approx(theirs["BLEU"][0], abs=1e-9)
    assert value(scored, name, "chrf") == pytest.approx(theirs["chrF2"][0], abs=1e-9)
    assert 5 < value(scored, name) < 95
    signatures = scored.details["signatures"][name]
    assert (signatures["bleu"], signatures["chrf"]) == (theirs["BLEU"][1], theirs["chrF2"][1])
    # The paper prints nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.4.2
    assert signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:")
    assert signature in signatures["bleu"]
    assert "|smooth:exp|" in signatures["bleu"]
    assert scored.scores[0].metric == Translation.main == "bleu"


def test_korean_is_cut_by_its_own_dictionary(tmp_path: Path) -> None:
    references = ["나는 학교에 갑니다.", "오늘은 날씨가 좋습니다.", "그는 책을 읽고 있습니다."]
    answers = ["나는 학교로 갑니다.", "오늘 날씨가 좋습니다.", "그는 책을 읽습니다."]
    rows = made_rows("eng_Latn-kor_Hang", ["a", "b", "c"], references)
    scored = Translation().score(rows, answers, draws=0)
    theirs = command_line(tmp_path, "ko-mecab", answers, references)
    assert value(scored, "eng_Latn-kor_Hang") == pytest.approx(theirs["BLEU"][0], abs=1e-9)
    assert "|tok:ko-mecab-" in scored.details["signatures"]["eng_Latn-kor_Hang"]["bleu"]


def test_a_missing_dictionary_is_told_before_anything_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(tokenize: str, force: bool) -> BLEU:
        if tokenize == "ja-mecab":
            raise RuntimeError("Please install the following extra packages\n\tpip install 'sacrebleu[ja]'")
        return BLEU(tokenize=tokenize, force=force)

    write(tmp_path / "train.en-ja.en", ("One.",))
    write(tmp_path / "train.en-ja.ja", ("一。",))
    write(tmp_path / "test.en-ja.en", ("One.",))
    write(tmp_path / "test.en-ja.ja", ("一。",))
    monkeypatch.setattr(bleu, "BLEU", absent)
    with pytest.raises(
        AlignError, match=r'ja-mecab for jpn_Jpan is not .*; run pip install "sacrebleu\[ja\]"'
    ) as caught:
        Translation().rows(tmp_path, "test", "en-ja")
    assert "\n" not in str(caught.value)
    assert Translation().rows(tmp_path, "test", "ja-en")
    assert Translation().rows(tmp_path, "train", "en-ja")


def test_each_draw_is_the_score_of_the_lines_drawn() -> None:
    """Against sacreBLEU itself on the lines, each as often as it was drawn."""
    generator = random.Random(2)
    references = [" ".join(generator.choices(WORDS, k=12)) for _ in range(15)]
    answers = [garbled(each, generator) for each in references]
    weights = np.random.default_rng(0).multinomial(15, np.full(15, 1 / 15), size=6)
    measured = bleu_and_chrf("deu_Latn", answers, references, weights)
    for metric, name in ((BLEU(), "bleu"), (CHRF(), "chrf")):
        for drawn, got in zip(weights, measured[name].draws, strict=True):
            lines = [row for row, times in enumerate(drawn) for _ in range(times)]
            once = metric.corpus_score([answers[row] for row in lines], [[references[row] for row in lines]])
            assert got == pytest.approx(once.score, abs=1e-9)
        whole = metric.corpus_score(answers, [references]).score
        assert measured[name].value == pytest.approx(whole, abs=1e-12)
        assert len(set(measured[name].draws)) > 3


def test_intervals_hold_the_score_and_need_no_other_direction() -> None:
    generator = random.Random(3)
    references = [" ".join(generator.choices(WORDS, k=9)) for _ in range(60)]
    answers = [garbled(each, generator) for each in references]
    one, other = (made_rows(f"eng_Latn-{code}", references, references, own=code) for code in ("deu_Latn", "ces_Latn"))
    alone = Translation().score(one, answers, draws=300)
    with_other = Translation().score(one + other, answers * 2, draws=300)
    assert alone.scores == with_other.scores[:2]
    for score in alone.scores:
        assert score.low is not None
        assert score.high is not None
        assert score.low < score.value < score.high
    assert alone.scores != Translation().score(one, answers, draws=300, seed=1).scores
    without = Translation().score(one, answers, draws=0).scores
    assert [each.value for each in without] == [each.value for each in alone.scores]
    assert {(each.low, each.high) for each in without} == {(None, None)}


def test_directions_of_the_same_segments_share_their_draws() -> None:
    """Of two copies of one direction the mean is as uncertain as each; of two other sets it is less so."""
    generator = random.Random(4)
    references = [" ".join(generator.choices(WORDS, k=9)) for _ in range(60)]
    answers = [garbled(each, generator) for each in references]

    def width(first: str, second: str) -> tuple[float, float]:
        rows = made_rows("eng_Latn-deu_Latn", references, references, first)
        rows += made_rows("eng_Latn-ces_Latn", references, references, second)
        scores = Translation().score(rows, answers * 2, draws=400).scores
        own, mean = (next(each for each in scores if each.language == name) for name in (rows[0].language, "(mean)"))
        assert own.low is not None
        assert own.high is not None
        assert mean.low is not None
        assert mean.high is not None
        return own.high - own.low, mean.high - mean.low

    single, shared = width("set", "set")
    assert shared == pytest.approx(single)
    single, apart = width("one", "two")
    assert apart < 0.85 * single


def test_means_are_those_of_the_papers_table_2() -> None:
    """Its groups: the averages of Table 12 over them are what Table 2 prints."""
    table = published_tables()["12"]
    printed = {"sft": (30.0, 31.8, 15.5), "align": (29.9, 32.3, 17.0)}
    names = groups()
    assert [len(each) for each in names.values()] == [10, 6, 3, 3]
    for system, averages in printed.items():
        values = table.row("llama3", system, "BLEU").values
        for group, average in zip(("supervised", "transfer X->en", "transfer en->X"), averages, strict=True):
            assert np.mean([values[name] for name in names[group]]) == pytest.approx(average, abs=0.051)


def test_means_are_given_where_all_their_directions_are() -> None:
    some = [*groups()["transfer X->en"], "eng_Latn-heb_Hebr"]
    rows = [row for name in some for row in made_rows(name, ["a"] * 2, ["one two three four five", "six"], name)]
    answers = ["one two three four five", "six", "one two three four", "no"] * 2
    scored = Translation().score(rows, answers, draws=20)
    assert [each.language for each in scored.scores if each.metric == "bleu"] == [*some, "(mean)", "(transfer X->en)"]
    mean = np.mean([value(scored, name) for name in some[:3]])
    assert value(scored, "(transfer X->en)") == pytest.approx(mean)
    assert value(scored, "(transfer X->en)") != pytest.approx(value(scored, "(mean)"))


def test_a_generation_of_several_lines_is_one_row() -> None:
    references = ["one two three four", "five six seven eight", "nine ten eleven twelve"]
    rows = made_rows("deu_Latn-eng_Latn", ["a", "b", "c"], references)
    answers = ["\none two\n three four", "five six\r\n\r\nseven eight\n", "nine ten eleven twelve"]
    assert [Translation().parse(each) for each in answers] == references
    assert value(Translation().score(rows, answers, draws=0), "deu_Latn-eng_Latn") == pytest.approx(100)
    assert one_line("a  b\u2028c\u3000d\n \n e ") == "a  b\u2028c\u3000d e"


def test_empty_and_endless_generations() -> None:
    references = ["one two three four five", "six seven eight nine ten"]
    rows = made_rows("deu_Latn-eng_Latn", ["eins", "zwei"], references)
    good = Translation().score(rows, references, draws=50)
    half = Translation().score(rows, [references[0], " \n "], draws=50)
    endless = Translation().score(rows, [references[0], "and " * 2000], draws=50)
    nothing = Translation().score(rows, ["", ""], draws=50)
    name = "deu_Latn-eng_Latn"
    assert value(good, name) == pytest.approx(100)
    # No match, and the brevity penalty of half the length
    assert value(half, name) == pytest.approx(100 * np.exp(-1))
    assert value(endless, name) < 1
    assert [(each.value, each.low, each.high) for each in nothing.scores] == [(0, 0, 0)] * 2
    assert [each.counts[name] for each in (good, half, endless, nothing)] == [
        {"rows": 2, "empty": 0, "endless": 0},
        {"rows": 2, "empty": 1, "endless": 0},
        {"rows": 2, "empty": 0, "endless": 1},
        {"rows": 2, "empty": 2, "endless": 0},
    ]


def test_endless_blanks_are_read_in_time() -> None:
    begin = time.perf_counter()
    assert Translation().parse(f"a{' ' * 100_000}b\n{' ' * 100_000}") == f"a{' ' * 100_000}b"
    assert time.perf_counter() - begin < 1


def test_as_many_answers_as_rows() -> None:
    rows = made_rows("deu_Latn-eng_Latn", ["a", "b"], ["one", "two"])
    with pytest.raises(AlignError, match="1 predictions for 2 rows"):
        Translation().score(rows, ["one"])
    assert Translation().score([], []).scores == ()
