"""The files of a training run: what it was asked for, its log, its checkpoint, and how it ended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from align.adapter import writing
from align.recipe import differences
from probe.errors import AlignError
from probe.store import write_json

Note = dict[str, Any]
"""A line of the log: an update or an evaluation, with the number of the update."""

_RECIPE, _LOG, _ENDED = "recipe.json", "log.jsonl", "training.json"
_FILES = (_RECIPE, _LOG, _ENDED, "adapter_config.json", "adapter_model.safetensors", "README.md")


@dataclass(frozen=True)
class TrainResult:
    """What a run ended with."""

    adapter: Path
    """The folder, with the adapter of the best evaluation."""
    layers: tuple[int, ...]
    updates: int
    best_update: int
    development: dict[str, float]
    """Losses of the best evaluation, in nats: `align`, `task`, and `loss`, their sum."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands between two updates."""

    update: int = 0
    """Updates done."""
    best: dict[str, float] | None = None
    """Losses of the best evaluation."""
    best_update: int = 0
    worse: int = 0
    """Evaluations since the best."""

    @property
    def is_best(self) -> bool:
        """Whether the last evaluation was the best."""
        return self.best_update == self.update > 0

    def after_update(self) -> Standing:
        return replace(self, update=self.update + 1)

    def after_evaluation(self, losses: dict[str, float]) -> Standing:
        if self.best is None or losses["loss"] < self.best["loss"]:
            return Standing(self.update, losses, self.update, 0)
        return replace(self, worse=self.worse + 1)


class RunFolder:
    """The folder of a run. Every rank reads it, and only the main process writes.

    Raises:
        AlignError: a folder that cannot be written.
    """

    def __init__(self, folder: Path, writes: bool) -> None:
        self.folder, self.writes = folder, writes
        self.checkpoint = folder / "checkpoint"
        self._before = folder / "checkpoint.old"
        if writes and self._before.is_dir() and not self.checkpoint.exists():  # killed between two renames
            self._before.rename(self.checkpoint)

    def finished(self, identity: Mapping[str, Any]) -> TrainResult | None:
        """The result of a run that ended before; None where one is to be begun, or gone on with.

        Args:
            identity: what a run may not change when it goes on, as JSON values.

        Raises:
            AlignError: a run of another recipe, model or data, or files that no run has written.
        """
        held = self._read(_RECIPE)
        if held is None:
            foreign = [name for name in (*_FILES, "checkpoint") if (self.folder / name).exists()]
            if foreign:
                raise AlignError(
                    f"{self.folder} holds {foreign[0]} and no {_RECIPE}",
                    "a new folder, or that of a run",
                    "give another --out, or --overwrite to lose what is there",
                )
            return None
        if changed := differences(held, identity):
            raise AlignError(
                f"{self.folder} holds a run with another {', '.join(changed)[:300]}",
                "the same recipe, model, data and number of processes",
                "give them, another --out, or --overwrite to begin anew",
            )
        if (ended := self._read(_ENDED)) is None:
            return None
        return TrainResult(
            self.folder, tuple(held["layers"]), ended["updates"], ended["best_update"], ended["development"]
        )

    def _read(self, name: str) -> Any:
        """A file that is written whole or not at all; None where it is absent."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def start(self, identity: Mapping[str, Any], overwrite: bool) -> None:
        """Remove what an earlier run left where asked to, and nothing else; say whose folder this is."""
        if not self.writes:
            return
        with writing(self.folder):
            if overwrite:
                for path in (self.checkpoint, self._before):
                    shutil.rmtree(path, ignore_errors=True)
                for name in reversed(_FILES):  # what says whose folder it is goes last
                    (self.folder / name).unlink(missing_ok=True)
            write_json(self.folder / _RECIPE, identity)

    def cut_log(self, update: int) -> None:
        """Drop what was noted after the checkpoint, which will be noted again; of a run without one, all."""
        path = self.folder / _LOG
        if not self.writes or not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines() if update else ():
            try:
                if json.loads(line)["update"] > update:
                    break
            except ValueError:  # killed while it was written
                break
            kept.append(line + "\n")
        with writing(self.folder):
            partial = path.with_name(f".{_LOG}.partial")
            partial.write_text("".join(kept), encoding="utf-8")
            os.replace(partial, path)

    def log(self, note: Note) -> None:
        """Add a line."""
        if self.writes:
            with writing(self.folder), (self.folder / _LOG).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(note) + "\n")

    @contextmanager
    def new_checkpoint(self, wait: Callable[[], None]) -> Iterator[Path]:
        """A folder to which all ranks write inside, and which is the checkpoint afterwards: whole, or the one before stays.

        Args:
            wait: for all ranks.
        """
        partial = self.folder / "checkpoint.partial"
        with writing(self.folder):
            if self.writes:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
            wait()
            yield partial
            wait()
            if self.writes:
                shutil.rmtree(self._before, ignore_errors=True)
                if self.checkpoint.exists():
                    self.checkpoint.rename(self._before)
                partial.rename(self.checkpoint)
                shutil.rmtree(self._before, ignore_errors=True)
        wait()

    def finish(self, result: TrainResult, facts: Mapping[str, Any]) -> None:
        """Say that the run has ended, and how. Write all else before."""
        if self.writes:
            with writing(self.folder):
                ended = {name: getattr(result, name) for name in ("updates", "best_update", "development")}
                write_json(self.folder / _ENDED, {**ended, **facts})


def refuse_unwritable(folder: Path) -> None:
    """Make the folder where it is absent.

    Raises:
        AlignError: it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no permission")


def aligned_blocks(folder: Path) -> tuple[int, ...]:
    """The blocks that the run of an adapter aligned; none where the folder is not a run's, or it trained a task alone."""
    path = folder / _RECIPE
    return tuple(json.loads(path.read_text(encoding="utf-8"))["layers"]) if path.is_file() else ()
