"""Generations on disk: a jsonl a language, a line a row, written as rows end, so that a killed run goes on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from align.adapter import writing
from align.recipe import differences
from align.tasks.task import TaskRow, refuse_other_length
from probe.errors import AlignError
from probe.store import write_json

_IDENTITY = "generation.json"


@dataclass(frozen=True)
class Answer:
    """A line: what a model said to a row."""

    id: str
    """Of the row, the same in every language."""
    language: str
    """FLORES-200 code, or a direction of translation."""
    prompt_digest: str
    """See `align.examples.Prompt`."""
    text: str
    """Without special tokens, as generated."""
    parsed: Any
    """What the task reads in it, as JSON values."""
    tokens: tuple[int, ...]
    stopped: Literal["end", "length", "context"]
    near_tie: bool
    """See `align.generate.Generated`."""

    def line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


class AnswerFolder:
    """The answers of one model to one task: `generation.json`, which says whose they are, and `<language>.jsonl`.

    Args:
        identity: what decides the answers, as JSON values: model, adapter, task, prompts, stop tokens, dtype, ...

    Raises:
        AlignError: answers of another identity, files that no run has written, a folder that cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        held = folder / _IDENTITY
        if held.is_file():
            if changed := differences(json.loads(held.read_text(encoding="utf-8")), dict(identity)):
                raise AlignError(
                    f"{folder} holds answers with another {', '.join(changed)[:300]}",
                    "the same model, adapter, task and settings",
                    "give them, or another --out",
                )
            return
        if foreign := sorted(folder.glob("*.jsonl")):
            raise AlignError(
                f"{folder} holds {foreign[0].name} and no {_IDENTITY}",
                "a new folder, or that of a run",
                "give another --out",
            )
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(held, dict(identity))

    def path(self, language: str) -> Path:
        return self.folder / f"{language}.jsonl"

    @contextlib.contextmanager
    def adding(self, language: str, digests: Mapping[str, str]) -> Iterator[AnswerFile]:
        """The file of a language, open to be added to inside; afterwards, where every row is answered, in the rows' order.

        Args:
            digests: the id of each row that is to be answered -> digest of its prompt.

        Raises:
            AlignError: answers to other prompts or other rows, a damaged line, another process that writes this file, no
                room or permission.
        """
        with writing(self.folder):
            opened = self.path(language).open("a+b")
        with opened as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlignError(
                    f"{self.path(language)} is being written by another process", "one at a time", "wait for it"
                ) from None
            file = AnswerFile(self.path(language), stream, digests)
            yield file
            if not file.missing:
                file.put_in_order()


class AnswerFile:
    """The answers in one language, kept from before and new ones."""

    def __init__(self, path: Path, stream: Any, digests: Mapping[str, str]) -> None:
        self.path, self._stream, self._digests = path, stream, digests
        self.answers = self._kept()

    @property
    def missing(self) -> list[str]:
        """Ids of the rows without an answer, in their order."""
        return [name for name in self._digests if name not in self.answers]

    def add(self, answer: Answer) -> None:
        """Write an answer. A run that is killed afterwards keeps it."""
        with writing(self.path.parent):
            self._stream.write(answer.line().encode())
            self._stream.flush()
        self.answers[answer.id] = answer

    def in_order(self) -> list[Answer]:
        """The answers of the rows, which all have one."""
        return [self.answers[name] for name in self._digests]

    def put_in_order(self) -> None:
        """Write the file anew in the rows' order, whole or not at all."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        with writing(self.path.parent):
            partial.write_text("".join(answer.line() for answer in self.in_order()), encoding="utf-8")
            os.replace(partial, self.path)

    def _kept(self) -> dict[str, Answer]:
        """What an earlier run has written; a last line that it was killed in is cut off the file."""
        self._stream.seek(0)
        whole, _, cut = self._stream.read().rpartition(b"\n")
        if cut:
            self._stream.truncate(len(whole) + 1 if whole else 0)
        kept: dict[str, Answer] = {}
        for number, line in enumerate(whole.split(b"\n") if whole else (), 1):
            answer = _answer(line, f"{self.path.name} line {number}")
            if answer.id not in self._digests:
                raise AlignError(
                    f"{self.path} answers row {answer.id}, which is not asked for",
                    "answers of these rows",
                    "give the --split and --limit of that run (a larger limit will do), or another --out",
                )
            if answer.prompt_digest != self._digests[answer.id]:
                raise AlignError(
                    f"{self.path} answers another prompt of row {answer.id} (digest {answer.prompt_digest}, now "
                    f"{self._digests[answer.id]})",
                    "the same data and prompts",
                    "give them, or another --out",
                )
            kept[answer.id] = answer
        return kept


def _answer(line: bytes, where: str) -> Answer:
    try:
        fields = json.loads(line)
        return Answer(**{**fields, "tokens": tuple(fields["tokens"])})
    except (ValueError, TypeError, KeyError):
        raise AlignError(f"{where} is no answer", "a JSON object as Answer has it", "remove the file") from None


def read_predictions(path: Path, rows: Sequence[TaskRow]) -> tuple[str, ...]:
    """Raw generations that exist already, in the order of `rows`.

    A folder holds a file a language, `<language>.jsonl` or `<language>.txt`. A file whose first line is an object with `id`
    and `text` is jsonl: its lines are joined to the rows by `id`, and `language` where they have one, so that it may hold
    more rows. Any other file is plain text, a line a row, split at line feeds only.

    Raises:
        AlignError: a file that cannot be read, another number of lines than rows (both are told), rows without a line or
            with two.
    """
    if not Path(path).is_dir():
        return _predictions(Path(path), rows)
    found: dict[str, Iterator[str]] = {}
    for language in dict.fromkeys(row.language for row in rows):
        files = [file for ending in ("jsonl", "txt") if (file := Path(path) / f"{language}.{ending}").is_file()]
        if len(files) != 1:
            raise AlignError(
                f"{path} holds {len(files)} files of {language}",
                f"one, {language}.jsonl or {language}.txt",
                "name the files by language code, or ask for other --langs",
            )
        found[language] = iter(_predictions(files[0], [row for row in rows if row.language == language]))
    return tuple(next(found[row.language]) for row in rows)


def _predictions(path: Path, rows: Sequence[TaskRow]) -> tuple[str, ...]:
    lines = _lines(path)
    first = _object(lines[0]) if lines else None
    if first is not None and {"id", "text"} <= first.keys():
        return _joined(path, lines, rows)
    refuse_other_length(rows, lines)
    return tuple(lines)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AlignError(f"{path} is not valid UTF-8 (byte {error.start})", "UTF-8 text", "convert the file") from None
    except OSError as error:
        raise AlignError(
            f"{path} cannot be read ({error.strerror})", "a file of predictions", "check the path"
        ) from None
    return text.removesuffix("\n").split("\n") if text else []


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _joined(path: Path, lines: Sequence[str], rows: Sequence[TaskRow]) -> tuple[str, ...]:
    told: dict[tuple[str | None, str], str] = {}
    for number, line in enumerate(lines, 1):
        value = _object(line)
        if value is None or not isinstance(value.get("text"), str) or "id" not in value:
            raise AlignError(f"{path.name} line {number} is no prediction", "an object with id and text", "mend it")
        key = (value.get("language"), str(value["id"]))
        if key in told:
            raise AlignError(f"{path.name} line {number} answers row {key[1]} again", "each row once", "leave one out")
        told[key] = value["text"]
    without = {name for language, name in told if language is None}
    if without and len({row.language for row in rows}) > 1:
        raise AlignError(
            f"{path.name} names no language of row {min(without)}",
            "language in every line where several are scored",
            "add it, or score one language at a time",
        )
    keys = [(None if row.id in without else row.language, row.id) for row in rows]
    if absent := [key for key in keys if key not in told]:
        raise AlignError(
            f"{path.name} has no prediction of {len(absent)} of {len(rows)} rows, first {rows[keys.index(absent[0])].language} "
            f"{absent[0][1]}",
            "one of each",
            "give the predictions of the same split and languages, or a smaller --limit",
        )
    return tuple(told[key] for key in keys)
