"""The layers that an interrupted retrieval has finished, kept until the result is whole."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.errors import RetrievalError
from probe.results import Cells, RetrievalResult, writing
from probe.store import layer_name, write_json


def finished_result(folder: Path, asked: Mapping[str, Any]) -> RetrievalResult | None:
    """The result that a folder holds, if it is what is asked for; None where there is none.

    Args:
        asked: the settings, with `languages`, `layers` (names, controls too) and `predictions`.

    Raises:
        RetrievalError: a result made with other settings.
    """
    if not (folder / "summary.json").exists():
        return None
    result = RetrievalResult.load(folder)
    held = {
        "centre": False,  # of results from before it could be asked for
        **result.settings,
        "languages": list(result.languages),
        "layers": [*map(layer_name, result.layers), *result.controls],
        "predictions": (folder / "predictions.h5").exists(),
    }
    for name, value in json.loads(json.dumps(asked)).items():
        if held.get(name) != value:
            raise RetrievalError(
                f"{folder} holds a finished result with {name} = {held.get(name)}, this run has {value}",
                "the same settings",
                "give another --out, or --overwrite",
            )
    return result


@dataclass(frozen=True)
class PartialResult:
    """The finished layers of an interrupted run, in `RESULT/partial/`, and the settings they were computed with."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any], overwrite: bool) -> PartialResult:
        own, wanted = cls(folder), json.loads(json.dumps(settings))  # as it reads back: tuples are lists
        if folder.is_dir() and any(folder.iterdir()) and not own._started():
            raise RetrievalError(
                f"{folder} is not empty and no result", "a new folder or a result", "give another --out"
            )
        with writing(folder):
            if overwrite or own._settings() != wanted:
                own.remove()
            own._path("settings.json").parent.mkdir(parents=True, exist_ok=True)
            write_json(own._path("settings.json"), wanted)
            (folder / "summary.json").unlink(missing_ok=True)  # last: a kill before leaves the old result whole
        return own

    def _path(self, name: str) -> Path:
        return self.folder / "partial" / name

    def _started(self) -> bool:
        """Whether a retrieval, finished or killed at any point, has left this folder."""
        if (self.folder / "summary.json").exists():
            return True
        partial = self._path("settings.json").parent
        return partial.is_dir() and all(
            path.suffix == ".npz" or path.name.startswith("settings.json") for path in partial.iterdir()
        )

    def _settings(self) -> Any:
        """What the finished layers were computed with; None where a kill came before it was written."""
        try:
            return json.loads(self._path("settings.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def get(self, name: str, compute: Callable[[str], Cells]) -> Cells:
        """The layer as finished before, else computed and kept."""
        path = self._path(f"{name}.npz")
        if (kept := self._finished(path)) is not None:
            return kept
        cells = compute(name)
        arrays: dict[str, Any] = {"hits": cells.hits, "mexa": cells.mexa, "nonpositive": cells.nonpositive}
        if cells.predictions is not None:
            arrays["predictions"] = cells.predictions
        unfinished = path.with_name(f"{name}.writing.npz")
        with writing(self.folder):
            np.savez(unfinished, **arrays)
            unfinished.replace(path)
        return cells

    @staticmethod
    def _finished(path: Path) -> Cells | None:
        """A layer as kept; None where it is not there, or was cut short when the machine went down."""
        try:
            with np.load(path) as saved:
                return Cells(saved["hits"], saved["mexa"], int(saved["nonpositive"]), saved.get("predictions"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def remove(self) -> None:
        shutil.rmtree(self.folder / "partial", ignore_errors=True)
