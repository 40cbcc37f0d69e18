"""What a task is: rows with their prompts, an answer parsed, answers scored. Nothing here knows a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from align.examples import Message
from probe.errors import AlignError


@dataclass(frozen=True)
class TaskRow:
    """One thing to be answered."""

    id: str
    """The same in every language of the task: bootstrap draws rows by it."""
    language: str
    """FLORES-200 code; of translation the direction, `ces_Latn-eng_Latn`."""
    prompt: tuple[Message, ...]
    """The turns before the answer."""
    target: str
    """The right answer, written as the model is taught to."""
    gold: Any = field(repr=False)
    """What the scorer compares with; the task's own."""


@dataclass(frozen=True)
class Score:
    """A metric of a language, or of a group of languages."""

    language: str
    """FLORES-200 code or direction; of a mean its name in parentheses, `(mean)`."""
    metric: str
    value: float
    """Percent."""
    low: float | None = None
    high: float | None = None
    """Percentile interval of 95 %, in percent; None where none is drawn."""


@dataclass(frozen=True)
class Scored:
    """What answers are worth."""

    scores: tuple[Score, ...]
    """Every language in its order, the task's main metric first; then the means."""
    counts: Mapping[str, Mapping[str, int]]
    """Language -> what was counted: rows, ill-formed answers, ..."""
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """JSON values: F1 of each type, signatures."""
    notes: tuple[str, ...] = ()
    """Sentences for people: known defects of the data, what a metric does."""


class Task(Protocol):
    """A task. Its instances hold its options (prompt style, metrics), so that these methods need none.

    A task that is scored with something outside may have a method `check()`, which is called before answers are generated
    and raises AlignError where that is not there.
    """

    name: str
    """As `--task` has it."""
    main: str
    """The metric that `scores.csv` carries, by which a weight is searched."""

    def rows(self, data: Path, split: str, langs: str | None = None, limit: int | None = None) -> tuple[TaskRow, ...]:
        """The rows of a split, by language in the order asked for, then in the data's own order.

        Args:
            data: folder or file of the task's data.
            split: `train`, `dev` or `test`.
            langs: codes, aliases or sets, comma-separated, any of `de`, `de-DE`, `deu_Latn`; None = the task's default.
            limit: the first rows of each language only.

        Raises:
            AlignError: data that are missing or malformed, languages that they lack.
        """
        ...

    def parse(self, text: str) -> Any:
        """What a generation says, as JSON values; never raises: ill-formed text is told within."""
        ...

    def score(self, rows: Sequence[TaskRow], answers: Sequence[str], draws: int = 1000, seed: int = 0) -> Scored:
        """Score raw generations.

        Args:
            answers: one for each of `rows`, as generated.
            draws: of the bootstrap; 0: no intervals.

        Raises:
            AlignError: as many answers as rows are expected; both counts are told.
        """
        ...


def refuse_other_length(rows: Sequence[TaskRow], answers: Sequence[str]) -> None:
    """Raises:
    AlignError: more or fewer answers than rows.
    """
    if len(rows) != len(answers):
        raise AlignError(
            f"{len(answers)} predictions for {len(rows)} rows",
            "as many of each",
            "give the predictions of the same split, languages and --limit",
        )
