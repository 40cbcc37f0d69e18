"""Model-free retrievals over the same sentences and the same xSIM: what surface form alone gives.

A layer's accuracy means something only beside them: between related languages in one script, shared character n-grams
alone find most sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from probe.knn import Pair, search_pairs

CONTROLS = ("char", "length")

_FEATURES = 2**18
"""Hash buckets of the n-grams: enough that collisions do not move the result."""


def control_pairs(name: str, texts: Sequence[Sequence[str]], k: int) -> Iterator[Pair]:
    """Neighbours between all pairs of languages by a control similarity.

    Args:
        name: `char` or `length`.
        texts: the sentences of each language, parallel.
    """
    return search_pairs(len(texts), _SIMILARITIES[name](texts), k)


def _char_similarity(texts: Sequence[Sequence[str]]) -> Callable[[int, int], torch.Tensor]:
    """Cosine of hashed character 2-4-gram TF-IDF vectors, lower-cased, idf counted in each language by itself."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    hashing = HashingVectorizer(
        analyzer="char", ngram_range=(2, 4), n_features=_FEATURES, alternate_sign=False, norm=None, dtype=np.float32
    )
    vectors = [TfidfTransformer().fit_transform(hashing.transform(sentences)) for sentences in texts]
    return lambda a, b: torch.from_numpy((vectors[a] @ vectors[b].T).toarray())


def _length_similarity(texts: Sequence[Sequence[str]]) -> Callable[[int, int], torch.Tensor]:
    """Shorter / longer of two sentences' lengths in characters, each divided by its language's mean length.

    Relative lengths, because scripts differ in density; the ratio keeps the similarity in 0..1, as a cosine's upper half.
    """
    lengths = [torch.tensor([len(sentence) for sentence in sentences], dtype=torch.float64) for sentences in texts]
    relative = [values / values.mean() for values in lengths]

    def similarity(a: int, b: int) -> torch.Tensor:
        x, y = relative[a][:, None], relative[b][None, :]
        # Equal lengths abound. A slope too small to reorder others lets the first of them win in both directions.
        order = torch.arange(len(x), dtype=torch.float64)
        return torch.minimum(x, y) / torch.maximum(x, y) - 1e-13 * (order[:, None] + order[None, :])

    return similarity


_SIMILARITIES = {"char": _char_similarity, "length": _length_similarity}
