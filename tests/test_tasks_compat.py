"""The paper's way of counting slots: its golden values, its faults one by one, and seqeval's definition of an entity."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.tasks.massive_compat import _entities, compat_row
from align.tasks.slots import Slots
from data_manifests import language_aliases

LOCALES = ("en-US", "de-DE", "ja-JP", "jv-ID", "th-TH", "ar-SA")


@pytest.mark.shared
@pytest.mark.parametrize("locale", LOCALES)
def test_the_paper_s_script_is_reproduced(shared_data: Path, shared_golden: Path, locale: str) -> None:
    golden = shared_golden / "massive_f1"
    expected = json.loads((golden / "expected.json").read_text(encoding="utf-8"))[locale]
    answers = (golden / f"{locale}.pred").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    task = Slots()
    scored = task.score(task.rows(shared_data, "test", locale, limit=400), answers, draws=0)
    values = {score.metric: score.value for score in scored.scores if score.language == language_aliases()[locale]}
    assert values["compat-f1"] / 100 == pytest.approx(expected["slot_micro_f1"], abs=1e-9)
    assert values["compat-exact"] / 100 == pytest.approx(expected["exact_match"], abs=1e-9)
    assert values["strict-f1"] / 100 != pytest.approx(expected["slot_micro_f1"], abs=1e-3)


TWICE = ("eng_Latn", "five past five", "[time : five] past five")
JAPANESE = ("jpn_Jpan", "今日jazzをかけて", "[date : 今日] [music_genre : jazz] をかけて")


@pytest.mark.parametrize(
    ("row", "answer", "counts", "exact"),
    [
        pytest.param(TWICE, "time: five", (1, 1, 0), False, id="every occurrence of a value is labelled"),
        pytest.param(TWICE, "time: past five", (0, 1, 1), False, id="an entity is a span"),
        pytest.param(TWICE, "time: FIVE past five; Other: past five", (1, 0, 0), True, id="case, overwriting, Other"),
        pytest.param(
            ("eng_Latn", "Call Mary", "Call [person : Mary]"),
            "person: mary",
            (1, 0, 0),
            True,
            id="case of the utterance",
        ),
        pytest.param(TWICE, "time: six; made_up: seven", (0, 0, 1), False, id="what is not there is no error"),
        pytest.param(TWICE, "time: five: past; time", (0, 0, 1), False, id="a value with a colon is dropped"),
        pytest.param(TWICE, "None", (0, 0, 1), False, id="none"),
        pytest.param(TWICE, " nONE ", (0, 0, 1), False, id="none in any case"),
        pytest.param(TWICE, "", (0, 0, 1), False, id="an empty answer"),
        pytest.param(TWICE, "time: ; time:  ; date: past", (0, 1, 1), False, id="a blank value is nowhere"),
        pytest.param(TWICE, "time: five;date: past", (0, 0, 1), False, id="only a semicolon with a blank separates"),
        pytest.param(TWICE, "time: five past five", (0, 1, 1), False, id="neighbours of one label are one entity"),
        pytest.param(
            ("eng_Latn", "on monday tuesday", "on [date : monday] [date : tuesday]"),
            "date: monday; date: tuesday",
            (1, 0, 0),
            True,
            id="neighbours of one label are one entity in the gold too",
        ),
        pytest.param(
            JAPANESE,
            "date: 今日; music_genre: jazz",
            (1, 0, 1),
            False,
            id="Latin words never match in Japanese",
        ),
        pytest.param(
            ("zho_Hans", "放a音乐", "放 [song_name : a] 音乐"),
            "song_name: a音乐",
            (1, 0, 0),
            True,
            id="a Latin word does not end its label in the gold: the song is a音乐 there",
        ),
        pytest.param(
            ("zho_Hant", "播放爵士", "播放 [music_genre : 爵士]"),
            "music_genre: 爵士",
            (1, 0, 0),
            True,
            id="traditional Chinese goes by characters",
        ),
        pytest.param(
            ("tha_Thai", "ปลุกตีห้า", "[time : ปลุกตีห้า]"),
            "time: ตีห้า",
            (0, 0, 1),
            False,
            id="Thai goes by words",
        ),
        pytest.param(
            ("eng_Latn", "a b c", "[date : a]"),
            "time: c; date: a",
            (1, 0, 0),
            True,
            id="a label beyond those of the gold is cut off",
        ),
    ],
)
def test_known_faults(row: tuple[str, str, str], answer: str, counts: tuple[int, ...], exact: bool) -> None:
    assert compat_row(*row, answer) == (counts, exact)


@given(st.lists(st.sampled_from(["Other", "time", "date", "a-b", "-x"]), max_size=12))
def test_an_entity_is_what_seqeval_finds_in_the_tags(labels: list[str]) -> None:
    assert set(_entities(labels)) == chunks(tags(labels))
    assert len(list(_entities(labels))) == len(set(_entities(labels)))


def tags(labels: Sequence[str]) -> list[str]:
    """BIO as the script writes it: a label begins where the one before is another."""
    before = "Other"
    written = []
    for label in labels:
        written.append("O" if label == "Other" else f"I-{label}" if label == before else f"B-{label}")
        before = label
    return written


def chunks(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """seqeval's default mode: a chunk goes on while I- of its own type follows."""
    found = set()
    for begin, tag in enumerate(tags):
        if tag.startswith("B-"):
            end = begin + 1
            while end < len(tags) and tags[end] == f"I-{tag[2:]}":
                end += 1
            found.add((tag[2:], begin, end))
    return found
