"""Answers on disk: what a killed run wrote is kept, what belongs to another run is refused, predictions find their rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from align.answers import Answer, AnswerFolder, read_predictions
from align.examples import Message, encode_prompts
from align.generate import generate, stop_tokens
from align.tasks.task import TaskRow
from probe.errors import AlignError
from probe.model import load_causal, open_model

ROOT = Path(__file__).resolve().parents[1]
IDENTITY = {"model": {"name": "tiny", "weights": "0"}, "adapter": None, "max_new_tokens": 8}
DIGESTS = {"17": "aa", "4": "bb", "9": "cc"}


def answer(name: str, digest: str | None = None, text: str = "time: five\nam \u2028 ☎") -> Answer:
    return Answer(name, "deu_Latn", digest or DIGESTS[name], text, [["time", "five am"]], (5, 6, 1), "end", False)


def row(name: str, language: str = "deu_Latn") -> TaskRow:
    return TaskRow(name, language, (Message("user", "a"),), "b", None)


def names(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


# ---- writing -------------------------------------------------------------------------------------------------


def test_a_line_a_row_with_all_that_was_said(tmp_path: Path) -> None:
    with AnswerFolder(tmp_path / "out", IDENTITY).adding("deu_Latn", DIGESTS) as file:
        for name in ("9", "17", "4"):
            file.add(answer(name))
    lines = (tmp_path / "out" / "deu_Latn.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert json.loads(lines[0]) == {
        "id": "17", "language": "deu_Latn", "prompt_digest": "aa", "text": "time: five\nam \u2028 ☎",
        "parsed": [["time", "five am"]], "tokens": [5, 6, 1], "stopped": "end", "near_tie": False,
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "generation.json").read_text()) == IDENTITY


def test_answers_are_on_disk_as_they_come_and_in_the_rows_order_at_the_end(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, IDENTITY)
    with folder.adding("deu_Latn", DIGESTS) as file:
        assert file.missing == ["17", "4", "9"]
        for count, name in enumerate(("9", "17", "4"), 1):
            file.add(answer(name))
            assert names(folder.path("deu_Latn")) == ["9", "17", "4"][:count]
        assert file.missing == []
    assert names(folder.path("deu_Latn")) == ["17", "4", "9"]
    assert file.in_order() == [answer(name) for name in DIGESTS]


def test_languages_do_not_mix(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, IDENTITY)
    with folder.adding("deu_Latn", DIGESTS) as file:
        file.add(answer("9"))
    with folder.adding("swh_Latn", DIGESTS) as file:
        assert file.missing == ["17", "4", "9"]


# ---- going on ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_finished_rows_are_kept_and_a_cut_line_is_dropped(tmp_path: Path, cut: int) -> None:
    """As far as a kill may have come in the second line: to its beginning, into it."""
    path = AnswerFolder(tmp_path, IDENTITY).path("deu_Latn")
    path.write_bytes((answer("9").line() + answer("4").line()[:cut]).encode())
    with AnswerFolder(tmp_path, IDENTITY).adding("deu_Latn", DIGESTS) as file:
        assert file.missing == ["17", "4"]
        file.add(answer("4", text="anew"))
        assert path.read_text(encoding="utf-8") == answer("9").line() + answer("4", text="anew").line()
    assert file.answers == {"9": answer("9"), "4": answer("4", text="anew")}


def test_a_file_that_was_cut_in_its_first_line_is_empty(tmp_path: Path) -> None:
    path = AnswerFolder(tmp_path, IDENTITY).path("deu_Latn")
    path.write_bytes(answer("9").line().encode()[:-1])
    with AnswerFolder(tmp_path, IDENTITY).adding("deu_Latn", DIGESTS) as file:
        assert file.missing == list(DIGESTS)
    assert path.read_bytes() == b""


def test_more_rows_may_be_asked_for_later_and_fewer_may_not(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, IDENTITY)
    with folder.adding("deu_Latn", {"17": "aa"}) as file:
        file.add(answer("17"))
    with folder.adding("deu_Latn", DIGESTS) as file:
        assert file.missing == ["4", "9"]
        file.add(answer("4"))
    before = folder.path("deu_Latn").read_bytes()
    with (
        pytest.raises(AlignError, match="answers row 4, which is not asked for"),
        folder.adding("deu_Latn", {"17": "aa"}),
    ):
        pass
    assert folder.path("deu_Latn").read_bytes() == before


def test_answers_to_another_prompt_are_refused(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, IDENTITY)
    with folder.adding("deu_Latn", DIGESTS) as file:
        file.add(answer("4"))
    with (
        pytest.raises(AlignError, match=r"another prompt of row 4 .digest bb, now dd."),
        folder.adding("deu_Latn", {**DIGESTS, "4": "dd"}),
    ):
        pass


def test_answers_of_another_model_are_refused(tmp_path: Path) -> None:
    AnswerFolder(tmp_path, IDENTITY)
    other = {**IDENTITY, "model": {"name": "tiny", "weights": "1"}, "max_new_tokens": 9}
    with pytest.raises(AlignError, match=r"another model.weights .0, now 1., max_new_tokens .8, now 9.") as caught:
        AnswerFolder(tmp_path, other)
    assert "\n" not in str(caught.value)
    (tmp_path / "generation.json").unlink()
    (tmp_path / "deu_Latn.jsonl").write_text("")
    with pytest.raises(AlignError, match=r"holds deu_Latn\.jsonl and no generation\.json"):
        AnswerFolder(tmp_path, IDENTITY)


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, IDENTITY)
    for line in ("{", "[]", '{"id": "4"}', '{"tokens": [], "extra": 1}'):
        folder.path("deu_Latn").write_text(answer("9").line() + line + "\n", encoding="utf-8")
        with (
            pytest.raises(AlignError, match=r"deu_Latn\.jsonl line 2 is no answer"),
            folder.adding("deu_Latn", DIGESTS),
        ):
            pass


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    folder = AnswerFolder(tmp_path, IDENTITY)
    with (
        folder.adding("deu_Latn", DIGESTS) as file,
        pytest.raises(AlignError, match="is being written by another process"),
        AnswerFolder(tmp_path, IDENTITY).adding("deu_Latn", DIGESTS),
    ):
        pass
    assert file.missing == list(DIGESTS)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AlignError, match="cannot be written"):
        AnswerFolder(tmp_path / "file" / "out", IDENTITY)


def answer_texts(out: Path, pause: float = 0.0) -> int:
    """Generate what is missing, slowly; how many rows that was."""
    source = open_model("builtin:tiny")
    model, loaded = load_causal(source, torch.float32, torch.device("cpu"))
    texts = ["a" * (n % 7) + chr(65 + n) for n in range(24)]
    prompts = encode_prompts(source.tokenizer, [[Message("user", text)] for text in texts], texts)
    digests = {str(n): prompt.digest for n, prompt in enumerate(prompts)}
    with AnswerFolder(out, {"model": dict(source.identity)}).adding("eng_Latn", digests) as file:
        todo = [int(name) for name in file.missing]
        stops = stop_tokens(model, source.tokenizer)
        for said in generate(model, loaded, [prompts[n].ids for n in todo], max_new_tokens=6, stop_ids=stops, batch=4):
            n = todo[said.index]
            ids, digest = said.ids, digests[str(n)]
            file.add(Answer(str(n), "eng_Latn", digest, said.text, None, ids, said.stopped, said.near_tie))
            time.sleep(pause)
        return len(todo)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    """A real process, killed in the middle of its generation; what it had is not generated again."""

    def written(out: str) -> bytes:
        path = tmp_path / out / "eng_Latn.jsonl"
        return path.read_bytes() if path.exists() else b""

    script = "import sys, pathlib, test_align_answers as own; own.answer_texts(pathlib.Path(sys.argv[1]), 0.5)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")], env=environment) as process:
        deadline = time.monotonic() + 240
        while written("killed").count(b"\n") < 7 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    kept = written("killed").count(b"\n")
    assert 7 <= kept < 24
    assert answer_texts(tmp_path / "killed") == 24 - kept
    assert answer_texts(tmp_path / "whole") == 24
    assert written("killed") == written("whole")


# ---- predictions that exist already --------------------------------------------------------------------------


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_plain_text_is_a_line_a_row(tmp_path: Path) -> None:
    """Split at line feeds only; an empty line is an empty answer."""
    lines = ["time: five am", "", "a\u2028b\x0cc\x85", '{"Results": []}']
    rows = [row(str(n)) for n in range(4)]
    assert read_predictions(write(tmp_path / "out.txt", lines), rows) == tuple(lines)
    (tmp_path / "no-end").write_text("\ufeffa\nb", encoding="utf-8")
    assert read_predictions(tmp_path / "no-end", rows[:2]) == ("a", "b")


def test_a_task_whose_answers_are_json_is_plain_text_too(tmp_path: Path) -> None:
    lines = ['{"Results": [], "id": 3}', "{}"]
    assert read_predictions(write(tmp_path / "out.txt", lines), [row("1"), row("2")]) == tuple(lines)


@pytest.mark.parametrize(("lines", "count"), [([], 0), (["a"], 1), (["a", "b", ""], 3)])
def test_another_number_of_lines_is_refused(tmp_path: Path, lines: list[str], count: int) -> None:
    with pytest.raises(AlignError, match=f"{count} predictions for 2 rows"):
        read_predictions(write(tmp_path / "out.txt", lines), [row("1"), row("2")])


def test_our_own_file_is_joined_by_id(tmp_path: Path) -> None:
    """In any order, with line breaks inside, and with more rows than are scored."""
    path = write(tmp_path / "out.jsonl", [answer(name, text=f"to {name}\n!").line()[:-1] for name in ("9", "17", "4")])
    assert read_predictions(path, [row("4"), row("9")]) == ("to 4\n!", "to 9\n!")


def test_one_file_of_several_languages_is_joined_by_language_too(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": name, "language": language, "text": f"{language} {name}"})
        for name in ("1", "2")
        for language in ("deu_Latn", "swh_Latn")
    ]
    rows = [row("2", "swh_Latn"), row("1", "deu_Latn"), row("1", "swh_Latn")]
    said = ("swh_Latn 2", "deu_Latn 1", "swh_Latn 1")
    assert read_predictions(write(tmp_path / "out.jsonl", lines), rows) == said


def test_ids_may_be_numbers_and_the_language_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "out.jsonl", ['{"id": 2, "text": "two"}', '{"id": 1, "text": "one"}'])
    assert read_predictions(path, [row("1"), row("2")]) == ("one", "two")
    with pytest.raises(AlignError, match="names no language of row 1"):
        read_predictions(path, [row("1"), row("2", "swh_Latn")])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": 1, "text": "a"}'], "has no prediction of 1 of 2 rows, first deu_Latn 2"),
        (['{"id": 1, "text": "a"}', '{"id": "1", "text": "b"}'], "line 2 answers row 1 again"),
        (['{"id": 1, "text": "a"}', "b"], "line 2 is no prediction"),
        (['{"id": 1, "text": "a"}', '{"id": 2, "text": null}'], "line 2 is no prediction"),
        (['{"id": 1, "text": "a"}', '{"text": "b"}'], "line 2 is no prediction"),
    ],
)
def test_rows_without_a_line_and_lines_without_a_row_are_refused(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(AlignError, match=message) as caught:
        read_predictions(write(tmp_path / "out.jsonl", lines), [row("1"), row("2")])
    assert "\n" not in str(caught.value)


def test_a_folder_has_a_file_a_language(tmp_path: Path) -> None:
    write(tmp_path / "deu_Latn.txt", ["d1", "d2"])
    write(tmp_path / "swh_Latn.jsonl", ['{"id": 2, "text": "s2"}', '{"id": 1, "text": "s1"}'])
    rows = [row("1"), row("1", "swh_Latn"), row("2"), row("2", "swh_Latn")]
    assert read_predictions(tmp_path, rows) == ("d1", "s1", "d2", "s2")
    with pytest.raises(AlignError, match="holds 0 files of fra_Latn"):
        read_predictions(tmp_path, [row("1", "fra_Latn")])
    write(tmp_path / "deu_Latn.jsonl", [])
    with pytest.raises(AlignError, match="holds 2 files of deu_Latn"):
        read_predictions(tmp_path, rows)


def test_what_an_earlier_run_wrote_can_be_scored_anew(tmp_path: Path) -> None:
    with AnswerFolder(tmp_path, IDENTITY).adding("deu_Latn", DIGESTS) as file:
        for name in DIGESTS:
            file.add(answer(name, text=f"to {name}"))
    assert read_predictions(tmp_path, [row(name) for name in ("4", "17")]) == ("to 4", "to 17")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AlignError, match=r"cannot be read .No such file"):
        read_predictions(tmp_path / "none.txt", [row("1")])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(AlignError, match=r"not valid UTF-8 .byte 3."):
        read_predictions(tmp_path / "latin.txt", [row("1")])
