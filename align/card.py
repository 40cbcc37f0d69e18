"""The model card of an adapter: from what it was trained, how, and what came of it, as `README.md` beside the weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from align.adapter import writing
from probe.errors import AlignError

_TAGS = ("lora", "midprobe", "multilingual", "cross-lingual-alignment")

_REQUIRED = {
    "base_model": "the name that loads the base model",
    "made_by": "one sentence: aligned, tuned on a task, both in turn, or merged, and how",
    "data": "a list of mappings with name, rows and licence; empty where nothing was trained",
    "recipe": "the settings, as a mapping",
    "results": "a list of mappings; empty where nothing was measured",
    "versions": "package -> version",
    "command": "the command line",
}
_PER_DATA_SET = ("name", "rows", "licence")


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `model_card(facts)` to the folder's `README.md`, whole or not at all.

    Raises:
        AlignError: facts that are missing, a folder that cannot be written.
    """
    card = model_card(facts)
    with writing(folder):
        partial = folder / ".README.md.partial"
        partial.write_text(card, encoding="utf-8")
        os.replace(partial, folder / "README.md")


def model_card(facts: Mapping[str, Any]) -> str:
    """The card in Markdown, with the front matter by which PEFT's users and the hub find an adapter.

    Args:
        facts: `base_model`, `made_by` (one sentence), `data` (mappings with at least `name`, `rows` and `licence`),
            `recipe`, `results` (mappings, printed as they are), `versions`, `command`; and where they apply `revision`
            of the base model, `layer` (a block or several) and `temperature` of the alignment, and `auto_class`, the
            class that loads the base model where it is not `AutoModelForCausalLM`.

    Raises:
        AlignError: a fact that every card states is missing.
    """
    _require_facts(facts)
    sections = {
        "": [facts["made_by"], _short(facts)],
        "Data": [table(facts["data"]) or "Nothing was trained: see the adapters that it was made from."],
        "Results": [table(facts["results"]) or "None were measured."],
        "Recipe": [_block("yaml", _yaml(facts["recipe"]))],
        "Use": [_loading(facts)],
        "Made with": [_block("", str(facts["command"])), ", ".join(f"{k} {v}" for k, v in facts["versions"].items())],
    }
    body = [part for title, parts in sections.items() for part in ([f"## {title}"] if title else []) + parts if part]
    return (
        f"---\n{_yaml(_front_matter(facts))}---\n\n# LoRA adapter for {facts['base_model']}\n\n"
        + "\n\n".join(body)
        + "\n"
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with a column for every key of any row, in order of appearance; empty without rows.

    Numbers are printed as they are: a card rounds nothing.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return "" if value is None else str(value).replace("|", r"\|").replace("\n", " ")


def _require_facts(facts: Mapping[str, Any]) -> None:
    for name, meaning in _REQUIRED.items():
        if facts.get(name) is None:
            raise AlignError(f"a model card without {name}", meaning, "state it")
    for row in facts["data"]:
        for name in _PER_DATA_SET:
            if row.get(name) is None:
                raise AlignError(
                    f"a model card with data {row.get('name', dict(row))} without {name}",
                    "name, rows and licence of each data set",
                    "state it; a licence that is not known is `unknown`",
                )


def _front_matter(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"base_model": facts["base_model"], "library_name": "peft", "tags": list(_TAGS)}


def _short(facts: Mapping[str, Any]) -> str:
    """The settings that a reader looks for first."""
    stated = {
        "Base model": facts["base_model"],
        "Revision": facts.get("revision"),
        "Alignment layer": facts.get("layer"),
        "Temperature": facts.get("temperature"),
    }
    return "\n".join(f"* {name}: {_cell(value)}" for name, value in stated.items() if value is not None)


def _loading(facts: Mapping[str, Any]) -> str:
    base = facts["base_model"]
    if base.startswith("builtin:"):  # which midprobe alone has
        return _block("", f"probe extract --model {base} --adapter PATH_OF_THIS_FOLDER --corpus everyday --out store")
    revision = f', revision="{facts["revision"]}"' if facts.get("revision") else ""
    auto = facts.get("auto_class", "AutoModelForCausalLM")
    return _block(
        "python",
        "from peft import PeftModel\n"
        f"from transformers import {auto}\n\n"
        f'base = {auto}.from_pretrained("{base}"{revision})\n'
        'model = PeftModel.from_pretrained(base, "path/of/this/folder")',
    )


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _yaml(value: Any) -> str:
    plain = json.loads(json.dumps(value, default=str, ensure_ascii=False))  # tuples and paths have no YAML of their own
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
