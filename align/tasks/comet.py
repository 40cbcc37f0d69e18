"""COMET through the Python of another environment: its package wants a transformers that cannot live beside ours.

The other side is `comet_worker.py`, which says what the two tell each other.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from probe.errors import AlignError

_WORKER = Path(__file__).with_name("comet_worker.py")
_INSTALL = (
    "make one with python -m venv DIR and DIR/bin/pip install unbabel-comet 'setuptools<82', then give DIR/bin/python"
)
_OURS = ("PYTHONPATH", "PYTHONHOME")
"""What belongs to this Python and would lead the other one astray."""


class Triple(NamedTuple):
    """What COMET judges."""

    src: str
    mt: str
    ref: str


@dataclass(frozen=True)
class Judged:
    """COMET's answer on one set of translations."""

    scores: tuple[float, ...]
    """A number a translation, mostly between 0 and 1."""
    signature: str
    """Model, its revision where it is known, and the versions of COMET and torch."""


@dataclass(frozen=True)
class Comet:
    """COMET in an environment of its own.

    An empty translation is worth 0 and never shown to the model, which gives it a good deal more (Zouhar et al. 2024,
    "Pitfalls and Outlooks in Using COMET").
    """

    python: Path
    """The interpreter that has the package unbabel-comet."""
    model: str = "Unbabel/wmt22-comet-da"
    """Name on the hub, or the path of a checkpoint. The default is COMET-22."""
    batch_size: int = 16

    def check(self) -> None:
        """Start the interpreter, have it import COMET, and end it: seconds, where a model of ours generates for hours.

        The model is neither looked for nor loaded.

        Raises:
            AlignError: the path is no Python, or has no COMET of version 2 or later that can be imported.
        """
        with _worker(self.python):
            pass

    def judge(self, sets: Sequence[Sequence[Triple]]) -> list[Judged]:
        """Score sets of translations; the model is loaded once for all of them.

        Raises:
            AlignError: the path is no Python or has no COMET; it lacks the model; it dies; its answer is none, of another
                length or not finite.
        """
        with _worker(self.python) as worker:
            return [self._judge(worker, triples) for triples in sets]

    def _judge(self, worker: _Worker, triples: Sequence[Triple]) -> Judged:
        shown = [row for row, triple in enumerate(triples) if triple.mt.strip()]
        scores = [0.0] * len(triples)
        signature = f"model:{self.model}|comet:{worker.versions['comet']}|torch:{worker.versions['torch']}"
        if shown:
            asked = [triples[row]._asdict() for row in shown]
            said = worker.ask({"model": self.model, "batch_size": self.batch_size, "triples": asked})
            if "error" in said:
                raise AlignError(
                    f"COMET could not score with {self.model} ({said['error']})",
                    "a model on this machine, or a hub that can be reached",
                    "fetch it there with comet.download_model, or give the path of a checkpoint as model",
                )
            for row, score in zip(shown, worker.checked(said, len(shown)), strict=True):
                scores[row] = score
            if said.get("revision"):
                signature = signature.replace("|comet:", f"|revision:{said['revision']}|comet:")
        return Judged(tuple(scores), signature)


class _Worker:
    """The process, and what it said of itself."""

    def __init__(self, python: Path, process: subprocess.Popen[bytes], log: _Log) -> None:
        self._python, self._process, self._log = python, process, log
        self.versions = self._answer()
        if "error" in self.versions:
            raise AlignError(f"{python} has no COMET ({self.versions['error']})", "an environment with it", _INSTALL)
        version = str(self.versions.get("comet", ""))
        if "torch" not in self.versions or not version[:1].isdigit():
            raise self._nonsense(json.dumps(self.versions))
        if int(version.split(".")[0]) < 2:
            raise AlignError(
                f"{python} has COMET {version}",
                "2 or later: older ones give other scores with the same model",
                "run pip install --upgrade unbabel-comet there",
            )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with suppress(OSError):  # it is no more: the missing answer tells what it said last
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer()

    def checked(self, said: Mapping[str, Any], count: int) -> list[float]:
        scores: Any = said.get("scores")
        system: Any = said.get("system")
        if not isinstance(scores, list) or not all(_is_finite(score) for score in (*scores, system)):
            raise self._nonsense(json.dumps(said))
        if len(scores) != count:
            raise AlignError(
                f"COMET gave {len(scores)} scores for {count} translations", "one for each", "check that environment"
            )
        if abs(sum(scores) / count - system) > 1e-4:
            raise AlignError(
                f"COMET gave {system} as the mean of scores whose mean is {sum(scores) / count}",
                "that",
                "check that environment",
            )
        return [float(score) for score in scores]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline(1 << 28)
        if not line:
            code = self._process.wait()
            raise AlignError(
                f"{self._python} ended with {code} before it answered ({self._log.last()})",
                "the Python of an environment with COMET",
                _INSTALL,
            )
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise self._nonsense(line.decode(errors="replace"))
        return said

    def _nonsense(self, said: str) -> AlignError:
        return AlignError(f"{self._python} answered {' '.join(said.split())[:80]!r}", "COMET's answer", _INSTALL)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


class _Log:
    """Passes stderr on to ours where that is a terminal, and keeps its end for the message of a death."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._end = b""
        self._thread = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._thread.start()

    def _read(self, stream: Any) -> None:
        with suppress(OSError, ValueError):  # closed, where a child of the process still holds the other end
            while piece := os.read(stream.fileno(), 1 << 16):
                self._end = (self._end + piece)[-4096:]
                if sys.stderr.isatty():
                    sys.stderr.write(piece.decode(errors="replace"))
                    sys.stderr.flush()

    def last(self) -> str:
        """Its last line, once the process has ended."""
        self._thread.join(timeout=5)
        lines = re.split(r"[\r\n]", self._end.decode(errors="replace"))
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")[-200:]


@contextmanager
def _worker(python: Path) -> Iterator[_Worker]:
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen([python, _WORKER], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)  # noqa: S603 (the user's own program)
    except OSError as error:
        raise AlignError(
            f"{python} cannot be run ({error.strerror})", "the Python of an environment with COMET", _INSTALL
        ) from None
    with process:
        log = _Log(process)
        try:
            yield _Worker(python, process, log)
        finally:
            process.kill()
            log.last()
            with suppress(OSError):  # a request that was not taken any more
                process.stdin.close()  # type: ignore[union-attr]
