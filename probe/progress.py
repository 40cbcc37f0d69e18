"""What a person sees of long work: bars on a terminal, a line a language in a log file. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ExtractionProgress:
    """Sentences, tokens a second and the time left; implements `probe.extract.Observer`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("extract"),
            BarColumn(),
            TextColumn("{task.fields[sentences]} sentences"),
            TextColumn("{task.fields[rate]} tok/s"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task: TaskID | None = None
        self._sentences, self._total, self._tokens, self._languages, self._done = 0, 0, 0, 0, 0
        self._begin = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start(self, sentences: int, tokens: int, languages: int) -> None:
        self._total, self._languages, self._begin = sentences, languages, time.monotonic()
        # Time goes with tokens, not with sentences.
        self._task = self._bar.add_task("extract", total=tokens, sentences=f"0/{sentences}", rate="-")

    def advance(self, sentences: int, tokens: int) -> None:
        self._sentences += sentences
        self._tokens += tokens
        if self._task is not None:
            self._bar.update(
                self._task, advance=tokens, sentences=f"{self._sentences}/{self._total}", rate=f"{self._rate():,.0f}"
            )

    def _rate(self) -> float:
        return self._tokens / max(time.monotonic() - self._begin, 1e-9)

    def finished(self, code: str, sentences: int, tokens: int) -> None:
        self._done += 1
        if not self._console.is_terminal:
            left = (time.monotonic() - self._begin) / self._done * (self._languages - self._done)
            self._console.print(
                f"{code} {self._done}/{self._languages}: {sentences} sentences, {tokens} tokens, {self._rate():,.0f} tok/s, {left:.0f} s left",
                soft_wrap=True,
            )

    def note(self, message: str) -> None:
        self._console.print(message, soft_wrap=True)


class RetrievalProgress:
    """Language pairs done of the layer at hand; usable as the `advance` of `probe.retrieve.retrieve_all`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("layer {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pairs"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, layer: str, done: int, total: int) -> None:
        if layer not in self._tasks:
            self._tasks[layer] = self._bar.add_task(layer, total=total)
        self._bar.update(self._tasks[layer], completed=done)


class TrainingProgress:
    """Updates done, the losses of the last one and of the last evaluation; usable as `observe` of `align.train.train`."""

    def __init__(self, updates: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("updates, {task.fields[losses]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("train", total=updates, losses="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, note: Mapping[str, Any]) -> None:
        if "rows" in note:
            self._console.print(
                f"{_rows(note['rows'])}; {note['trainable_parameters']:,} trainable parameters", soft_wrap=True
            )
        elif "development" in note:
            best = ", the best so far" if note["best"] else ""
            self._console.print(
                f"update {note['update']}: development {_losses(note['development'])}{best}", soft_wrap=True
            )
        else:
            self._bar.update(self._task, completed=note["update"], losses=_losses(note))


class GenerationProgress:
    """A bar a language; usable as `observe` of `align.evaluate.answer_rows`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, language: str, done: int, total: int) -> None:
        if language not in self._tasks:
            self._tasks[language] = self._bar.add_task(language, total=total)
        self._bar.update(self._tasks[language], completed=done)
        if done == total:
            self.note(f"{language}: {total} rows answered")

    def note(self, message: str) -> None:
        """Tell a sentence."""
        self._console.print(message, soft_wrap=True)


def _rows(counts: Mapping[str, Any]) -> str:
    """What is trained on, and how much the filters took."""
    told = []
    if pairs := counts.get("pairs"):
        each = ", ".join(f"{part['pair']} {part['train']}" for part in pairs["split"])
        dropped = sum(part["before"] - part["after"] for part in pairs["filters"])
        held_out = sum(part["development"] for part in pairs["split"])
        evaluated = sum(part["held_out"] for part in pairs["filters"])
        told.append(
            f"pairs to train on: {each}; {held_out} for development, {dropped} dropped by the filters, {evaluated} of "
            "them for a sentence of flores200"
        )
    if task := counts.get("task"):
        told.append(f"task examples: {task['train']} to train on, {task['development']} for development")
        if overlap := task.get("overlap"):
            told.append(overlap["note"])
    return "; ".join(told)


def _losses(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {values[name]:.3f}" for name in ("task", "align") if name in values)
