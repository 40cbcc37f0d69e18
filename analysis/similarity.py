"""How alike two sets of vectors are and how one set is spread: pure functions of arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.stats import skew


class Cosines(NamedTuple):
    """Cosines of the sentences of two languages, summed up."""

    true: float
    """Mean over translations."""
    other: float
    """Mean over all pairs that are no translations."""
    deviation: float
    """Sample standard deviation (ddof = 1) of the latter."""

    @property
    def gap(self) -> float:
        return self.true - self.other

    @property
    def separation(self) -> float:
        """The gap in standard deviations of the other pairs (Glass's delta); NaN where these vary by float32's rounding only."""
        return self.gap / self.deviation if self.deviation > 1e-6 else np.nan


def cosines_of_pairs(cosines: Float[np.ndarray, "row row"]) -> Cosines:
    """Translations against all other pairs of sentences.

    1 - true is half the alignment loss of Wang & Isola, 2020 ("Understanding contrastive representation learning through
    alignment and uniformity on the hypersphere"). It means little without the cosine of unrelated sentences, which is high
    wherever vectors lie in a narrow cone (Ethayarajh, 2019); the gap in their standard deviations is Glass's delta (Glass,
    1976, "Primary, secondary, and meta-analysis of research").

    Args:
        cosines: of every sentence of one language with every sentence of the other, translations on the diagonal.
    """
    own = np.diagonal(cosines).astype(np.float64)
    count = cosines.size - own.size
    other = (cosines.sum(dtype=np.float64) - own.sum()) / count
    # Around the mean: in a narrow cone the squares are near 1, and their sum would swallow a deviation of 0.001.
    around = cosines - cosines.dtype.type(other)
    squares = np.einsum("ij,ij->", around, around, dtype=np.float64) - ((own - other) ** 2).sum()
    return Cosines(float(own.mean()), float(other), float(np.sqrt(max(squares, 0.0) / (count - 1))))


def mean_self_cosine(units: Float[np.ndarray, "row dim"]) -> float:
    """Mean cosine of two different sentences of one language: its anisotropy.

    0 where directions are spread evenly, near 1 where all vectors lie in a narrow cone (Ethayarajh, 2019, "How contextual are
    contextualized word representations?"; here of all pairs in place of a sample).

    Args:
        units: rows of length 1.
    """
    total, count = units.sum(axis=0, dtype=np.float64), len(units)
    own = np.einsum("ij,ij->", units, units, dtype=np.float64)
    return float((total @ total - own) / (count * (count - 1)))


def gram_matrix(centred: Float[np.ndarray, "row dim"]) -> Float64[np.ndarray, "row row"]:
    """Inner products of all rows, scaled so that their trace is 1; zeros where all rows are.

    The scale keeps any range of numbers within float32, in which the product is taken; no measure here depends on it.
    """
    peak = float(np.abs(centred).max(initial=0.0))
    if peak == 0:
        return np.zeros((len(centred), len(centred)))
    scaled = centred / peak
    scaled /= np.linalg.norm(scaled)
    single = scaled.astype(np.float32)
    return (single @ single.T).astype(np.float64)


def participation_ratio(gram: Float[np.ndarray, "row row"]) -> float:
    """Effective number of dimensions in which one language's vectors vary, from 1 to min(rows - 1, dim).

    The squared sum of the covariance's eigenvalues over the sum of their squares: d where d dimensions have equal variance, 1
    where one has all (Gao et al., 2017, "A theory of multineuronal dimensionality, dynamics and measurement"). The Gram
    matrix of centred rows has the same eigenvalues, up to scale, so that none need be computed.

    Args:
        gram: inner products of centred rows.

    Returns:
        NaN where all rows are equal.
    """
    squares = float(np.vdot(gram, gram))
    return float(np.trace(gram)) ** 2 / squares if squares > 0 else np.nan


def u_centred(gram: Float[np.ndarray, "row row"]) -> Float64[np.ndarray, "row row"]:
    """A Gram matrix without its diagonal, U-centred (Szekely & Rizzo, 2014, "Partial distance correlation with methods for
    dissimilarities"), so that the inner product of two is n (n - 3) times the unbiased HSIC."""
    count = len(gram)
    hollow = gram.astype(np.float64)
    np.fill_diagonal(hollow, 0)
    sums = hollow.sum(axis=0)
    margin = (sums - sums.sum() / (2 * (count - 1))) / (count - 2)
    hollow -= margin[:, None]
    hollow -= margin[None, :]
    np.fill_diagonal(hollow, 0)
    return hollow


def debiased_cka(a: Float[np.ndarray, "row row"], b: Float[np.ndarray, "row row"]) -> float:
    """Linear centred kernel alignment of two languages: 1 where one is the other rotated and scaled, about 0 where unrelated.

    CKA (Kornblith et al., 2019, "Similarity of neural network representations revisited") with the unbiased HSIC of Song et
    al., 2012 ("Feature selection via dependence maximization", HSIC_1) in numerator and denominator (Nguyen et al., 2021,
    "Do wide and deep networks learn the same things?"; Murphy et al., 2024, "Correcting biased centered kernel alignment
    measures in biological and artificial neural networks"). The biased one is about dim / (dim + rows) for pure noise: 0.8 at
    4096 dimensions and 997 sentences. This one may fall a little below 0.

    Args:
        a, b: Gram matrices after `u_centred`, of the same sentences.

    Returns:
        NaN where all rows of a language are equal.
    """
    own = float(np.vdot(a, a)) * float(np.vdot(b, b))
    return float(np.vdot(a, b)) / own**0.5 if own > 0 else np.nan


_TIE = 1e-6
"""Cosines nearer than this are equal: by so much float32 products of repeated rows differ with their place in a matrix."""


def occurrences(cosines: Float[np.ndarray, "source target"], k: int) -> Int[np.ndarray, " target"]:
    """How many sources have each target among their k nearest: its k-occurrence N_k. Ties with the kth count, too."""
    least = np.partition(cosines, -k, axis=1)[:, -k, None]
    return np.count_nonzero(cosines >= least - _TIE, axis=0)


def hubness_skewness(counts: Int[np.ndarray, " target"]) -> float:
    """Skewness of the k-occurrence: 0 where all targets are neighbours about equally often, high where a few hubs are
    neighbours of very many sources (Radovanovic et al., 2010, "Hubs in space"). 0 also where all counts are equal.
    """
    return 0.0 if (counts == counts[0]).all() else float(skew(counts))


def antihub_share(counts: Int[np.ndarray, " target"]) -> float:
    """Share of targets that are no source's neighbour (antihubs; Radovanovic et al., 2010)."""
    return float(np.mean(counts == 0))
