"""How two quantities go together over languages: correlation, its uncertainty, and what is left of it given others.

Pure functions of arrays. `x` holds one column a layer, so that one draw of languages serves all layers; `y` is the score.
"""

from __future__ import annotations

from itertools import permutations as orders
from math import factorial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

EXACT_LIMIT = 8
"""Largest number of languages all of whose orders are enumerated: 8! = 40,320."""
CONFIDENCE = 0.95
"""Coverage of every interval that is reported, whatever its kind."""

_TIE = 1e-9
"""Correlations nearer than this are the same one: rounding moves them by far less. A correlation has no unit."""
_NO_VARIANCE = 1e-12
"""Share of the whole sample's variance under which a resample counts as constant."""
_BLOCK = 50_000
"""Permutations at once, which bounds memory."""


class Permuted(NamedTuple):
    """What reordering the scores gives."""

    p: Float[np.ndarray, " layer"]
    """Two-sided p of each layer; NaN where its accuracies are constant."""
    max_p: Float[np.ndarray, " layer"]
    """The same against the largest |r| of all layers."""
    permutations: int
    exact: bool
    """Whether all orders were enumerated."""


class Resampled(NamedTuple):
    """Bootstrap intervals over languages."""

    low: Float[np.ndarray, " layer"]
    high: Float[np.ndarray, " layer"]
    """NaN where leaving out some one language makes the correlation undefined."""
    undefined: np.ndarray
    """(layer,) int: resamples with a constant side, left out."""


class Partial(NamedTuple):
    """A correlation given controls."""

    r: float
    """NaN where the controls are constant or collinear, or explain one side wholly."""
    df: int
    p: float


class Band(NamedTuple):
    """A regression line with the confidence band of its mean."""

    fit: Float[np.ndarray, " point"]
    low: Float[np.ndarray, " point"]
    high: Float[np.ndarray, " point"]


def constant(values: Float[np.ndarray, " language *layer"]) -> Bool[np.ndarray, "*layer"]:
    """Whether all languages have one value, rounding aside: then a correlation is undefined."""
    return np.asarray(np.ptp(values, axis=0) <= 1e-10 * np.abs(values).max(axis=0))


def fisher_interval(r: float, n: int) -> tuple[float, float]:
    """95 % interval of a Pearson r by Fisher's z (Fisher 1921): tanh(atanh r -+ 1.96 / sqrt(n - 3)).

    Raises:
        ValueError: fewer than 4 languages.
    """
    if n < 4:
        raise ValueError(f"Fisher's interval of {n} pairs: it needs 4")
    with np.errstate(divide="ignore"):  # r = 1 has the interval [1, 1]
        centre = np.arctanh(np.clip(r, -1, 1))
    half = stats.norm.ppf((1 + CONFIDENCE) / 2) / np.sqrt(n - 3)
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def permutation_test(
    x: Float[np.ndarray, "language layer"],
    y: Float[np.ndarray, " language"],
    permutations: int,
    generator: np.random.Generator,
) -> Permuted:
    """Two-sided permutation test of each column's Pearson r with y, and of all columns by the largest |r|.

    Each permutation of y serves all columns, so the single-step adjusted p keeps their dependence (Westfall & Young 1993;
    Nichols & Holmes 2002). Up to 8 languages all n! orders are counted, p = b / n!; above, m random ones,
    p = (b + 1) / (m + 1) (Phipson & Smyth 2010). Equal |r| count as reached, rounding aside.
    """
    n = len(y)
    exact = n <= EXACT_LIMIT
    count = factorial(n) if exact else permutations
    sides, scores = _unit(x), _unit(y[:, None])[:, 0]
    observed = np.abs(scores @ sides)
    reached, reached_by_largest = np.zeros(len(observed), int), np.zeros(len(observed), int)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        order = (
            np.array(list(orders(range(n)))) if exact else generator.permuted(np.tile(np.arange(n), (size, 1)), axis=1)
        )
        drawn = np.abs(scores[order] @ sides)
        reached += (drawn >= observed - _TIE).sum(axis=0)
        reached_by_largest += (drawn.max(axis=1)[:, None] >= observed - _TIE).sum(axis=0)
    extra = 0 if exact else 1
    undefined = constant(x)
    p, max_p = (np.where(undefined, np.nan, (b + extra) / (count + extra)) for b in (reached, reached_by_largest))
    return Permuted(p, max_p, count, exact)


def bca_intervals(
    x: Float[np.ndarray, "language layer"],
    y: Float[np.ndarray, " language"],
    draws: int,
    generator: np.random.Generator,
) -> Resampled:
    """95 % BCa bootstrap intervals (Efron 1987) of each column's Pearson r with y, languages resampled as pairs.

    Each resample serves all columns. One with a constant side has no r: it is counted and left out. The acceleration comes
    from the jackknife over languages; it is 0 where all jackknife values agree (r = 1).
    """
    n = len(y)
    drawn = generator.integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
    times = np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n).astype(float)
    resampled = weighted_correlation(times, x, y)
    jackknife = weighted_correlation(1 - np.eye(n), x, y)
    observed = weighted_correlation(np.ones((1, n)), x, y)[0]
    limits = [_bca(*columns) for columns in zip(observed, resampled.T, jackknife.T, strict=True)]
    low, high = np.array(limits, dtype=float).reshape(-1, 2).T
    return Resampled(low, high, np.isnan(resampled).sum(axis=0))


def _bca(observed: float, resampled: np.ndarray, jackknife: np.ndarray) -> tuple[float, float]:
    """Efron & Tibshirani (1993), section 14.3; the share below the estimate counts ties half."""
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(observed) or np.isnan(jackknife).any() or not resampled.size:
        return np.nan, np.nan
    below = ((resampled < observed - _TIE).mean() + (resampled <= observed + _TIE).mean()) / 2
    away = jackknife.mean() - jackknife
    spread = (away**2).sum()
    acceleration = (away**3).sum() / (6 * spread**1.5) if spread > _TIE**2 else 0.0
    bias = stats.norm.ppf(below)
    if not np.isfinite(bias):  # every resample is on one side of the estimate
        return np.nan, np.nan
    z = bias + stats.norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(resampled, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def weighted_correlation(
    weights: Float[np.ndarray, "draw language"],
    x: Float[np.ndarray, "language layer"],
    y: Float[np.ndarray, " language"],
) -> Float[np.ndarray, "draw layer"]:
    """Pearson r of each column of x with y, each language counted as often as its weight; NaN where a side is constant."""
    total = weights.sum(axis=1, keepdims=True)
    u, v = (_unit(side) * np.sqrt(len(y)) for side in (x, y[:, None]))  # of variance 1: one pass loses no digits
    mean_u, mean_v = weights @ u / total, weights @ v / total
    variance_u, variance_v = weights @ u**2 / total - mean_u**2, weights @ v**2 / total - mean_v**2
    covariance = weights @ (u * v) / total - mean_u * mean_v
    defined = (variance_u > _NO_VARIANCE) & (variance_v > _NO_VARIANCE)
    r = covariance / np.sqrt(np.where(defined, variance_u * variance_v, 1))
    return np.where(defined, np.clip(r, -1, 1), np.nan)


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """p-values adjusted by Holm's (1979) step-down procedure; a NaN is no test and stays NaN."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def partial_correlation(
    x: Float[np.ndarray, " language"],
    y: Float[np.ndarray, " language"],
    controls: Float[np.ndarray, "language control"],
) -> Partial:
    """Pearson r of what linear regression on the controls leaves of x and of y.

    Two-sided p of t = r sqrt(df / (1 - r^2)) with df = n - 2 - k (Fisher 1924; Anderson 2003, section 4.3).
    """
    n, k = controls.shape
    df = n - 2 - k
    design = np.column_stack([np.ones(n), _unit(controls)])
    if df < 1 or np.linalg.matrix_rank(design, tol=1e-8) <= k:
        return Partial(np.nan, df, np.nan)
    sides = _unit(np.column_stack([x, y]))
    left = sides - design @ np.linalg.lstsq(design, sides, rcond=None)[0]
    if ((left**2).sum(axis=0) < _NO_VARIANCE).any():
        return Partial(np.nan, df, np.nan)
    r = float(np.clip(stats.pearsonr(left[:, 0], left[:, 1]).statistic, -1, 1))
    with np.errstate(divide="ignore"):  # r = 1 has t = inf and p = 0
        t = np.abs(r) * np.sqrt(df / np.float64(1 - r**2))
    return Partial(r, df, float(2 * stats.t.sf(t, df)))


def regression_band(
    x: Float[np.ndarray, " language"], y: Float[np.ndarray, " language"], at: Float[np.ndarray, " point"]
) -> Band:
    """Least-squares line of y on x at some x values, with the 95 % confidence band of the mean response.

    fit -+ t(n - 2) s sqrt(1 / n + (x - mean)^2 / Sxx), s^2 the residual variance (Draper & Smith 1998).
    """
    line = stats.linregress(x, y)
    fit = line.intercept + line.slope * at
    residual = y - line.intercept - line.slope * x
    error = np.sqrt((residual**2).sum() / (len(x) - 2))
    reach = np.sqrt(1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * error * reach
    return Band(fit, fit - half, fit + half)


def _unit(columns: Float[np.ndarray, "language column"]) -> Float[np.ndarray, "language column"]:
    """Columns of mean 0 and length 1; a constant one becomes 0."""
    centred = np.where(constant(columns), 0.0, columns - columns.mean(axis=0))
    lengths = np.linalg.norm(centred, axis=0)
    return centred / np.where(lengths > 0, lengths, 1)
