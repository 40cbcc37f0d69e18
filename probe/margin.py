"""Margin scores (Artetxe & Schwenk 2019) and the MEXA score (Kargaran et al. 2025) from nearest neighbours. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

MARGINS = ("ratio", "distance", "absolute")


@dataclass(frozen=True)
class Neighbours:
    """The k nearest targets of each row by cosine, nearest first."""

    cosines: Float[np.ndarray, "row k"]
    indices: Int[np.ndarray, "row k"]


@dataclass(frozen=True)
class Retrieved:
    """What one direction retrieves."""

    targets: Int[np.ndarray, " row"]
    """The target row that wins for each source row."""
    nonpositive: int
    """Candidates whose ratio has a denominator of zero or less, where a ratio means little; 0 for other margins."""


def retrieve_rows(forward: Neighbours, backward: Neighbours, margin: str, k: int) -> Retrieved:
    """The xSIM rule of LASER: rescore the k forward neighbours of x, the best wins, the first on ties.

    With mean_k(x) the mean cosine of x to its k nearest targets and mean_k(y) that of y to its k nearest sources, the
    score is `cos / ((mean_k(x) + mean_k(y)) / 2)` for `ratio` and the difference for `distance`; `absolute` is the cosine.

    Args:
        forward: at least k neighbours of the sources among the targets.
        backward: at least k neighbours of the targets among the sources.
    """
    indices = forward.indices[:, :k]
    if margin == "absolute":
        return Retrieved(indices[:, 0], 0)
    cosines = forward.cosines[:, :k]
    source_mean = cosines.mean(axis=1)  # (row,)
    target_mean = backward.cosines[:, :k].mean(axis=1)  # (target,)
    middle = (source_mean[:, None] + target_mean[indices]) / 2  # (row, k)
    nonpositive = 0
    if margin == "ratio":
        nonpositive = int((middle <= 0).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.nan_to_num(cosines / middle, nan=-np.inf)  # 0 / 0 must not win
    else:
        scores = cosines - middle
    best = scores.argmax(axis=1)
    return Retrieved(indices[np.arange(len(indices)), best], nonpositive)


def mexa_rows(forward: Neighbours, backward: Neighbours) -> Bool[np.ndarray, " row"]:
    """Rows whose own cosine is strictly the largest in both its row and its column of the similarity matrix.

    Args:
        forward, backward: at least two neighbours each, which is enough to tell a strict maximum.
    """
    return _strictly_first(forward) & _strictly_first(backward)


def _strictly_first(neighbours: Neighbours) -> np.ndarray:
    own = neighbours.indices[:, 0] == np.arange(len(neighbours.indices))
    # The step is below float32's resolution of a cosine, and above the slope by which the length control orders ties.
    return own & (neighbours.cosines[:, 0] > neighbours.cosines[:, 1] + 1e-9)
