"""A report: what every analysis leaves behind, a folder with the numbers as data and the same numbers for people.

NAME/report.json          kind, title, remarks, facts, and how each table is to be shown
NAME/<table>.csv          the tidy numbers, unrounded, accuracies as shares in 0..1
NAME/<table>.md, .tex     the same for people: percent, rounded; LaTeX with booktabs
NAME/report.md            title, remarks and all tables in one page
A table of more than PAGE_ROWS rows for people is data alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from probe.errors import AnalysisError
from probe.results import writing
from probe.store import write_json

SCHEMA = 1
PAGE_ROWS = 120


@dataclass(frozen=True)
class Table:
    """Tidy numbers, and how people are shown them."""

    frame: pd.DataFrame = field(repr=False)
    """One observation a row; accuracies as shares in 0..1, p-values and correlations as they are."""
    caption: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column -> its heading, of those that people are shown, in that order; empty: all under their own names."""
    percent: tuple[str, ...] = ()
    """Columns of shares that people are shown as percent with one decimal."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Column -> value of the rows that people are shown; empty: all."""
    digits: int = 3
    """Decimals of the other floating-point columns."""

    def shown(self) -> pd.DataFrame:
        """The rows and columns for people, formatted as text; a missing value is an empty cell."""
        chosen = self.frame
        for column, value in self.where.items():
            chosen = chosen[chosen[column] == value]
        columns = self.columns or {name: name for name in chosen.columns}
        cells = {heading: [self._cell(name, value) for value in chosen[name]] for name, heading in columns.items()}
        return pd.DataFrame(cells, dtype=object)

    def _cell(self, column: str, value: Any) -> str:
        if value is None or (isinstance(value, float) and pd.isna(value)) or value is pd.NA:
            return ""
        if column in self.percent:
            return _rounded(100 * value, 1)
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

    def latex(self) -> str:
        """A booktabs table with its caption; needs `\\usepackage{booktabs}`."""
        shown = self.shown()
        numeric = [name for name in shown if shown[name].str.fullmatch(r"(< )?-?[\d.,]*").all()]
        layout = "".join("r" if name in numeric else "l" for name in shown)
        styled = shown.map(_escaped).rename(columns=_escaped).style.hide(axis="index")
        return styled.to_latex(
            hrules=True, column_format=layout, caption=_escaped(self.caption), position_float="centering"
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

        Raises:
            RetrievalError: the folder cannot be written.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "report.json").unlink(missing_ok=True)
            for name, table in self.tables.items():
                table.frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
                for suffix, text in (("md", table.markdown), ("tex", table.latex)):
                    path = folder / f"{name}.{suffix}"
                    path.write_text(text(), encoding="utf-8") if table.fits_page() else path.unlink(missing_ok=True)
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
                "text": [str(name) for name in table.frame if not pd.api.types.is_numeric_dtype(table.frame[name])],
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
        """Read a saved report back.

        Raises:
            AnalysisError: no report there, one of another schema, or a damaged one.
        """
        folder = Path(folder)
        try:
            described = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            if described["schema"] != SCHEMA:
                raise ValueError(f"schema {described['schema']}, not {SCHEMA}")
            tables = {
                name: Table(
                    _read(folder / f"{name}.csv", shown["text"]),
                    shown["caption"],
                    shown["columns"],
                    tuple(shown["percent"]),
                    shown["where"],
                    shown["digits"],
                )
                for name, shown in described["tables"].items()
            }
            return cls(described["kind"], described["title"], tables, tuple(described["remarks"]), described["facts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnalysisError(
                f"{folder} holds no readable report ({' '.join(str(error).split())[:120]})",
                "a folder that `probe correlate`, `compare`, `layers` or `measure` wrote",
                "run that command again",
            ) from error


def _rounded(value: float, digits: int) -> str:
    """Without the sign of a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def _read(path: Path, text: Sequence[str]) -> pd.DataFrame:
    """A saved table; what was text stays text, though it may hold digits, or `NA`."""
    return pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])


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
    }
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)
