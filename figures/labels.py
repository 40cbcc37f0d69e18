"""Names beside points: no name on another, on a point, or outside the axes, and always in the same places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import BboxBase
from scipy.spatial.distance import cdist

from figures.style import GREY, SMALL

_ANGLES = np.deg2rad([45, 135, 315, 225, 0, 90, 180, 270, 22, 67, 112, 157, 202, 247, 292, 337])
_RADII = np.array([3, 4.5, 6, 8, 10.5, 13.5, 17, 21, 26, 32, 40, 50, 62])
"""Points of distance between a label's nearest edge and its point."""
_FAR = 5.0
"""Points from which on a thin line leads back from a label to its point."""


def place(axes: Axes, x: pd.Series, y: pd.Series, names: Sequence[str], avoid: Sequence[BboxBase] = ()) -> list[Text]:
    """Write each name at the nearest free place about its point, the most crowded points first.

    To be called last: it fixes the figure's layout, which a later change of the axes would make wrong.

    Args:
        x, y: the points, in data coordinates.
        avoid: further boxes to keep free, in pixels.
    """
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    point = figure.dpi / 72  # pixels
    spots = axes.transData.transform(np.column_stack([x, y]))
    kept = np.array([box.extents for box in avoid]).reshape(-1, 4)
    taken = np.concatenate([np.concatenate([spots - 1.8 * point, spots + 1.8 * point], axis=1), kept])
    crowded = np.argsort(-np.exp(-cdist(spots, spots) / (12 * point)).sum(axis=1), kind="stable")
    texts = [axes.text(0, 0, name, fontsize=SMALL, ha="center", va="center", transform=None) for name in names]
    inside = np.array(axes.get_window_extent().extents)
    to_data = axes.transData.inverted()
    for number in crowded:
        size = texts[number].get_window_extent()
        half = np.array([size.width, size.height]) / 2
        spot = spots[number]
        centre = _free(spot, half, taken, inside, point)
        own = np.concatenate([centre - half - 0.3 * point, centre + half + 0.3 * point])
        taken = np.concatenate([taken, own[None]])
        texts[number].set_transform(axes.transData)
        texts[number].set_position(tuple(to_data.transform(centre)))
        edge = np.clip(spot, centre - half, centre + half)
        if np.linalg.norm(edge - spot) > _FAR * point:
            ends = to_data.transform([spot, edge])
            axes.plot(*ends.T, color=GREY, linewidth=0.4, zorder=1.8, label="_leader")
    return texts


def _free(
    spot: Float[np.ndarray, " xy"],
    half: Float[np.ndarray, " xy"],
    taken: Float[np.ndarray, "box edge"],
    inside: Float[np.ndarray, " edge"],
    point: float,
) -> Float[np.ndarray, " xy"]:
    """The first centre, in rings about the point, whose box is inside and covers nothing; else the one that covers least."""
    ways = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    centres = (spot + _RADII[:, None, None] * point * ways + np.sign(np.round(ways, 3)) * half).reshape(-1, 2)
    low, high = centres - half, centres + half
    shared = np.minimum(high[:, None], taken[:, 2:]) - np.maximum(low[:, None], taken[:, :2])
    covered = np.prod(np.maximum(shared, 0), axis=2).sum(axis=1)
    covered[((low < inside[:2]) | (high > inside[2:])).any(axis=1)] = np.inf
    return centres[covered.argmin()] if np.isfinite(covered).any() else spot
