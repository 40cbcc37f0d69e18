"""One look for all figures, whatever the user's own settings, that does without colour."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from figures.style import COLUMN, SEQUENTIAL, legend_above, line, paper, percent, sheet

ROOT = Path(__file__).resolve().parents[1]


def lightness(colour: object) -> float:
    """Relative luminance of sRGB, gamma left in: what a greyscale print shows."""
    return float(np.dot(to_rgb(colour), [0.299, 0.587, 0.114]))


def test_neighbouring_lines_differ_in_colour_dash_and_marker() -> None:
    for one, other in itertools.pairwise(line(number) for number in range(20)):
        assert one.colour != other.colour
        assert one.dash != other.dash
        assert one.marker != other.marker


def test_lines_stay_distinct_without_colour() -> None:
    without_colour = {(str(line(number).dash), line(number).marker) for number in range(20)}
    assert len(without_colour) == 20
    assert len({line(number) for number in range(140)} | {line(0)}) == 140


def test_the_scale_of_accuracy_rises_evenly_in_greyscale() -> None:
    levels = [lightness(colour) for colour in matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 1, 64))]
    assert all(low < high for low, high in itertools.pairwise(levels))
    assert levels[-1] - levels[0] > 0.5


def test_the_users_settings_neither_count_nor_are_changed() -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "pdf.fonttype": 3}):
        with paper():
            assert matplotlib.rcParams["font.size"] < 10
            assert matplotlib.rcParams["axes.facecolor"] == "white"
            assert matplotlib.rcParams["pdf.fonttype"] == 42
        assert matplotlib.rcParams["font.size"] == 30
        assert matplotlib.rcParams["pdf.fonttype"] == 3


@pytest.mark.parametrize(
    "names", [["a", "b"], ["a rather long name of a model"] * 3, ["x" * 55, "y"], list("abcdefghijkl")]
)
def test_a_legend_stays_on_the_sheet_and_takes_no_height_from_the_panel(names: list[str]) -> None:
    with paper():
        figure = sheet(COLUMN, 50.0)
        axes = figure.subplots()
        figure.draw_without_rendering()
        bare = axes.bbox.height
        legend_above(figure, [Line2D([], [], label=name) for name in names])
        figure.draw_without_rendering()
        assert axes.bbox.height == pytest.approx(bare, abs=0.02 * bare)
        box = figure.legends[0].get_window_extent()
        assert box.y1 <= figure.bbox.y1 + 1
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_percent_is_told_with_a_minus_sign() -> None:
    assert [percent(share) for share in (0.25, -0.005, 0.0, 1.0)] == ["25", "\N{MINUS SIGN}0.5", "0", "100"]


def test_drawing_needs_no_pyplot_and_no_torch() -> None:
    """pyplot keeps every figure until it is closed, and picks a window system."""
    code = "import sys, figures.draw; print([name for name in ('matplotlib.pyplot', 'torch', 'faiss') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
