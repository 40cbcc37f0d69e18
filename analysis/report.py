"""A report: what every analysis leaves behind, a folder with the numbers as data and the same numbers for people.

NAME/report.json          kind, title, remarks, facts, and how each table is to be shown
NAME/<table>.csv          the tidy numbers, unrounded, accuracies as shares in 0..1
NAME/<table>.md, .tex     the same for people: percent, rounded; LaTeX with booktabs
NAME/report.md            title, remarks and all tables in one page
A table of more than PAGE_ROWS rows for people is data alone. Names, columns and row counts of the tables stand in report.json, so
that a report of which a part is missing is refused.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from probe.errors import AnalysisError
from probe.results import writing
from probe.store import write_json

SCHEMA = 1
PAGE_ROWS = 120

_OTHERS = {
    "summary.json": "a retrieval result",
    "hits.h5": "a retrieval result",
    "partial/settings.json": "an unfinished retrieval result",
    "manifest.json": "a store",
}
"""File -> what a folder with that file holds; a report written there would replace files of the same names."""

_SHAPE = {"kind": str, "title": str, "remarks": list, "facts": dict, "tables": dict}
_TABLE_SHAPE = {"caption": str, "columns": dict, "percent": list, "where": dict, "digits": int, "text": list}
_LATER = {"fine": list}
"""What the tables of reports from before it was kept do not have."""


@dataclass(frozen=True)
class Table:
    """Tidy numbers, and how people are shown them."""

    frame: pd.DataFrame = field(repr=False)
    """One observation a row; accuracies as shares in 0..1, p-values and correlations as they are."""
    caption: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column -> its heading, of those that people are shown, in that order; empty: all under their own names."""
    percent: tuple[str, ...] = ()
    """Columns of shares that people are shown as percent, with one decimal unless they are `fine`."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Column -> value of the rows that people are shown; empty: all."""
    digits: int = 3
    """Decimals of the other floating-point columns."""
    fine: tuple[str, ...] = ()
    """Columns of `percent` that people are shown with two decimals: differences, of which one decimal may round away the sign."""

    def shown(self) -> pd.DataFrame:
        """The rows and columns for people, formatted as text; a missing value is an empty cell, a column of nothing else is left out."""
        chosen = self.frame
        for column, value in self.where.items():
            chosen = chosen[chosen[column] == value]
        columns = self.columns or {name: name for name in chosen.columns}
        cells = {heading: [self._cell(name, value) for value in chosen[name]] for name, heading in columns.items()}
        return pd.DataFrame({heading: own for heading, own in cells.items() if any(own) or not own}, dtype=object)

    def _cell(self, column: str, value: Any) -> str:
        if value is None or (isinstance(value, float) and pd.isna(value)) or value is pd.NA:
            return ""
        if column in self.percent:
            return _rounded(100 * value, 2 if column in self.fine else 1)
        if isinstance(value, float):
            least = 10**-self.digits
            if (column.endswith("_p") or column == "p") and value < least:
                return f"< {_rounded(least, self.digits)}"
            return _rounded(value, self.digits)
        return str(value)

    def fits_page(self) -> bool:
        """Whether there is something for people to read, and not too much of it."""
        return 0 < len(self.shown()) <= PAGE_ROWS

    def markdown(self) -> str:
        """A pipe table under its caption."""
        shown = self.shown()
        return f"{self.caption}\n\n{shown.to_markdown(index=False, disable_numparse=True)}\n"

    def latex(self, label: str | None = None) -> str:
        """A booktabs table with its caption, and a label to refer to it by; needs `\\usepackage{booktabs}`."""
        shown = self.shown()
        numeric = [name for name in shown if shown[name].str.fullmatch(r"(< )?-?[\d.,]*").all()]
        layout = "".join("r" if name in numeric else "l" for name in shown)
        styled = shown.map(_escaped).rename(columns=_escaped).style.hide(axis="index")
        return styled.to_latex(
            hrules=True, column_format=layout, caption=_escaped(self.caption), label=label, position_float="centering"
        )


@dataclass(frozen=True)
class Report:
    """The finished findings of one analysis."""

    kind: str
    """`correlation`, `comparison`, `layers`, `measures` or `audit`: which tables and facts there are."""
    title: str
    tables: Mapping[str, Table]
    remarks: tuple[str, ...] = ()
    """Sentences for people: limits, warnings, what was left out and why."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else was found and how: settings, inputs with their digests, draws, seed. Only JSON values."""

    def frame(self, table: str) -> pd.DataFrame:
        """The numbers of one table."""
        return self.tables[table].frame

    def markdown(self) -> str:
        """The whole report as one page."""
        remarks = "".join(f"* {remark}\n" for remark in self.remarks)
        tables = "\n".join(table.markdown() for table in self.tables.values() if table.fits_page())
        return f"# {self.title}\n\n{remarks}\n{tables}"

    def save(self, folder: str | Path) -> None:
        """Write all files; `report.json` last, so that its presence says that all are there.

        An earlier report there is replaced, its tables removed, once the new one is written whole.

        Raises:
            AnalysisError: the folder holds a result or a store, or is the current folder.
            RetrievalError: the folder cannot be written.
        """
        folder = Path(folder)
        refuse_other_folder(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".report-", dir=folder) as aside:
                self._write(Path(aside))
                _replace(Path(aside), folder)

    def _write(self, folder: Path) -> None:
        for name, table in self.tables.items():
            table.frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
            if table.fits_page():
                (folder / f"{name}.md").write_text(table.markdown(), encoding="utf-8")
                (folder / f"{name}.tex").write_text(table.latex(f"tab:{self.kind}-{name}"), encoding="utf-8")
        (folder / "report.md").write_text(self.markdown(), encoding="utf-8")
        write_json(folder / "report.json", self._described())

    def as_json(self) -> dict[str, Any]:
        """Everything, the tables as lists of rows; a missing value is null."""
        return {**self._described(), "tables": {name: _rows(table.frame) for name, table in self.tables.items()}}

    def _described(self) -> dict[str, Any]:
        shown = {
            name: {
                "caption": table.caption,
                "columns": dict(table.columns),
                "percent": list(table.percent),
                "where": dict(table.where),
                "digits": table.digits,
                "fine": list(table.fine),
                "text": [str(name) for name in table.frame if not pd.api.types.is_numeric_dtype(table.frame[name])],
                "fields": [str(name) for name in table.frame],
                "rows": len(table.frame),
            }
            for name, table in self.tables.items()
        }
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "title": self.title,
            "remarks": list(self.remarks),
            "facts": dict(self.facts),
            "tables": shown,
        }

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read a saved report back. A fact that is asked of it later and is not there is told as an AnalysisError too.

        Raises:
            AnalysisError: no report there, one of another schema, or a damaged one: a key missing or of another type, or a
                table with other rows or columns than were written.
        """
        folder = Path(folder)
        try:
            described = _described(folder / "report.json")
            tables = {
                name: Table(
                    _read(folder / f"{name}.csv", shown),
                    shown["caption"],
                    shown["columns"],
                    tuple(shown["percent"]),
                    shown["where"],
                    shown["digits"],
                    tuple(shown.get("fine", ())),
                )
                for name, shown in described["tables"].items()
            }
            return cls(described["kind"], described["title"], tables, tuple(described["remarks"]), described["facts"])
        except (OSError, ValueError) as error:
            raise AnalysisError(
                f"{folder} holds no readable report ({' '.join(str(error).split())[:120]})",
                _EXPECTED,
                "run that command again",
            ) from error


_EXPECTED = "a folder that `probe correlate`, `compare`, `layers` or `measure` wrote"


class _Stored(dict[str, Any]):
    """An object of a `report.json`; a key that is asked for and is not there is told in one line."""

    path: Path

    def __missing__(self, key: str) -> Any:
        raise AnalysisError(f"{self.path} names no {key}", _EXPECTED, "run that command again")


def refuse_other_folder(out: Path, figures: bool = False) -> None:
    """Refuse to write a report, or figures, among the files of something else.

    Raises:
        AnalysisError: the folder holds a retrieval result or a store, or, for figures, a report; or it is the current folder.
        RetrievalError: the folder cannot be read.
    """
    others = {**_OTHERS, "report.json": "a report"} if figures else _OTHERS
    with writing(out):
        held = next((what for name, what in others.items() if (out / name).exists()), None)
        told = f"which holds {held}" if held else "the current folder" if out.resolve() == Path.cwd() else None
    if told:
        wanted = "figures" if figures else "the report"
        raise AnalysisError(f"--out {out}, {told}", f"a folder of its own for {wanted}", "give another --out")


def _replace(new: Path, folder: Path) -> None:
    """Put the files of a report in place of those of an earlier one."""
    written = {path.name: path for path in new.iterdir()}
    tables = _table_names(new) | _table_names(folder)
    stale = {f"{name}.{suffix}" for name in tables for suffix in ("csv", "md", "tex")} - {*written}
    (folder / "report.json").unlink(missing_ok=True)  # a kill from here on must not leave it over tables of two reports
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    for name in sorted(written, key=lambda name: name == "report.json"):
        written[name].replace(folder / name)


def _table_names(folder: Path) -> set[str]:
    """The tables of the report that a folder holds, of whatever schema; none where it is unreadable."""
    try:
        described = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return {name for name in dict(described["tables"]) if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _described(path: Path) -> Mapping[str, Any]:
    """What a `report.json` holds, each key of its type."""

    def stored(values: dict[str, Any]) -> _Stored:
        found = _Stored(values)
        found.path = path
        return found

    described = json.loads(path.read_text(encoding="utf-8"), object_hook=stored)
    if not isinstance(described, dict):
        raise ValueError("report.json is no JSON object")
    if described["schema"] != SCHEMA:
        raise ValueError(f"schema {described['schema']}, not {SCHEMA}")
    _check_shape(described, _SHAPE, "report.json")
    for name, shown in described["tables"].items():
        if not isinstance(shown, dict):
            raise ValueError(f"table {name} of report.json is no JSON object")
        shape = {**_TABLE_SHAPE, **{key: kind for key, kind in _LATER.items() if key in shown}}
        _check_shape(shown, shape, f"table {name} of report.json")
    return described


def _check_shape(values: Mapping[str, Any], shape: Mapping[str, type], where: str) -> None:
    for key, kind in shape.items():
        if not isinstance(values[key], kind):
            raise ValueError(f"{where} has {json.dumps(values[key])[:40]} as {key}")


def _rounded(value: float, digits: int) -> str:
    """Without the sign of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _read(path: Path, shown: Mapping[str, Any]) -> pd.DataFrame:
    """A saved table, whole; what was text stays text, though it may hold digits, or `NA`."""
    data = path.read_bytes()
    frame = pd.read_csv(
        io.BytesIO(data), dtype=dict.fromkeys(shown["text"], str), keep_default_na=False, na_values=[""]
    )
    fields, rows = (
        shown.get("fields", list(frame)),
        shown.get("rows", len(frame)),
    )  # not in reports of before they were kept
    if list(frame) != fields:
        raise ValueError(f"{path.name} has the columns {', '.join(frame)}, not {', '.join(map(str, fields))}")
    if len(frame) != rows:
        raise ValueError(f"{path.name} has {len(frame)} rows, not {rows}")
    if not data.endswith(b"\n"):
        raise ValueError(f"{path.name} is cut in its last line")
    absent = [name for name in (*shown["columns"], *shown["where"]) if name not in frame]
    if absent:
        raise ValueError(f"{path.name} lacks the column {absent[0]}")
    return frame


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping a row; a missing value is None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _escaped(text: str) -> str:
    """Plain text for LaTeX."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"$<$",
        ">": r"$>$",
        "|": r"$|$",  # a dash in the default encoding of fonts
    }
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)
