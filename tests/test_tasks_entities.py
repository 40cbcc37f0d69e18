"""Entities as JSON: offsets on all real files, what is refused, tolerant parsing, scores against slow literal ones."""

from __future__ import annotations

import gzip
import json
import math
import time
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from align.examples import Message
from align.tasks.entities import (
    EXAMPLE,
    TEMPLATE,
    TYPES,
    Entities,
    Entity,
    Sentence,
    as_json,
    read_iob2,
)
from align.tasks.json_answers import FLAWS, LONGEST, read_json
from align.tasks.task import Scored, TaskRow
from probe.errors import AlignError, CorpusError, ProbeError

EIGHT = ("eng_Latn", "por_Latn", "zho_Hans", "dan_Latn", "hrv_Latn", "slk_Latn", "srp_Cyrl", "swe_Latn")
TRANSFER = EIGHT[3:]
FALLS = Sentence("falls", "the Iguazu Falls", (Entity("LOC", "Iguazu Falls", 4, 16),))
MENDED = {"da_ddt-ud-train": 6, "da_ddt-ud-test": 1, "hr_set-ud-dev": 1, "sr_set-ud-train": 2, "sr_set-ud-dev": 2}


def iob2(name: str, text: str, *tagged: str) -> str:
    """A sentence: each of `tagged` is a token, a blank and its tag."""
    lines = [f"# sent_id = {name}", f"# text = {text}"]
    for place, token in enumerate(tagged, 1):
        form, tag = token.rsplit(" ", 1)
        lines.append(f"{place}\t{form}\t{tag}\t-\t-")
    return "\n".join(lines) + "\n\n"


GOOD = iob2("s1", "Eva Braun saw Rome.", "Eva B-PER", "Braun I-PER", "saw O", "Rome B-LOC", ". O")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def row(gold: Sentence, language: str = "eng_Latn") -> TaskRow:
    return TaskRow(gold.id, language, Entities().prompt(gold.text), as_json(gold), gold)


def answer(*entities: Entity | tuple[Any, ...]) -> str:
    return as_json(Sentence("", "", tuple(Entity(*entity) for entity in entities)))


def value(scored: Scored, metric: str, language: str = "eng_Latn") -> float:
    return next(score.value for score in scored.scores if (score.language, score.metric) == (language, metric))


# Reading


def test_real_files_hold_their_entities_at_their_offsets(shared_data: Path) -> None:
    files = sorted((shared_data / "uner").glob("UNER_*/**/*.iob2.gz"))
    assert len(files) == 24
    mended = {}
    for path in files:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
        tags = [line.split("\t")[2] for line in lines if line[:1].isdigit()]
        sentences = read_iob2(path)
        entities = [entity for sentence in sentences for entity in sentence.entities]
        begun = Counter(tag[2:] for tag in tags if tag.startswith("B-"))
        count = sum(sentence.mended for sentence in sentences)
        assert len(entities) == sum(begun[name] for name in TYPES) + count, path
        assert sum(sentence.others for sentence in sentences) == begun["OTH"], path
        for sentence in sentences:
            assert all(entity.type in TYPES for entity in sentence.entities)
            assert all(sentence.text[entity.start : entity.end] == entity.text for entity in sentence.entities)
            assert all(
                left.end <= right.start for left, right in zip(sentence.entities, sentence.entities[1:], strict=False)
            )
        mended |= {path.name.split(".")[0]: count} if count else {}
    assert mended == MENDED


def test_offsets_that_others_published(shared_data: Path) -> None:
    """The paper's example, and the example of the Danish rows of the Aya collection: the end is behind the last character."""
    prerelease = shared_data / "uner" / "UNER_English-EWT" / "prerelease" / "en_ewt-ud-train.0c7ce0d.iob2.gz"
    english = {sentence.text: sentence.entities for sentence in read_iob2(prerelease)}
    assert english[EXAMPLE.text] == EXAMPLE.entities
    falls = next(found for text, found in english.items() if text.startswith("Widely considered to be one of the most"))
    assert falls[0] == Entity("LOC", "Iguazu Falls", 81, 93)
    danish = read_iob2(shared_data / "uner" / "UNER_Danish-DDT" / "da_ddt-ud-train.iob2.gz")[0]
    assert danish.entities == (
        Entity("ORG", "SID", 14, 17),
        Entity("ORG", "SID-huset", 44, 53),
        Entity("PER", "Kjeld Christensen", 82, 99),
    )


def test_targets_of_real_rows_are_read_back_exactly(shared_data: Path) -> None:
    rows = Entities().rows(shared_data / "uner", "dev")
    for each in rows:
        said = Entities().parse(each.target)
        assert said["flaws"] == []
        assert tuple(Entity(**entity) for entity in said["entities"]) == each.gold.entities
        assert json.loads(each.target)["Results"] == read_json(each.target, "Results").value["Results"]


def test_tags_become_entities(tmp_path: Path) -> None:
    text = "A B  C\u00a0Dée, F g h I j"
    block = iob2(
        "x", text, "A B-PER", "B B-PER", "C I-PER", "Dé I-PER", "e I-PER", ", O", "F B-OTH", "g I-OTH", "h B-O", "I B-LOC", "j I-LOC"
    )  # fmt: skip
    (sentence,) = read_iob2(write(tmp_path / "any.iob2", "# newdoc id = 1\n" + block))
    assert sentence == Sentence(
        "x", text, (Entity("PER", "A", 0, 1), Entity("PER", "B  C\u00a0Dée", 2, 10), Entity("LOC", "I j", 18, 21)), 0, 1
    )


LOOSE = iob2("test-285", "Per Jonathan sov", "Per O", "Jonathan I-PER", "sov O")


def test_an_entity_that_begins_with_i_only_where_the_release_has_it(tmp_path: Path) -> None:
    (sentence,) = read_iob2(write(tmp_path / "da_ddt-ud-test.iob2", LOOSE))
    assert sentence.entities == (Entity("PER", "Jonathan", 4, 12),)
    assert sentence.mended == 1
    for name in ("da_ddt-ud-dev.iob2", "mine.iob2"):
        with pytest.raises(AlignError, match=rf"{name} line 4 \(test-285\) has I-PER after O; expected B-PER"):
            read_iob2(write(tmp_path / name, LOOSE))
    with pytest.raises(AlignError, match=r"line 4 \(y\) has I-LOC after an entity of PER"):
        read_iob2(write(tmp_path / "da_ddt-ud-test.iob2", iob2("y", "A B", "A B-PER", "B I-LOC")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (GOOD.replace("# sent_id = s1\n", ""), "line 1 begins a sentence without # sent_id"),
        (GOOD.replace("# text = Eva Braun saw Rome.\n", ""), "line 1 begins a sentence without # text"),
        (GOOD + GOOD, "sent_id s1 twice"),
        (GOOD.replace("\tB-LOC\t-\t-", ""), r"line 6 \(s1\) reads '4\\tRome'; expected token 4"),
        (GOOD.replace("3\tsaw", "4\tsaw"), r"line 5 \(s1\) reads .*expected token 3"),
        (GOOD[:-1] + GOOD, r"line 10 \(s1\) reads .*expected token 6"),
        (GOOD.replace("B-LOC", "B-MISC"), r"line 6 \(s1\) has the tag 'B-MISC'; expected O, or B- or I-"),
        (
            GOOD.replace("\tsaw\t", "\tsees\t"),
            r"line 5 \(s1\) has the token 'sees' where # text goes on with 'saw Rome.'",
        ),
        (GOOD.replace("Rome.", "Rome. Yes"), r"line 1 \(s1\) has a # text that ends in 'Yes', which no token holds"),
        ("# sent_id = a\n# text = b\n\n", r"line 1 \(a\) has a # text that ends in 'b'"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AlignError, match=message):
        read_iob2(write(tmp_path / "bad.iob2", text))


def test_bad_bytes_are_refused(tmp_path: Path) -> None:
    latin = tmp_path / "a.iob2"
    latin.write_bytes(GOOD.replace("Eva", "Éva").encode("latin-1"))
    cut = tmp_path / "a.iob2.gz"
    cut.write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(AlignError, match="is not valid UTF-8"):
        read_iob2(latin)
    with pytest.raises(AlignError, match="cannot be read"):
        read_iob2(cut)
    with pytest.raises(AlignError, match="cannot be read"):
        read_iob2(tmp_path / "none.iob2")


@pytest.mark.parametrize(
    ("langs", "codes"),
    [
        (None, EIGHT),
        ("sv,da-DK,hrv_Latn", ("swe_Latn", "dan_Latn", "hrv_Latn")),
        ("zh-CN,pt,zho_Hans", ("zho_Hans", "por_Latn")),
    ],
)
def test_languages_in_the_order_asked_for(shared_data: Path, langs: str | None, codes: tuple[str, ...]) -> None:
    rows = Entities().rows(shared_data, "test", langs, limit=3)
    assert [each.language for each in rows] == [code for code in codes for _ in range(3)]
    assert rows[0].id == rows[0].gold.id
    assert rows[0].prompt == Entities().prompt(rows[0].gold.text)


def test_the_prerelease_is_read_as_a_file_only(shared_data: Path) -> None:
    folder = shared_data / "uner"
    with pytest.raises(CorpusError, match="no file for eng_Latn in the train files of"):
        Entities().rows(folder, "train", limit=1)
    file = folder / "UNER_English-EWT" / "prerelease" / "en_ewt-ud-train.0c7ce0d.iob2.gz"
    rows = Entities().rows(file, "train")
    assert {each.language for each in rows} == {"eng_Latn"}
    assert Counter(entity.type for each in rows for entity in each.gold.entities) == {
        "LOC": 2698,
        "PER": 2873,
        "ORG": 1434,
    }
    assert any("pre-release" in note for note in Entities().score(rows[:50], [""] * 50, draws=0).notes)
    with pytest.raises(AlignError, match="asked for as test; expected train"):
        Entities().rows(file, "test")


def test_the_papers_treebank_is_taken_where_there_are_several(tmp_path: Path) -> None:
    write(tmp_path / "UNER_English-EWT" / "en_ewt-ud-test.iob2", GOOD)
    write(tmp_path / "UNER_English-EWT" / "en_ewt-ud-test.0c7ce0d.iob2", GOOD.replace("s1", "before"))
    write(tmp_path / "UNER_English-PUD" / "en_pud-ud-test.iob2.gz", GOOD.replace("s1", "p1"))
    write(tmp_path / "UNER_German-PUD" / "de_pud-ud-test.iob2", GOOD)
    write(tmp_path / "UNER_German-X" / "de_x-ud-test.iob2", GOOD)
    assert [each.id for each in Entities().rows(tmp_path, "test", "en")] == ["s1"]
    assert [each.id for each in Entities().rows(tmp_path / "UNER_English-PUD", "test", "en")] == ["p1"]
    with pytest.raises(AlignError, match=r"deu_Latn has de_pud-ud-test.iob2, de_x-ud-test.iob2; expected one file"):
        Entities().rows(tmp_path, "test", "de")


@pytest.mark.parametrize(
    ("split", "langs", "limit", "message"),
    [
        ("test", "fr", None, "no file for fra_Latn"),
        ("test", "nonsense", None, "unknown language 'nonsense'"),
        ("dev", "en", None, "holds no dev file of Universal NER"),
        ("validation", "en", None, "split 'validation'; expected train or dev or test"),
        ("test", "en", 0, "--limit 0"),
        ("test", "", None, "at least one language"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, split: str, langs: str, limit: int | None, message: str) -> None:
    write(tmp_path / "UNER_English-EWT" / "en_ewt-ud-test.iob2", GOOD)
    with pytest.raises(ProbeError, match=message):
        Entities().rows(tmp_path, split, langs, limit)
    with pytest.raises(AlignError, match="does not say what it holds"):
        Entities().rows(write(tmp_path / "mine.iob2", GOOD), "test")


# The prompt


def test_the_prompt_holds_the_example_and_the_sentence_as_it_is() -> None:
    (turn,) = Entities().prompt("a <$1$> \\1 b")
    assert turn == Message(
        "user",
        TEMPLATE.replace("<$1$>", EXAMPLE.text)
        .replace("<$2$>", '{"Results": [{"TypeName": "LOC", "Text": "Iguazu", "Start": 22, "End": 28}]}')
        .replace("<$3$>", "a <$1$> \\1 b"),
    )


def test_another_template() -> None:
    assert Entities(template="<$3$> / <$1$>").prompt("x")[0].content == f"x / {EXAMPLE.text}"
    with pytest.raises(AlignError, match=r"without <\$3\$>"):
        Entities(template="Find entities like <$1$>")
    notes = [Entities(template=template).score([row(FALLS)], [""], draws=0).notes for template in (TEMPLATE, "<$3$>")]
    assert "midprobe's words" in " ".join(notes[0])
    assert "midprobe's words" not in " ".join(notes[1])


# Tolerant parsing

TARGET = '{"Results": [{"TypeName": "LOC", "Text": "Iguazu Falls", "Start": 4, "End": 16}, {"TypeName": "PER", "Text": "O\'Brien", "Start": 20, "End": 27}]}'
BOTH = (Entity("LOC", "Iguazu Falls", 4, 16), Entity("PER", "O'Brien", 20, 27))


@pytest.mark.parametrize(
    ("text", "flaws", "entities"),
    [
        (TARGET, [], BOTH),
        (f"  {TARGET}\n", [], BOTH),
        (json.dumps(json.loads(TARGET), indent=4), [], BOTH),
        ('{"Results": []}', [], ()),
        (TARGET + " I hope this helps!", ["trailing text"], BOTH),
        (TARGET + "\n" + TARGET, ["trailing text"], BOTH),
        ("Here is the result [as asked]: " + TARGET, ["leading text"], BOTH),
        (f"```json\n{TARGET}\n```", ["code fence"], BOTH),
        (f"Sure!\n```\n{TARGET}\n```\nDone.", ["code fence", "leading text", "trailing text"], BOTH),
        (f"```json\n{TARGET}", ["code fence"], BOTH),
        (TARGET[1:-1], ["no braces"], BOTH),
        (TARGET.replace('"', "'"), ["single quotes"], BOTH),
        (repr(json.loads(TARGET)), ["single quotes"], BOTH),
        (TARGET.replace('"Start": 4', '"Start": 3, "Start": 4'), ["duplicated keys"], BOTH),
        (TARGET[:-1] + ', "Results": []}', ["duplicated keys"], ()),
        (TARGET.replace("}, {", "} {"), ["loose syntax"], BOTH),
        (TARGET.replace("}]}", "},]}"), ["loose syntax"], BOTH),
        (TARGET.replace("Iguazu Falls", "Iguazu\nFalls"), ["loose syntax"], (BOTH[0]._replace(text="Iguazu\nFalls"), BOTH[1])),
        (TARGET.replace("O'B", r"\u004f\u0027B"), [], BOTH),
        (TARGET.replace("O'Brien", r"\ud83d\ude00"), [], (BOTH[0], BOTH[1]._replace(text="😀"))),
        (TARGET.replace("O'Brien", r"\ud83d"), [], (BOTH[0], BOTH[1]._replace(text="\ufffd"))),
        (TARGET[:100], ["truncated"], BOTH[:1]),
        (TARGET[:-1], ["truncated"], BOTH),
        (TARGET[: TARGET.index("7}]}")], ["truncated"], (BOTH[0], BOTH[1]._replace(end=None))),
        (TARGET[: TARGET.index("7}]}") + 1], ["truncated"], (BOTH[0], BOTH[1]._replace(end=None))),
        (TARGET.replace('"PER"', "PER"), ["broken"], BOTH[:1]),
        (TARGET[TARGET.index("[") : -1], ["other form"], BOTH),
        ('{"entities": []}', ["other form"], ()),
        ('{"Results": null}', ["other form"], ()),
        ("{", ["truncated", "other form"], ()),
        ("None", ["not JSON"], ()),
        ("LOC: Iguazu Falls", ["not JSON"], ()),
        ("", ["not JSON"], ()),
        ("```", ["not JSON"], ()),
    ],
)  # fmt: skip
def test_forms_of_answers(text: str, flaws: list[str], entities: tuple[Entity, ...]) -> None:
    said = Entities().parse(text)
    assert said["flaws"] == flaws
    assert tuple(Entity(**entity) for entity in said["entities"]) == entities
    counts = Entities().score([row(FALLS)], [text], draws=0).counts["eng_Latn"]
    assert {flaw for flaw in (*FLAWS, "other form") if counts[flaw]} == set(flaws)
    assert counts["exact"] == (not flaws)


@pytest.mark.parametrize(
    ("results", "entities", "ill_formed"),
    [
        ('["Iguazu Falls", 3, null, {}]', 0, 4),
        (
            '[{"TypeName": "LOC"}, {"Text": "Rome"}, {"TypeName": "LOC", "Text": "  "}, {"TypeName": 1, "Text": "a"}]',
            0,
            4,
        ),
        ('[{"TypeName": "LOC", "Text": "Rome", "Start": "4", "End": 8.0}]', 1, 0),
        ('[{"TypeName": "LOC", "Text": "Rome", "Start": true}]', 1, 0),
    ],
)
def test_results_without_type_or_text_are_counted(results: str, entities: int, ill_formed: int) -> None:
    said = Entities().parse(f'{{"Results": {results}}}')
    assert (len(said["entities"]), said["ill_formed"]) == (entities, ill_formed)
    assert all(entity["start"] is entity["end"] is None for entity in said["entities"])


def test_a_result_that_is_cut_off_is_not_counted_and_a_broken_one_is() -> None:
    assert Entities().parse('{"Results": [{"TypeName": "LOC", "Te')["ill_formed"] == 0
    assert Entities().parse('{"Results": [{}, {"TypeName": "LOC", "Te')["ill_formed"] == 1
    assert Entities().parse('{"Results": [{"TypeName": LOC, "Text": "a"}]}')["ill_formed"] == 1


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
entities_of_any_text = st.lists(
    st.builds(Entity, st.sampled_from(TYPES), texts.filter(str.strip), st.integers(0, 999), st.integers(0, 999)),
    max_size=4,
)


@given(st.dictionaries(texts, values, max_size=4), st.booleans())
def test_json_is_read_as_json_loads_reads_it(value: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert read_json(text, "Results") == type(read_json(text, "Results"))(value, ())


@given(
    st.lists(
        st.sampled_from(
            ['{"', '"', "'", "}", "[", "]", ":", ",", "a", "1", "\\", "0", " ", "null", "```", "{", "é", "\x00"]
        ),
        max_size=25,
    )
)
@example(["{", '"', "a", '"', ":", '"', "\\", "'", '"', "}"])
@settings(max_examples=400)
def test_whatever_is_called_exact_json_loads_reads(pieces: list[str]) -> None:
    text = "".join(pieces).strip()
    read = read_json(text, "Results")
    assert list(read.flaws) == sorted(set(read.flaws), key=FLAWS.index)
    json.dumps(read.value, ensure_ascii=False).encode()
    if not read.flaws:
        assert json.loads(text) == read.value


@given(entities_of_any_text, st.data())
def test_the_beginning_of_an_answer_says_the_beginning(entities: list[Entity], data: st.DataObject) -> None:
    text = answer(*entities)
    said = Entities().parse(text[: data.draw(st.integers(1, len(text) - 1))])
    assert "truncated" in said["flaws"]
    assert said["ill_formed"] == 0
    for found, meant in zip(said["entities"], entities, strict=False):
        assert (found["type"], found["text"]) == (meant.type, meant.text)
        assert found["start"] in (meant.start, None)
        assert found["end"] in (meant.end, None)
    assert len(said["entities"]) <= len(entities)


JUNK = {
    "braces": "{",
    "brackets": "[",
    "empty lists": "[],",
    "quotes": '"',
    "single quotes": "'a ",
    "opened strings": "{'",
    "blanks and quotes": "'   '",
    "blanks": "{ ",
    "backslashes": "\\",
    "keys": '"Results": ',
    "fences": "```",
    "commas": ",",
    "digits": "1 ",
    "one number": "1",
    "entities": '{"TypeName": "LOC", "Text": "a"}, ',
    "words": "word ",
}


@pytest.mark.parametrize("start", ["", '{"Results": [', '{"Results": "', "{'", "```json\n", '"Results": ['])
@pytest.mark.parametrize("piece", JUNK.values(), ids=JUNK)
def test_an_endless_generation_takes_no_time(start: str, piece: str) -> None:
    text = start + piece * (10**6 // len(piece))
    before = time.process_time()
    said = Entities().parse(text)
    assert time.process_time() - before < 1
    assert said["flaws"]


def test_no_more_than_the_first_characters_are_read() -> None:
    start = '{"Results": [' + '{"TypeName": "LOC", "Text": "a"}, '
    said = Entities().parse(start + " " * LONGEST + '{"TypeName": "LOC", "Text": "b"}]}')
    assert ([entity["text"] for entity in said["entities"]], said["flaws"]) == (["a"], ["truncated"])


# Scores


def literal(rows: list[TaskRow], answers: list[str], strict: bool) -> float:
    """Cross off each predicted entity against one of the gold ones."""
    right = predicted = there = 0
    for each, text in zip(rows, answers, strict=True):
        left = list(each.gold.entities)
        there += len(left)
        for said in json.loads(text)["Results"]:
            predicted += 1
            for gold in left:
                same = (said["TypeName"], said["Text"]) == (gold.type, gold.text)
                if same and (not strict or (said["Start"], said["End"]) == (gold.start, gold.end)):
                    left.remove(gold)
                    right += 1
                    break
    return 200 * right / (predicted + there) if predicted + there else 0.0


few = st.lists(
    st.builds(Entity, st.sampled_from(TYPES), st.sampled_from("ab"), st.integers(0, 1), st.just(2)), max_size=4
)


@given(st.lists(st.tuples(few, few), min_size=1, max_size=6))
def test_scores_are_those_of_crossing_off(pairs: list[tuple[list[Entity], list[Entity]]]) -> None:
    rows = [row(Sentence(str(place), "", tuple(gold))) for place, (gold, _) in enumerate(pairs)]
    answers = [answer(*said) for _, said in pairs]
    scored = Entities().score(rows, answers, draws=0)
    assert value(scored, "f1") == pytest.approx(literal(rows, answers, strict=False))
    assert value(scored, "strict-f1") == pytest.approx(literal(rows, answers, strict=True))
    assert value(scored, "strict-f1") <= value(scored, "f1")


def test_a_small_case_by_hand() -> None:
    """Gold 3; said 4, of which 2 right by type and text, 1 of them with its offsets; 1 unknown type and 1 ill-formed."""
    gold = Sentence(
        "1", "Rome Rome Bo", (Entity("LOC", "Rome", 0, 4), Entity("LOC", "Rome", 5, 9), Entity("PER", "Bo", 10, 12))
    )
    said = answer(("LOC", "Rome", 0, 4), ("LOC", "Rome", 0, 4), ("loc", "Bo", 10, 12))[:-2] + ', {"TypeName": "PER"}]}'
    scored = Entities().score([row(gold)], [said])
    assert [(score.metric, score.value) for score in scored.scores[:4]] == [
        ("f1", pytest.approx(400 / 7)),
        ("strict-f1", pytest.approx(200 / 7)),
        ("precision", 50.0),
        ("recall", pytest.approx(200 / 3)),
    ]
    counts = scored.counts["eng_Latn"]
    assert (counts["gold"], counts["predicted"], counts["unknown types"], counts["ill-formed results"]) == (3, 4, 1, 1)
    assert scored.details["types"]["eng_Latn"]["LOC"] == {
        "f1": 100.0, "precision": 100.0, "recall": 100.0, "gold": 2, "predicted": 2,
    }  # fmt: skip
    assert scored.details["types"]["eng_Latn"]["PER"]["recall"] == 0
    json.dumps(scored.details)


def test_texts_are_compared_in_nfc_with_single_blanks() -> None:
    gold = Sentence("1", "São  Paulo", (Entity("LOC", "São  Paulo", 0, 10),))
    said = answer(("LOC", unicodedata.normalize("NFD", " São\nPaulo "), 0, 10))
    scored = Entities().score([row(gold)], [said])
    assert (value(scored, "f1"), value(scored, "strict-f1")) == (100, 100)
    assert value(Entities().score([row(gold)], [said.replace("Paulo", "paulo")]), "f1") == 0


def test_right_answers_score_100_and_none_0(shared_data: Path) -> None:
    rows = Entities().rows(shared_data, "test", limit=300)
    perfect = Entities().score(rows, [each.target for each in rows], draws=50)
    assert {score.value for score in perfect.scores} == {100.0}
    assert {(score.low, score.high) for score in perfect.scores if score.metric == "f1"} == {(100.0, 100.0)}
    nothing = Entities().score(rows, ["" for _ in rows], draws=50)
    assert {score.value for score in nothing.scores} == {0.0}
    assert {counts["not JSON"] for counts in nothing.counts.values()} == {300}
    assert [score.language for score in perfect.scores[::4]] == [
        *EIGHT,
        "(mean)",
        "(supervised)",
        "(transfer)",
        "(aligned)",
    ]
    assert any("traditional" in note for note in perfect.notes)
    assert any("Latin letters" in note for note in perfect.notes)


def test_mended_tags_are_told(shared_data: Path) -> None:
    rows = Entities().rows(shared_data, "test", "da,hr")
    scored = Entities().score(rows, [""] * len(rows), draws=0)
    assert [scored.counts[code]["mended I-"] for code in ("dan_Latn", "hrv_Latn")] == [1, 0]
    assert [scored.counts[code]["OTH left out"] for code in ("dan_Latn", "hrv_Latn")] == [0, 133]
    assert any(note.startswith("dan_Latn") and "I-" in note for note in scored.notes)


def made(language: str, count: int, share: float, prefix: str = "s") -> tuple[list[TaskRow], list[str]]:
    """Sentences of one entity each, of which a share is answered rightly."""
    golds = [replace(FALLS, id=f"{prefix}{place}") for place in range(count)]
    return [row(gold, language) for gold in golds], [
        as_json(gold) if place < share * count else "" for place, gold in enumerate(golds)
    ]


def both(*parts: tuple[list[TaskRow], list[str]]) -> tuple[list[TaskRow], list[str]]:
    return [each for rows, _ in parts for each in rows], [each for _, answers in parts for each in answers]


def test_means_are_of_whole_groups_only() -> None:
    transfer = [made(code, 4, share) for code, share in zip(TRANSFER, (0, 0.25, 0.5, 0.75, 1), strict=True)]
    scored = Entities().score(*both(made("eng_Latn", 4, 1), *transfer), draws=20)
    names = {score.language for score in scored.scores if score.language.startswith("(")}
    assert names == {"(transfer)", "(aligned)", "(mean)"}
    shares = [value(scored, "f1", code) for code in TRANSFER]
    assert value(scored, "f1", "(transfer)") == pytest.approx(np.mean(shares))
    assert value(scored, "f1", "(aligned)") == pytest.approx((shares[0] + shares[4]) / 2)
    assert value(scored, "f1", "(mean)") == pytest.approx((sum(shares) + 100) / 6)


def test_intervals_are_those_of_drawing_sentences() -> None:
    """Of n sentences with one entity each, k found: F1 of a draw is 2X / (X + n), X binomial."""
    rows, answers = made("eng_Latn", 200, 0.5)
    scored = Entities().score(rows, answers, draws=2000)
    (f1,) = [score for score in scored.scores if (score.metric, score.language) == ("f1", "eng_Latn")]
    found = np.random.default_rng(1).binomial(200, 0.5, size=20000)
    low, high = np.quantile(200 * found / (found + 200), (0.025, 0.975))
    assert f1.low == pytest.approx(low, abs=1)
    assert f1.high == pytest.approx(high, abs=1)
    once, again, other = (Entities().score(rows, answers, draws=10, seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert once != other
    assert {score.low for score in Entities().score(rows, answers, draws=0).scores} == {None}


def width(scored: Scored, language: str) -> float:
    (score,) = [score for score in scored.scores if (score.language, score.metric) == (language, "f1")]
    assert score.low is not None
    assert score.high is not None
    return score.high - score.low


def test_croatian_and_serbian_are_drawn_together_and_other_equal_ids_are_not() -> None:
    """The mean of two equal results varies as one of them where the sentences are the same, by 1 / sqrt(2) where not."""
    one = width(Entities().score(*made("hrv_Latn", 200, 0.5), draws=2000), "(mean)")
    same = both(made("hrv_Latn", 200, 0.5, "set.hr-s"), made("srp_Cyrl", 200, 0.5, "set-s"))
    other = both(made("zho_Hans", 200, 0.5, "batch-"), made("slk_Latn", 200, 0.5, "batch-"))
    assert width(Entities().score(*same, draws=2000), "(mean)") == pytest.approx(one, rel=0.12)
    assert width(Entities().score(*other, draws=2000), "(mean)") == pytest.approx(one / math.sqrt(2), rel=0.12)


def test_as_many_answers_as_rows() -> None:
    rows, answers = made("eng_Latn", 3, 1)
    with pytest.raises(AlignError, match="2 predictions for 3 rows"):
        Entities().score(rows, answers[:2])


def test_rows_without_entities_are_told() -> None:
    scored = Entities().score([row(Sentence("1", "No.", ()))], ['{"Results": []}'])
    assert value(scored, "f1") == 0
    assert any("hold no entity" in note for note in scored.notes)
