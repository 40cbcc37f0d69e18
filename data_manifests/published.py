"""The published values of the paper this toolkit follows: its tables, its scores by language, and its retrieval accuracies.

The numbers are in `scores/*.yaml` beside this file, as printed, with the source's known defects as notes; this module only reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from data_manifests import _read, data_folder, language_sets

_TABLES = ("slots", "translation", "averages")


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table: one system's values."""

    model: str | None
    """`llama3` or `qwen2.5`; None where the source does not name it."""
    system: str
    """`zero-shot`, `sft`, `align`, or the variant that the table compares."""
    values: Mapping[str, float] = field(repr=False)
    """Column -> the value as printed, in percent points; a cell without a value is absent."""
    metric: str = ""
    """F1, BLEU or COMET of all values; empty where the columns name it."""
    name: str = ""
    """What `--scores paper:NAME` calls it; empty where the values are no scores of single languages or directions."""
    defect: str = ""
    """Why the row is not to be trusted; empty where nothing is known against it."""


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper."""

    number: str
    """As printed, `11`; `3, 13` where two are joined, `text` where the values stand in no table."""
    title: str
    columns: tuple[str, ...]
    """Language codes, directions as `ces_Latn-eng_Latn`, or task-group-metric."""
    rows: tuple[PublishedRow, ...] = field(repr=False)
    source: str = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    """Known defects of the table."""
    task: str = ""
    """`slots` or `translation`, of values by language; else empty."""
    groups: str = ""
    """Whose `language_groups` the columns belong to; empty where they are no languages."""

    def row(self, model: str | None, system: str, metric: str = "") -> PublishedRow:
        """The row of a system.

        Raises:
            KeyError: the table has no such row.
        """
        for row in self.rows:
            if (row.model, row.system) == (model, system) and metric in ("", row.metric):
                return row
        raise KeyError((self.number, model, system, metric))


@dataclass(frozen=True)
class PublishedSet:
    """Scores that give each language one value: what a correlation over languages takes."""

    name: str
    values: Mapping[str, float] = field(repr=False)
    """FLORES-200 code -> score in percent points."""
    groups: Mapping[str, str] = field(repr=False)
    """Code -> `supervised` or `transfer`."""
    task: str
    metric: str
    model: str
    """The model's hub id."""
    table: str
    source: str = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    defect: str = ""
    """Why the set is left out of correlations unless it is asked for by name; empty where nothing is known against it."""


@dataclass(frozen=True)
class PublishedValue:
    """One number and where it stands."""

    value: float
    table: str
    source: str = field(repr=False)
    note: str = ""


@dataclass(frozen=True)
class Statement:
    """A number that the paper gives outside its tables."""

    where: str
    value: float


@cache
def _paper() -> dict[str, Any]:
    return _read(data_folder() / "scores" / "paper.yaml")


def source() -> str:
    """The paper's citation."""
    return str(_paper()["source"])


def known_disagreements() -> tuple[str, ...]:
    """Where the source contradicts itself beyond a single table, a sentence each."""
    return tuple(_paper()["notes"])


def language_groups(task: str) -> dict[str, tuple[str, ...]]:
    """Group -> FLORES-200 codes: `supervised` and `transfer`, for some tasks also `aligned` and `non_latin`, both within transfer.

    Args:
        task: `slots`, `slots-english` (fine-tuned on English only), `translation` or `entities`.

    Raises:
        KeyError: no such task.
    """
    return {group: tuple(codes) for group, codes in _paper()["groups"][task].items()}


@cache
def statements() -> dict[str, Statement]:
    """Name -> what the text and the figures state."""
    return {each["name"]: Statement(each["where"], float(each["value"])) for each in _paper()["statements"]}


@cache
def published_tables() -> dict[str, PublishedTable]:
    """Number -> table, for all tables carried."""
    described = [table for name in _TABLES for table in _read(data_folder() / "scores" / f"{name}.yaml")["tables"]]
    return {table["number"]: _table(table) for table in described}


def _table(described: Mapping[str, Any]) -> PublishedTable:
    columns = tuple(described["columns"])
    rows = tuple(_row(row, columns) for row in described["rows"])
    notes = tuple(described.get("notes", ()))
    return PublishedTable(**{**described, "columns": columns, "rows": rows, "notes": notes, "source": source()})


def _row(described: Mapping[str, Any], columns: tuple[str, ...]) -> PublishedRow:
    printed = zip(columns, described["values"], strict=True)
    values = {column: float(value) for column, value in printed if value is not None}
    return PublishedRow(**{**described, "values": values})


def score_names() -> tuple[str, ...]:
    """The names that `--scores paper:NAME` takes, sorted."""
    return tuple(sorted(_sets()))


def published_set(name: str) -> PublishedSet:
    """The scores of one name: `llama3-sft` (slot F1), `llama3-sft-comet-to-english` (translation from each language), ...

    Raises:
        KeyError: no such name.
    """
    return _sets()[name]


@cache
def _sets() -> dict[str, PublishedSet]:
    named = [(table, row) for table in published_tables().values() for row in table.rows if row.name]
    found = [each for table, row in named for each in _sets_of(table, row)]
    return {each.name: each for each in found}


def _sets_of(table: PublishedTable, row: PublishedRow) -> tuple[PublishedSet, ...]:
    """One of a row by language; two of a row by direction, since English would be on one side of all."""
    if table.task != "translation":
        return (_set_of(table, row, row.name, row.values),)
    directions = {tuple(column.split("-")): value for column, value in row.values.items()}
    to_english = {src: value for (src, tgt), value in directions.items() if tgt == "eng_Latn"}
    from_english = {tgt: value for (src, tgt), value in directions.items() if src == "eng_Latn"}
    return (
        _set_of(table, row, f"{row.name}-to-english", to_english),
        _set_of(table, row, f"{row.name}-from-english", from_english),
    )


def _set_of(table: PublishedTable, row: PublishedRow, name: str, values: Mapping[str, float]) -> PublishedSet:
    groups = language_groups(table.groups)
    of_language = {code: group for group in ("supervised", "transfer") for code in groups[group] if code in values}
    hub_id = _paper()["models"][row.model]["id"]
    return PublishedSet(
        name, values, of_language, table.task, row.metric, hub_id, table.number, table.source, table.notes, row.defect
    )


def model_name(model: str) -> str:
    """`llama3` -> `Llama 3`."""
    return str(_paper()["models"][model]["name"])


def model_short(hub_id: str) -> str | None:
    """`meta-llama/Meta-Llama-3-8B-Instruct` -> `llama3`; None of a model that is not the paper's."""
    return next((short for short, each in _paper()["models"].items() if each["id"] == hub_id), None)


def published_retrieval(model: str, adapter: str | None, languages: Collection[str]) -> PublishedValue | None:
    """The paper's aggregate retrieval accuracy (Table 2; section 4.2: mean over directions and even layers, 0 left out).

    Args:
        model: hub id of the base model.
        adapter: hub id of one of the authors' adapters, which names its model too; None for the model itself.
        languages: codes of all languages retrieved, in any order: the sets `slots20` or `mt9`.

    Returns:
        A share in 0..1, or None where the paper has no value for exactly that.
    """
    sets = [name for name, codes in language_sets().items() if set(codes) == set(languages)]
    known = {each["id"]: short for short, each in _paper()["models"].items()}
    if model not in known or not sets:
        return None
    zero_shot = {"model": known[model], "system": "zero-shot", "languages": sets[0]}
    trained = zero_shot if adapter is None else _paper()["adapters"].get(adapter)
    if trained is None or trained["model"] != known[model] or trained["languages"] != sets[0]:
        return None
    table = published_tables()["2"]
    percent = table.row(known[model], trained["system"]).values.get(f"retrieval-{sets[0]}")
    if percent is None:
        return None
    return PublishedValue(round(percent / 100, 6), table.number, table.source, trained.get("note", ""))
