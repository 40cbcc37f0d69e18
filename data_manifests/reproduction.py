"""The recipes that reproduce the paper's tables and figures, and what they share, as data: `paper/NAME.yaml`, `reproduction.yaml`."""

from __future__ import annotations

from functools import cache
from typing import Any

from data_manifests import _read, data_folder


@cache
def common() -> dict[str, Any]:
    """What all recipes share: `models`, `data`, `constants`."""
    return dict(_read(data_folder() / "reproduction.yaml"))


def reproduction_names() -> tuple[str, ...]:
    """The recipes, sorted."""
    return tuple(sorted(path.stem for path in (data_folder() / "paper").glob("*.yaml")))


def reproduction(name: str) -> dict[str, Any]:
    """One recipe as its YAML has it.

    Raises:
        KeyError: no such recipe.
    """
    if name not in reproduction_names():
        raise KeyError(name)
    return dict(_read(data_folder() / "paper" / f"{name}.yaml"))
