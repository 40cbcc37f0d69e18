"""The downstream tasks: examples, prompts, parsing of what a model says, scoring. One file a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from probe.errors import AlignError

if TYPE_CHECKING:
    from align.tasks.task import Task

TASKS = ("slots", "translation", "entities")


def task_named(
    name: str, style: str | None = None, comet_python: Path | None = None, template: Path | None = None
) -> Task:
    """A task with its options.

    Args:
        style: of the prompts of slots; None = the task's own.
        comet_python: of translation: the interpreter of COMET's environment.
        template: of entities: a file with the user's turn, see `align.tasks.entities.TEMPLATE`.

    Raises:
        AlignError: no such task, or an option that it does not have.
    """
    given = {"style": style, "comet_python": comet_python, "template": template}
    known = {"slots": "style", "translation": "comet_python", "entities": "template"}
    if name not in known:
        raise AlignError(f"no task {name!r}", f"one of {', '.join(TASKS)}", "give --task with one of these")
    for option, value in given.items():
        if value is not None and option != known[name]:
            told = option.replace("_", "-")
            owner = next(task for task, own in known.items() if own == option)
            raise AlignError(f"--{told} {value} of the task {name}", f"the task {owner}", f"leave --{told} out")
    if name == "slots":
        from align.tasks.slots import Slots

        return Slots(style) if style else Slots()
    if name == "translation":
        from align.tasks.comet import Comet
        from align.tasks.translation import Translation

        return Translation(comet=Comet(comet_python) if comet_python else None)
    from align.tasks.entities import Entities

    return Entities() if template is None else Entities(_text(template))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AlignError(
            f"template {path} cannot be read ({error.__class__.__name__})", "a file of UTF-8 text", "check the path"
        ) from None
