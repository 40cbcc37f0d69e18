"""A finished figure on disk: PDF, PNG, and the numbers that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from figures.style import paper
from probe.results import writing


def save(figure: Figure, frame: pd.DataFrame | Mapping[str, pd.DataFrame], path: Path) -> list[Path]:
    """Write PATH.pdf, PATH.png (300 dpi) and PATH.csv; the same input gives the same bytes.

    Args:
        frame: the plotted numbers; of several tables the rows follow each other, the column `part` first.
        path: without a suffix; dots are part of the name.

    Raises:
        RetrievalError: the folder cannot be written.
    """
    pdf, png, csv = (path.parent / f"{path.name}.{suffix}" for suffix in ("pdf", "png", "csv"))
    if isinstance(frame, Mapping):
        frame = pd.concat([table.assign(part=part) for part, table in frame.items()], ignore_index=True)
        frame = frame[["part", *frame.columns.drop("part")]]
    with writing(path.parent), paper():
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # both files get the layout of this resolution
        figure.savefig(pdf, metadata={"CreationDate": None})
        figure.savefig(png)
        frame.to_csv(csv, index=False, lineterminator="\n")
    return [pdf, png, csv]
