"""Slot filling: MASSIVE as it comes, prompts and targets, strict reading of answers, scores and their intervals."""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from align.examples import Message
from align.tasks.f1 import Counts, Draws, precision_recall_f1, total
from align.tasks.slots import SLOT_TYPES, SYSTEM_PROMPTS, Command, Slots, parse_answer
from align.tasks.task import Scored, Task, TaskRow
from data_manifests import language_sets
from data_manifests.published import language_groups
from probe.errors import AlignError, CorpusError

ENGLISH = [
    ("wake me up at five am this week", "wake me up at [time : five am] [date : this week]", "test"),
    ("quiet", "quiet", "test"),
    ("call mary not mary", "call [person : mary] not [person : mary]", "test"),
    ("olly", "olly", "train"),
    ("make the lights pink", "make the lights [color_type : pink]", "dev"),
]
JAPANESE = [("今日jazzを", "[date : 今日] [music_genre : jazz] を", "test"), ("静かに", "静かに", "test")]


def fields(locale: str, rows: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "locale": locale, "partition": part, "utt": utt, "annot_utt": annot, "intent": "x"}
        for i, (utt, annot, part) in enumerate(rows)
    ]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        encoded = text.encode(errors="surrogatepass")
        path.write_bytes(gzip.compress(encoded) if path.suffix == ".gz" else encoded)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "en-US.jsonl", fields("en-US", ENGLISH))
    write(tmp_path / "ja-JP.jsonl.gz", fields("ja-JP", JAPANESE))
    return tmp_path


# Reading


def test_rows(data: Path) -> None:
    task: Task = Slots()
    rows = task.rows(data, "test", "en")
    assert (task.name, task.main) == ("slots", "strict-f1")
    assert [row.id for row in rows] == ["0", "1", "2"]
    assert {row.language for row in rows} == {"eng_Latn"}
    assert [row.target for row in rows] == ["time: five am; date: this week", "None", "person: mary; person: mary"]
    assert rows[0].prompt == (Message("system", SYSTEM_PROMPTS["fine-tuned"]), Message("user", ENGLISH[0][0]))
    assert [row.target for row in task.rows(data, "dev", "en")] == ["color_type: pink"]


def test_prompts() -> None:
    assert SYSTEM_PROMPTS["fine-tuned"] == (
        "Given a command from the user, a voice assistant will extract entities essential for carry out the command. "
        "Your task is to extract the entities as words from the command if they fall under a predefined list of entity types."
    )
    first, example, last = SYSTEM_PROMPTS["as-run"].split("\n")
    assert f"{first} {last}" == SYSTEM_PROMPTS["fine-tuned"]
    assert example.startswith("For example, for a command about playing a specific song, ")
    assert len(SLOT_TYPES) == 55
    assert all(kind in SYSTEM_PROMPTS["zero-shot"] for kind in SLOT_TYPES)
    with pytest.raises(AlignError, match=r"'few-shot'.*fine-tuned, as-run, zero-shot"):
        Slots("few-shot")


def test_zero_shot_targets_have_a_line_an_entity(data: Path) -> None:
    rows = Slots("zero-shot").rows(data, "test", "en")
    assert [row.target for row in rows] == ["time: five am\ndate: this week", "None", "person: mary\nperson: mary"]
    assert values(Slots("zero-shot").score(rows, [row.target for row in rows]))["eng_Latn", "strict-f1"] == 100


@pytest.mark.parametrize(
    "names",
    [
        ["{}.jsonl"],
        ["{}.jsonl.gz"],
        ["{}_test.jsonl"],
        ["{}/test-00000-of-00001.parquet"],
        ["{}/test/0000.parquet"],
        ["1.1/data/{}.jsonl", "en-US.jsonl"],
        ["massive/1.1/data/{}.jsonl", "tatoeba/en-US.jsonl"],
        ["data/{}.parquet"],
        ["{}.parquet", "all/test.parquet", "all_1.1/test.parquet"],
    ],
)
def test_layouts(tmp_path: Path, names: list[str]) -> None:
    """The first name is that of the data; others lie beside it and are left aside."""
    first, *others = names
    for locale, rows in (("en-US", ENGLISH), ("ja-JP", JAPANESE)):
        unplaced = [{key: value for key, value in row.items() if key != "locale"} for row in fields(locale, rows)]
        write(tmp_path / "it" / first.format(locale), unplaced)
    for other in others:
        write(tmp_path / "it" / other, fields("en-US", [("other", "other", "test")]))
    rows = Slots().rows(tmp_path / "it", "test", "ja,en")
    assert [row.gold.utterance for row in rows] == [utt for utt, _, part in (*JAPANESE, *ENGLISH) if part == "test"]
    assert [row.id for row in rows] == ["0", "1", "0", "1", "2"]


@pytest.mark.parametrize("name", ["some.jsonl", "test-00000-of-00001.parquet"])
def test_the_locale_column_tells_where_no_name_does(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [*fields("en-US", ENGLISH), *fields("ja-JP", JAPANESE)])
    for place in (path, tmp_path):
        rows = Slots().rows(place, "test", "all")
        assert [row.language for row in rows] == ["eng_Latn"] * 3 + ["jpn_Jpan"] * 2
    write(tmp_path / name, fields("xx-XX", ENGLISH))
    with pytest.raises(AlignError, match=rf"{name} (line|row) 1 has the locale xx-XX"):
        Slots().rows(path, "test", "all")


@pytest.mark.parametrize("langs", ["ja,en", "ja-JP,en-US", "jpn_Jpan,eng_Latn", " ja , en, ja"])
def test_languages_as_people_write_them(data: Path, langs: str) -> None:
    assert list(dict.fromkeys(row.language for row in Slots().rows(data, "test", langs))) == ["jpn_Jpan", "eng_Latn"]


def test_the_first_rows_of_each_language(data: Path) -> None:
    assert [(row.language, row.id) for row in Slots().rows(data, "test", "all", limit=1)] == [("eng_Latn", "0"), ("jpn_Jpan", "0")]  # fmt: skip
    with pytest.raises(AlignError, match="--limit 0"):
        Slots().rows(data, "test", "all", limit=0)


def test_white_space_within_words_is_normalised(tmp_path: Path) -> None:
    write(tmp_path / "en-US.jsonl", fields("en-US", [("at five  am", "at [time :  five \t am ]", "test")]))
    (row,) = Slots().rows(tmp_path, "test", "en")
    assert (row.gold.slots, row.target, row.prompt[1].content) == (
        (("time", "five am"),),
        "time: five am",
        "at five  am",
    )


def test_hub_s_name_of_the_development_split(tmp_path: Path) -> None:
    write(tmp_path / "en-US.jsonl", fields("en-US", [("pink", "[color_type : pink]", "validation")]))
    for split in ("dev", "validation"):
        assert [row.target for row in Slots().rows(tmp_path, split, "en")] == ["color_type: pink"]


def test_languages_that_the_data_lack_are_named(data: Path) -> None:
    with pytest.raises(
        AlignError, match=r"no MASSIVE data of deu_Latn, swh_Latn; .* de-DE.jsonl; .* eng_Latn, jpn_Jpan$"
    ):
        Slots().rows(data, "test", "en,de,sw")
    with pytest.raises(AlignError, match=r" of arb_Arab, spa_Latn, .*, tur_Latn, urd_Arab; "):  # slots20
        Slots().rows(data, "test")
    with pytest.raises(AlignError, match="no MASSIVE data of ces_Latn"):
        Slots().rows(data, "test", "cs")
    with pytest.raises(CorpusError, match="unknown language 'englisch'"):
        Slots().rows(data, "test", "englisch")


def changed(**change: Any) -> list[dict[str, Any]]:
    """English rows, the second changed; None takes a column away."""
    rows = fields("en-US", ENGLISH)
    rows[1] = {key: value for key, value in (rows[1] | change).items() if value is not None}
    return rows


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"annot_utt": None}, "has no annot_utt"),
        ({"annot_utt": 3}, "has the annot_utt 3"),
        ({"utt": None}, "has no utt"),
        ({"utt": "  "}, "has the utt '  '"),
        ({"utt": "a\ud800", "annot_utt": "a\ud800"}, r"has the utt 'a\\ud800'"),
        ({"id": None}, "has no id"),
        ({"id": "0"}, "repeats the id 0 of eng_Latn"),
        ({"partition": "held-out"}, "has the partition 'held-out'"),
        ({"partition": None}, "has the partition None"),
        ({"locale": "de-DE"}, "has the locale de-DE"),
        ({"annot_utt": "qu[time : iet"}, "broken brackets"),
        ({"annot_utt": "quiet]"}, "broken brackets"),
        ({"annot_utt": "[time : [date : quiet]]"}, "broken brackets"),
        ({"annot_utt": "[time quiet]"}, "without type or words"),
        ({"annot_utt": "[time: quiet]"}, "without type or words"),
        ({"annot_utt": "[time : ] quiet"}, "without type or words"),
        ({"annot_utt": "[mood : quiet]"}, "unknown type 'mood'"),
        ({"annot_utt": "[time : qui]"}, "of other text than its utt"),
        ({"utt": "a; b", "annot_utt": "[time : a; b]"}, "with ;"),
    ],
)
def test_a_malformed_row(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    write(tmp_path / "en-US.jsonl", changed(**change))
    with pytest.raises(AlignError, match=rf"^en-US.jsonl line 2 .*{told}") as caught:
        Slots().rows(tmp_path, "test", "en")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"annot_utt": "[time : quiet"}, {"utt": None}, {"partition": "held-out"}])
def test_a_malformed_row_of_a_parquet_file(tmp_path: Path, change: dict[str, Any]) -> None:
    write(tmp_path / "en-US" / "test.parquet", changed(**change))
    with pytest.raises(AlignError, match=r"^en-US/test.parquet row 2 has"):
        Slots().rows(tmp_path, "test", "en")
    columns = [{key: row[key] for key in ("id", "partition", "utt")} for row in fields("en-US", ENGLISH)]
    write(tmp_path / "en-US" / "test.parquet", columns)
    with pytest.raises(AlignError, match=r"^en-US/test.parquet row 1 has no annot_utt"):
        Slots().rows(tmp_path, "test", "en")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("en-US.jsonl", b"", "en-US.jsonl is empty"),
        ("en-US.jsonl", b"\n\n", "en-US.jsonl is empty"),
        ("en-US.jsonl", b"{", "en-US.jsonl line 1 is not JSON"),
        ("en-US.jsonl", b"\n[1]", "en-US.jsonl line 2 is no JSON object"),
        ("en-US.jsonl", b'{"id": "\xff"}', "en-US.jsonl line 1 is not valid UTF-8"),
        ("en-US.jsonl.gz", b"{}", "en-US.jsonl.gz cannot be read"),
        ("en-US.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "en-US.jsonl.gz cannot be read"),
        ("en-US.parquet", b"{}", "en-US.parquet cannot be read"),
        ("en-US.txt", b"quiet", "holds no MASSIVE data"),
    ],
)
def test_a_malformed_file(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AlignError, match=told) as caught:
        Slots().rows(tmp_path, "test", "en")
    assert "\n" not in str(caught.value)


def test_data_that_are_not_there(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AlignError, match="nowhere is not there"):
        Slots().rows(tmp_path / "nowhere", "test", "en")
    (tmp_path / "en-US.csv").write_text("id")
    with pytest.raises(AlignError, match=r"en-US.csv is no MASSIVE data; expected .jsonl"):
        Slots().rows(tmp_path / "en-US.csv", "test", "en")
    with pytest.raises(AlignError, match="no row of train in jpn_Jpan; expected one of test"):
        Slots().rows(data, "train", "ja")
    with pytest.raises(AlignError, match="--split tests"):
        Slots().rows(data, "tests", "ja")


# Answers


@pytest.mark.parametrize(
    ("answer", "slots", "ill_formed"),
    [
        ("time: five am; date: this week", [("time", "five am"), ("date", "this week")], []),
        ("time: five am;date: this week;", [("time", "five am"), ("date", "this week")], []),
        ("  time :  five   am  ;; ", [("time", "five am")], []),
        ("time: at: five: am", [("time", "at: five: am")], []),
        ("None", [], []),
        (" none\n", [], []),
        ("", [], []),
        ("None; time: five", [("time", "five")], ["None"]),
        ("None.", [], ["None."]),
        ("time five; time:five; time:; : five", [], ["time five", "time:five", "time:", ": five"]),
        ("made up: x", [("made up", "x")], []),
        ("time: five\r\nam", [("time", "five am")], []),
        ("\ntime: five\ndate: today", [("time", "five date: today")], []),
        ("time\N{NO-BREAK SPACE}: five\N{IDEOGRAPHIC SPACE}am", [("time", "five am")], []),
    ],
)
def test_answers_strictly_read(answer: str, slots: list[tuple[str, str]], ill_formed: list[str]) -> None:
    said = Slots().parse(answer)
    assert [(slot["type"], slot["words"]) for slot in said["slots"]] == slots
    assert said["ill_formed"] == ill_formed
    assert json.loads(json.dumps(said)) == said


def test_lines_separate_zero_shot_answers() -> None:
    said = Slots("zero-shot").parse("time: five\r\n\ndate: today; person: mary\nnone of these")
    assert [slot["words"] for slot in said["slots"]] == ["five", "today", "mary"]
    assert said["ill_formed"] == ["none of these"]


@given(st.text(alphabet="ab;: \n\t\N{IDEOGRAPHIC SPACE}", max_size=30))
def test_what_is_read_is_read_the_same_once_written(text: str) -> None:
    said = parse_answer(text)
    assert all(" ".join(part.split()) == part and part for slot in said.slots for part in slot)
    written = "; ".join([*(f"{kind}: {words}" for kind, words in said.slots), *said.ill_formed])
    assert parse_answer(written) == said


# Scores


def values(scored: Scored) -> dict[tuple[str, str], float]:
    return {(score.language, score.metric): score.value for score in scored.scores}


def annotated(code: str, row_id: str, annotation: str) -> TaskRow:
    """A row as the task makes it."""
    slots = tuple((kind, " ".join(words.split())) for kind, words in re.findall(r"\[(\w+) : ([^]]*)]", annotation))
    command = Command(re.sub(r"\[\w+ : |]", "", annotation), annotation, slots)
    return TaskRow(row_id, code, (), "; ".join(f"{kind}: {words}" for kind, words in slots) or "None", command)


def english(*annotations: str) -> list[TaskRow]:
    return [annotated("eng_Latn", str(i), annotation) for i, annotation in enumerate(annotations)]


@pytest.mark.parametrize(
    ("annotation", "answer", "right", "wrong", "missed"),
    [
        ("[time : five] past five", "time: five", 1, 0, 0),
        ("[time : five] past five", "time: five; time: five", 1, 1, 0),
        ("[person : mary] not [person : mary]", "person: mary", 1, 0, 1),
        ("[person : mary] not [person : mary]", "person: mary; person: mary", 2, 0, 0),
        ("[date : monday] [date : tuesday]", "date: tuesday; date: monday", 2, 0, 0),
        ("meet at [time : five: am]", "time: five: am", 1, 0, 0),
        ("[time : five   am]", "time: five am", 1, 0, 0),
        ("[time : five]", "time: Five", 0, 1, 1),
        ("[time : five]", "date: five", 0, 1, 1),
        ("[time : five]", "Time: five", 0, 1, 1),
        ("[time : five]", "hour: six", 0, 1, 1),
        ("[time : five]", "at five; time: five", 1, 1, 0),
        ("[time : five]", "None", 0, 0, 1),
        ("[time : five]", "", 0, 0, 1),
        ("quiet", "None", 0, 0, 0),
        ("quiet", "no entity", 0, 1, 0),
    ],
)
def test_strict_counts(annotation: str, answer: str, right: int, wrong: int, missed: int) -> None:
    scored = Slots().score(english(annotation), [answer], draws=0)
    types = scored.details["by_type"]["eng_Latn"].values()
    assert [sum(each[name] for each in types) for name in ("right", "wrong", "missed")] == [right, wrong, missed]
    expected = precision_recall_f1(Counts(right, wrong, missed))
    found = values(scored)
    assert [found["eng_Latn", f"strict-{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(expected)


def test_latin_words_match_in_japanese_too() -> None:
    rows = [annotated("jpn_Jpan", "0", JAPANESE[0][1])]
    found = values(Slots().score(rows, ["date: 今日; music_genre: jazz"], draws=0))
    assert found["jpn_Jpan", "strict-f1"] == 100
    assert found["jpn_Jpan", "compat-f1"] < 100


def test_what_is_counted() -> None:
    rows = english("[time : five]", "[time : six]", "quiet", "quiet", "quiet")
    answers = ["time: five; at five; five; hour: five", "\n", "None\n", "time: \n five", "; ;"]
    scored = Slots().score(rows, answers, draws=0)
    assert dict(scored.counts["eng_Latn"]) == {
        "rows": 5, "slots": 2, "predicted": 3, "ill_formed_pieces": 2, "ill_formed_answers": 3, "unknown_types": 1,
        "empty_answers": 2, "line_breaks": 1,
    }  # fmt: skip
    types = scored.details["by_type"]["eng_Latn"]
    assert {kind: (each["right"], each["wrong"], each["missed"]) for kind, each in types.items()} == {
        "(ill-formed)": (0, 2, 0), "(unknown)": (0, 1, 0), "time": (1, 1, 1),
    }  # fmt: skip
    assert types["time"]["f1"] == types["time"]["precision"] == types["time"]["recall"] == 50
    assert "Answers with line breaks, read as blanks: 1." in scored.notes
    assert json.loads(json.dumps(scored.details)) == scored.details


def test_types_add_up_over_languages() -> None:
    rows = [annotated("eng_Latn", "0", "[time : a] [date : b]"), annotated("deu_Latn", "0", "[time : c] [date : d]")]
    types = Slots().score(rows, ["time: a", "time: c; date: e"], draws=0).details["by_type"]["(all)"]
    assert {kind: (each["right"], each["wrong"], each["missed"]) for kind, each in types.items()} == {
        "date": (0, 1, 2), "time": (2, 0, 0),
    }  # fmt: skip


def test_a_line_break_never_shifts_the_next_row() -> None:
    rows = english("[time : a]", "[time : b]", "[time : c]", "[time : d]")
    right = [row.target for row in rows]
    for broken in ("time: a\ntime: x\n\n", "\n\n\n", "\r\ntime: a\r", "time: a\n" * 1000):
        scored = Slots().score(rows, [broken, *right[1:]], draws=0)
        assert scored.details["by_type"]["eng_Latn"]["time"]["right"] >= 3
        assert values(scored)["eng_Latn", "compat-exact"] >= 75
    zero_shot = Slots("zero-shot").score(rows, ["time: a\nNote: that is it", *right[1:]], draws=0)
    assert values(zero_shot)["eng_Latn", "compat-exact"] == 100
    assert values(zero_shot)["eng_Latn", "strict-recall"] == 100


def test_as_many_answers_as_rows() -> None:
    with pytest.raises(AlignError, match="3 predictions for 2 rows"):
        Slots().score(english("a", "b"), ["None"] * 3)
    assert Slots().score([], []).scores == ()


def test_endless_answers_are_read_in_time() -> None:
    rows = english("call [person : mary] " + "and so on " * 20)
    for answer in (
        "person: mary; " * 20_000,
        "mary " * 200_000,
        ";:" * 300_000,
        "person: " * 100_000,
        "\n" * 1_000_000,
    ):
        begin = time.process_time()
        Slots().score(rows, [answer], draws=10)
        assert time.process_time() - begin < 5


Made = Callable[..., tuple[list[TaskRow], list[str]]]


@pytest.fixture(scope="module")
def made() -> Made:
    """Rows and faulty answers in several languages."""

    def make(codes: Sequence[str], rows: int = 30, seed: int = 0) -> tuple[list[TaskRow], list[str]]:
        dice = random.Random(seed)
        every, answers = [], []
        for code in codes:
            for i in range(rows):
                pieces = [
                    f"[{dice.choice(SLOT_TYPES[:5])} : {dice.choice('abcdef')}]" for _ in range(dice.randrange(4))
                ]
                row = annotated(code, str(i), " ".join(["say", *pieces]))
                every.append(row)
                said = [piece for piece in row.target.split("; ") if dice.random() < 0.7]
                said += [dice.choice(["made_up: a", "a", f"{SLOT_TYPES[0]}: a"])] if dice.random() < 0.3 else []
                answers.append("; ".join(said))
        return every, answers

    return make


def test_scores_are_those_of_all_slots_together(made: Made) -> None:
    rows, answers = made(["eng_Latn", "deu_Latn"])
    found = values(Slots().score(rows, answers, draws=0))
    for code in ("eng_Latn", "deu_Latn"):
        gold: Counter[Any] = Counter()
        said: Counter[Any] = Counter()
        for row, answer in zip(rows, answers, strict=True):
            if row.language == code:
                gold.update((row.id, *slot) for slot in row.gold.slots)
                if answer != "None":
                    said.update((row.id, *piece.partition(": ")[::2]) for piece in answer.split("; ") if piece)
        right = (gold & said).total()
        assert found[code, "strict-precision"] == pytest.approx(100 * right / said.total())
        assert found[code, "strict-recall"] == pytest.approx(100 * right / gold.total())
        assert found[code, "strict-f1"] == pytest.approx(200 * right / (said.total() + gold.total()))


def test_intervals_are_drawn_jointly(made: Made) -> None:
    """The interval of the mean is that of the means of joint draws; rows in another order give the same."""
    rows, answers = made(["eng_Latn", "deu_Latn"])
    scored = Slots().score(rows, answers, draws=200, seed=5)
    draws = Draws.of({row.id for row in rows}, 200, 5)
    by_language = {}
    for code in ("eng_Latn", "deu_Latn"):
        own = [i for i, row in enumerate(rows) if row.language == code]
        counts = [strict(rows[i], answers[i]) for i in own]
        assert values(scored)[code, "strict-f1"] == pytest.approx(precision_recall_f1(total(counts))[2])
        by_language[code] = draws.f1([rows[i].id for i in own], counts)
    by_language["(mean)"] = np.mean(list(by_language.values()), axis=0)
    for score in scored.scores:
        if score.metric == "strict-f1":
            assert (score.low, score.high) == pytest.approx(np.quantile(by_language[score.language], (0.025, 0.975)))
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    again = Slots().score([rows[i] for i in order], [answers[i] for i in order], draws=200, seed=5)
    assert set(again.scores) == set(scored.scores)
    assert set(Slots().score(rows, answers, draws=200, seed=6).scores) != set(scored.scores)


def strict(row: TaskRow, answer: str) -> Counts:
    types = Slots().score([row], [answer], draws=0).details["by_type"][row.language].values()
    return total(Counts(each["right"], each["wrong"], each["missed"]) for each in types)


def test_every_metric_has_its_interval(made: Made) -> None:
    rows, answers = made(["eng_Latn"])
    scored = Slots().score(rows, answers)
    metrics = ["strict-f1", "strict-precision", "strict-recall", "compat-f1", "compat-exact"]
    assert [(score.language, score.metric) for score in scored.scores] == [(name, metric) for name in ("eng_Latn", "(mean)") for metric in metrics]  # fmt: skip
    assert all(score.low < score.value < score.high for score in scored.scores)  # type: ignore[operator]
    assert all(score.high - score.low > 1 for score in scored.scores)  # type: ignore[operator]
    none = Slots().score(rows, answers, draws=0)
    assert values(none) == values(scored)
    assert {(score.low, score.high) for score in none.scores} == {(None, None)}


def test_a_language_with_some_of_the_ids_is_a_share_of_its_own_rows() -> None:
    """How many of them are drawn is left to chance, but right is right."""
    rows = [*english(*["[time : a]"] * 20), *(annotated("deu_Latn", str(i), "[time : a]") for i in range(10))]
    for score in Slots().score(rows, ["time: a"] * len(rows), draws=50).scores:
        assert (score.value, score.low, score.high) == (100, 100, 100), score


def test_means_over_the_paper_s_groups(made: Made) -> None:
    codes = language_sets()["slots20"]
    rows, answers = made(codes, rows=6)
    found = values(Slots().score(rows, answers, draws=0))
    for group, members in {**language_groups("slots"), "mean": codes}.items():
        for metric in ("strict-f1", "compat-f1", "compat-exact"):
            assert found[f"({group})", metric] == pytest.approx(np.mean([found[code, metric] for code in members]))
    assert [score.language for score in Slots().score(rows, answers, draws=0).scores if score.metric == "strict-f1"] == [*codes, "(mean)", "(supervised)", "(transfer)", "(aligned)", "(non_latin)"]  # fmt: skip
    kept = [i for i, row in enumerate(rows) if row.language != "swh_Latn"]
    fewer = values(Slots().score([rows[i] for i in kept], [answers[i] for i in kept], draws=0))
    assert {name for name, _ in fewer if name.startswith("(")} == {"(mean)", "(supervised)", "(non_latin)"}


# Real data


@pytest.mark.shared
def test_real_data_are_written_and_read_back(shared_data: Path) -> None:
    """33 locales: targets parse to the gold, and score 100; no value is lost to the format."""
    task = Slots()
    rows = task.rows(shared_data / "massive", "test", "all", limit=200)
    assert Counter(Counter(row.language for row in rows).values()) == {200: 33}
    for row in rows:
        assert parse_answer(row.target) == (row.gold.slots, ())
    scored = task.score(rows, [row.target for row in rows], draws=0)
    assert {score.value for score in scored.scores if score.metric.startswith("strict")} == {100}
    assert values(scored)["jpn_Jpan", "compat-f1"] < 100
    assert set(scored.details["by_type"]["(all)"]) <= set(SLOT_TYPES)


@pytest.mark.shared
def test_real_rows_of_the_default_languages(shared_data: Path) -> None:
    rows = Slots().rows(shared_data, "test", limit=3)
    assert list(dict.fromkeys(row.language for row in rows)) == list(language_sets()["slots20"])
    assert {row.id for row in rows} == {row.id for row in rows[:3]}
    native = Slots().rows(shared_data / "massive" / "native-sample", "test", "de,sw", limit=3)
    assert [(row.id, row.language, row.target) for row in native] == [
        (row.id, row.language, row.target) for code in ("deu_Latn", "swh_Latn") for row in rows if row.language == code
    ]
