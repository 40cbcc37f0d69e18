"""BLEU and chrF as sacreBLEU computes them (Post 2018; Popović 2015), with their values in every draw of a bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from probe.errors import AlignError

_TOKENISERS = {"jpn_Jpan": "ja-mecab", "kor_Hang": "ko-mecab", "zho_Hans": "zh", "zho_Hant": "zh", "yue_Hant": "zh"}
"""Of languages that are written without blanks between words, or (Korean) with long ones; 13a for all others."""


@dataclass(frozen=True)
class Measured:
    """A metric of one direction."""

    value: float
    """Percent."""
    draws: Float64[np.ndarray, " draw"] = field(repr=False)
    """Percent, of every draw."""
    signature: str
    """What a reader needs to compute it again."""


def bleu_and_chrf(
    target: str, hypotheses: Sequence[str], references: Sequence[str], weights: Int64[np.ndarray, "draw segment"]
) -> dict[str, Measured]:
    """Corpus scores, equal to those of sacreBLEU's command line on the same lines.

    Both metrics are functions of sums over segments (n-gram counts and lengths), so that a draw needs no more than the sum of
    the segments drawn.

    Args:
        target: FLORES-200 code, which decides BLEU's tokeniser: ja-mecab, ko-mecab, zh or 13a.
        weights: how often each segment was drawn.

    Returns:
        `bleu` and `chrf`.

    Raises:
        AlignError: a tokeniser whose dictionary is not installed.
    """
    return {name: _measured(metric, hypotheses, references, weights) for name, metric in _metrics(target).items()}


def check_tokeniser(target: str) -> None:
    """Raises:
    AlignError: the tokeniser of a language is not installed.
    """
    _metrics(target)


def _metrics(target: str) -> dict[str, Metric]:
    tokeniser = _TOKENISERS.get(target, "13a")
    try:
        # force: keeps a warning about tokenised hypotheses back, no number depends on it
        return {"bleu": BLEU(tokenize=tokeniser, force=True), "chrf": CHRF()}
    except (RuntimeError, ImportError) as error:
        raise AlignError(
            f"BLEU's tokeniser {tokeniser} for {target} is not installed ({' '.join(str(error).split())[:120]})",
            "MeCab and its dictionary",
            f'run pip install "sacrebleu[{tokeniser[:2]}]"',
        ) from None


def _measured(metric: Metric, hypotheses: Sequence[str], references: Sequence[str], weights: np.ndarray) -> Measured:
    segments = np.array(metric._extract_corpus_statistics(hypotheses, [references]), dtype=np.int64)
    value, *draws = (
        float(metric._compute_score_from_stats(sums).score)
        for sums in [segments.sum(axis=0).tolist(), *(weights @ segments).tolist()]
    )
    return Measured(value, np.array(draws), str(metric.get_signature()))
