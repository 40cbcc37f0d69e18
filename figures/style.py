"""How every figure looks: sizes of a printed page, fonts, and colours that survive colour blindness and greyscale."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

MILLIMETRE = 1 / 25.4
COLUMN, PAGE = 85.0, 174.0
"""Widths in millimetres: a column, and the text block of two columns."""
SMALL = 6.0
"""Points: the smallest text but for the labels of a dense heatmap."""
GREY = "#6e6e6e"
MINUS = "\N{MINUS SIGN}"

SEQUENTIAL = "cividis"
"""Of shares: its lightness rises evenly, so it is the same scale in greyscale, and for all colour vision."""
DIVERGING = "PuOr_r"
"""Of differences: purple below zero, orange above. Its lightness cannot tell the sign; the cells below zero carry a minus."""

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v")
CONTROL_DASHES: dict[str, Any] = {"char": (0, (6, 2, 1, 2)), "length": (0, (1, 2))}

_SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "figure.titlesize": 7.5,
    "figure.dpi": 300,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType: text in the file can be searched and edited, and publishers take it
    "pdf.compression": 6,
    "text.parse_math": False,  # a result's name may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0.1,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
}


class Line(NamedTuple):
    """What tells one series from another: each of the three alone would do."""

    colour: str
    dash: Any
    marker: str

    def keywords(self) -> dict[str, Any]:
        """Of `Axes.plot`."""
        return {"color": self.colour, "linestyle": self.dash, "marker": self.marker, "markeredgewidth": 0}


def line(number: int) -> Line:
    """The look of the series of that number; neighbours differ in colour, dash and marker, and 140 are distinct."""
    return Line(*(cycle[number % len(cycle)] for cycle in (_COLOURS, _DASHES, _MARKERS)))


@contextlib.contextmanager
def paper() -> Iterator[None]:
    """Our settings over matplotlib's defaults, whatever the user's own are; theirs are back afterwards."""
    untouched = {"backend", "backend_fallback", "interactive", "toolbar", "timezone"}
    defaults: dict[Any, Any] = {
        name: value for name, value in matplotlib.rcParamsDefault.items() if name not in untouched
    }
    with matplotlib.rc_context(defaults | _SETTINGS):
        yield


def sheet(width: float, height: float) -> Figure:
    """An empty figure; millimetres."""
    return Figure(figsize=(width * MILLIMETRE, height * MILLIMETRE))


def legend_above(figure: Figure, handles: Sequence[Line2D]) -> None:
    """One legend over all panels, where it hides no data: as many columns as its longest name allows; the figure grows by its
    rows."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    points = figure.get_figwidth() * 72
    columns = next((count for count in (4, 3, 2) if count * (0.62 * SMALL * longest + 27) < points), 1)
    columns = min(columns, len(handles))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + (1.5 * SMALL * rows + 3) / 72)


def percent(share: float, _: object = None) -> str:
    """A tick of a share, in percent."""
    return f"{100 * share:.3g}".replace("-", MINUS)


def percent_axis(axes: Axes, label: str = "retrieval accuracy (%)") -> None:
    """Shares on the y axis, told in percent from 0 on."""
    axes.yaxis.set_major_formatter(percent)
    axes.set_ylabel(label)
